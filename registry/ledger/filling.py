"""Load a data set into the ledger: the rows that are current there become those of the set."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from registry.forecast import names
from registry.ledger import instants, loads
from registry.ledger.bulk import INSTANT
from registry.ledger.loads import Loading
from registry.ledger.observations import (
    MARKET,
    OBSERVED,
    PRICES,
    daily_returns,
    market_daily,
    prices,
    symbols,
)
from registry.ledger.recording import Counts, Timing, observe, withdraw

Counted = dict[str, Counts]  # by table
TOGETHER = 20  # symbols of a transaction that ends or removes them: it takes less than a second


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

    Each batch is a transaction. Raises Conflict if another process loads the data set, or takes
    this load over because its process seemed dead, or the calendar is another one than before.
    """
    counted = {table.name: Counts() for table in OBSERVED}
    rows = dict.fromkeys(counted, 0)
    with loads.loading(engine, content.data, content.digest, content.calendar) as loading:
        work = _Work(engine, content, loading)
        ids = _put_symbols(work)
        done = 0
        for batch in content.rows:
            numbers = _numbers(batch, ids)
            _count(counted, _put_rows(work, batch, numbers))
            rows[daily_returns.name] += batch.num_rows
            rows[prices.name] += batch.num_rows if _has_prices(batch) else 0
            done += len(numbers.dictionary)
            progress(done / len(content.symbols))
        _count(counted, _withdraw_others(work, ids))
        _count(counted, _put_market(work))
        loading.complete(rows | {market_daily.name: content.market.num_rows})
    return counted


@dataclass(frozen=True)
class _Work:
    """A load under way."""

    engine: sa.Engine
    content: Content
    loading: Loading

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """A transaction that is completed only if the load is still this process's."""
        return self.loading.transaction(self.engine)

    @property
    def timing(self) -> Timing:
        before = self.loading.before
        return Timing(self.loading.load.known_from, before.known_from if before else None)

    def closes(self, rows: pa.Table) -> pa.Array:
        """When the session of each row closed."""
        days = rows.column(names.DS).to_numpy().astype("datetime64[D]")
        return pa.array(instants.closes_of(self.content.calendar, days)).cast(INSTANT)


def _count(counted: Counted, more: Mapping[str, Counts]) -> None:
    for name, counts in more.items():
        counted[name] += counts


def _put_symbols(work: _Work) -> dict[str, int]:
    """Write what is known of the symbols; the id of each one that the data set ever had."""
    content = work.content
    of_set = symbols.c.data == content.data
    shared = {"data": content.data, "calendar": content.calendar, "currency": content.currency}
    rows = [shared | asdict(symbol) for symbol in content.symbols]
    with work.transaction() as connection:
        known = set(connection.scalars(sa.select(symbols.c.symbol).where(of_set)))
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


def _put_rows(work: _Work, rows: pa.Table, numbers: pa.DictionaryArray) -> Counted:
    """Write the returns and prices of some symbols in one transaction."""
    keyed = pa.table({"symbol_id": numbers.dictionary_decode(), names.DS: rows.column(names.DS)})
    returns = keyed.append_column(names.Y, rows.column(names.Y))
    ids = numbers.dictionary.to_pylist()
    of_returns, of_prices = daily_returns.c.symbol_id.in_(ids), prices.c.symbol_id.in_(ids)
    closes, timing = work.closes(rows), work.timing
    with work.transaction() as connection:
        written = observe(connection, daily_returns, of_returns, returns, closes, timing)
        if _has_prices(rows):
            bars = _with(PRICES, keyed, rows)
            priced = observe(connection, prices, of_prices, bars, closes, timing)
        else:
            priced = withdraw(connection, prices, of_prices, timing)
    return {daily_returns.name: written, prices.name: priced}


def _has_prices(rows: pa.Table) -> bool:
    return bool(set(PRICES) & set(rows.column_names))


def _with(columns: Sequence[str], keyed: pa.Table, rows: pa.Table) -> pa.Table:
    """`keyed` with these columns of `rows`; those that the data set lacks are empty."""
    for name in columns:
        given = name in rows.column_names
        values = rows.column(name) if given else pa.nulls(len(rows), pa.float64())
        keyed = keyed.append_column(name, values)
    return keyed


def _withdraw_others(work: _Work, ids: Mapping[str, int]) -> Counted:
    """End the rows of symbols that the data set no longer has."""
    kept = {symbol.symbol for symbol in work.content.symbols}
    gone = [number for name, number in ids.items() if name not in kept]
    counted = {daily_returns.name: Counts(), prices.name: Counts()}
    for start in range(0, len(gone), TOGETHER):
        some = gone[start : start + TOGETHER]
        with work.transaction() as connection:
            for table in (daily_returns, prices):
                of_some = table.c.symbol_id.in_(some)
                _count(counted, {table.name: withdraw(connection, table, of_some, work.timing)})
    return counted


def _put_market(work: _Work) -> Counted:
    """Write the market columns over the universe, and end those over others."""
    content, c = work.content, market_daily.c
    rows = content.market.select([names.DS])
    for name, value in (("data", content.data), ("universe", content.universe)):
        rows = rows.append_column(name, pa.repeat(value, len(rows)))
    rows = _with(MARKET, rows, content.market)
    of_set = c.data == content.data
    with work.transaction() as connection:
        others = of_set & (c.universe != content.universe)
        counts = withdraw(connection, market_daily, others, work.timing)
        of_universe = of_set & (c.universe == content.universe)
        closes = work.closes(rows)
        counts += observe(connection, market_daily, of_universe, rows, closes, work.timing)
    return {market_daily.name: counts}
