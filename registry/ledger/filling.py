"""Load a data set into the ledger: the rows that are current there become those of the set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.forecast import names
from registry.ledger import database, instants, loads
from registry.ledger.bulk import INSTANT
from registry.ledger.loads import Load
from registry.ledger.observations import PRICES, daily_returns, market_daily, prices, symbols
from registry.ledger.recording import Counts, observe, withdraw

Counted = dict[str, Counts]  # by table


@dataclass(frozen=True)
class Symbol:
    """What is known of a symbol of a data set."""

    symbol: str
    listed_from: date  # first and last session with a return
    listed_to: date
    isin: str | None = None
    name: str | None = None
    sector: str | None = None


@dataclass(frozen=True)
class Content:
    """A data set to load. `rows` are Arrow tables of whole symbols, in ascending order.

    Their columns are unique_id, ds (date32), y and those of PRICES that the set has, sorted by
    (unique_id, ds). `market` has ds and the market columns, sorted by ds.
    """

    data: str
    digest: str
    calendar: str
    universe: str  # its name and digest
    symbols: Sequence[Symbol]
    rows: Iterable[pa.Table]
    market: pa.Table
    currency: str | None = None


def fill(
    engine: sa.Engine, content: Content, progress: Callable[[float], None] = lambda _: None
) -> Counted:
    """Load a data set; what was done to each table. `progress` gets the share (0..1) done.

    Each batch is a transaction. Raises Conflict while another process loads the data set.
    """
    with loads.loading(engine, content.data, content.digest) as load:
        ids = _put_symbols(engine, content)
        counted: Counted = {}
        done = 0
        for rows in content.rows:
            numbers = _numbers(rows, ids)
            _count(counted, _put_rows(engine, content, rows, numbers, load))
            done += len(numbers.dictionary)
            progress(done / len(content.symbols))
        _count(counted, _withdraw_others(engine, content, ids, load))
        _count(counted, _put_market(engine, content, load))
    return counted


def _count(counted: Counted, more: Mapping[str, Counts]) -> None:
    for name, counts in more.items():
        counted[name] = counted.get(name, Counts()) + counts


def _put_symbols(engine: sa.Engine, content: Content) -> dict[str, int]:
    """Write what is known of the symbols; the id of each one that the data set ever had."""
    of_set = symbols.c.data == content.data
    shared = {"data": content.data, "calendar": content.calendar, "currency": content.currency}
    with database.write(engine) as connection:
        known = set(connection.scalars(sa.select(symbols.c.symbol).where(of_set)))
        rows = [shared | asdict(symbol) for symbol in content.symbols]
        if new := [row for row in rows if row["symbol"] not in known]:
            connection.execute(sa.insert(symbols), new)
        if old := [row for row in rows if row["symbol"] in known]:
            _update_symbols(connection, old)
        pairs = connection.execute(sa.select(symbols.c.symbol, symbols.c.id).where(of_set))
        return {row.symbol: row.id for row in pairs}


def _update_symbols(connection: sa.Connection, rows: Sequence[Mapping[str, object]]) -> None:
    key = ("data", "symbol")
    same = [symbols.c[name] == sa.bindparam(f"_{name}") for name in key]
    changed = [name for name in rows[0] if name not in key]
    statement = (
        sa.update(symbols).where(*same).values({name: sa.bindparam(name) for name in changed})
    )
    given = [{f"_{name}" if name in key else name: row[name] for name in row} for row in rows]
    connection.execute(statement, given)


def _numbers(rows: pa.Table, ids: Mapping[str, int]) -> pa.DictionaryArray:
    """The id of each row's symbol."""
    encoded = pc.dictionary_encode(rows.column(names.UNIQUE_ID).combine_chunks())
    numbers = pa.array([ids[name] for name in encoded.dictionary.to_pylist()], pa.int64())
    return pa.DictionaryArray.from_arrays(encoded.indices, numbers)


def _put_rows(
    engine: sa.Engine, content: Content, rows: pa.Table, numbers: pa.DictionaryArray, load: Load
) -> Counted:
    """Write the returns and prices of some symbols in one transaction."""
    keyed = pa.table({"symbol_id": numbers.dictionary_decode(), names.DS: rows.column(names.DS)})
    returns = keyed.append_column(names.Y, rows.column(names.Y))
    closes = _closes(content.calendar, rows)
    at = load.known_from
    with database.write(engine) as connection:
        of_returns = daily_returns.c.symbol_id.in_(numbers.dictionary.to_pylist())
        done = {
            daily_returns.name: observe(connection, daily_returns, of_returns, returns, closes, at)
        }
        of_prices = prices.c.symbol_id.in_(numbers.dictionary.to_pylist())
        if set(PRICES) & set(rows.column_names):
            bars = _with_prices(keyed, rows)
            done[prices.name] = observe(connection, prices, of_prices, bars, closes, at)
        else:
            done[prices.name] = withdraw(connection, prices, of_prices, at)
    return done


def _with_prices(keyed: pa.Table, rows: pa.Table) -> pa.Table:
    """All columns of prices; those that the data set lacks are empty."""
    for name in PRICES:
        given = name in rows.column_names
        values = rows.column(name) if given else pa.nulls(len(rows), pa.float64())
        keyed = keyed.append_column(name, values)
    return keyed


def _withdraw_others(
    engine: sa.Engine, content: Content, ids: Mapping[str, int], load: Load
) -> Counted:
    """End the rows of symbols that the data set no longer has."""
    kept = {symbol.symbol for symbol in content.symbols}
    counted: Counted = {}
    for number in (number for name, number in ids.items() if name not in kept):
        with database.write(engine) as connection:
            for table in (daily_returns, prices):
                done = withdraw(connection, table, table.c.symbol_id == number, load.known_from)
                _count(counted, {table.name: done})
    return counted


def _put_market(engine: sa.Engine, content: Content, load: Load) -> Counted:
    """Write the market columns over the universe, and end those over others."""
    c = market_daily.c
    of_set, at = c.data == content.data, load.known_from
    with database.write(engine) as connection:
        counts = withdraw(connection, market_daily, of_set & (c.universe != content.universe), at)
        rows = content.market
        for name, value in (("data", content.data), ("universe", content.universe)):
            rows = rows.append_column(name, pa.repeat(value, len(rows)))
        of_universe = of_set & (c.universe == content.universe)
        closes = _closes(content.calendar, rows)
        counts += observe(connection, market_daily, of_universe, rows, closes, at)
    return {market_daily.name: counts}


def _closes(calendar: str, rows: pa.Table) -> pa.Array:
    days = rows.column(names.DS).to_numpy().astype("datetime64[D]")
    return pa.array(instants.closes_of(calendar, days)).cast(INSTANT)
