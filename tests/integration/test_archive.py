"""The ledger's data sets on SQLite and PostgreSQL: what was known when, and nothing later."""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from registry.errors import BadParameter, Conflict, NotFound
from registry.ledger import database, faults, loads, observations, removal
from registry.ledger.archive import COLUMNS, Archive, Known
from registry.ledger.filling import Content, Symbol, fill
from registry.settings import CHECKOUT, Settings

CALENDAR = "24/7"
TODAY = datetime.now(UTC).date()  # a session that closes in the future
DAYS = [date(2024, 1, 1) + timedelta(days=n) for n in range(6)] + [TODAY]
SYMBOLS = ("A", "B", "NA", "é %")
MICROSECOND = timedelta(microseconds=1)
Key = tuple[str, date]
Rows = Mapping[Key, tuple[float, float]]  # y, close


@pytest.fixture
def archive(ledger_uri: str, tmp_path: Path) -> Iterator[Archive]:
    """An empty ledger."""
    with Archive(Settings(var_dir=tmp_path, ledger_uri=ledger_uri)) as archive:
        yield archive


def frame_of(rows: Rows) -> pd.DataFrame:
    """unique_id, ds (date), y, close; sorted."""
    values = [(*key, *rows[key]) for key in sorted(rows)]
    return pd.DataFrame(values, columns=["unique_id", "ds", "y", "close"])


def content(rows: Rows, universe: str = "u@1", data: str = "mine") -> Content:
    """A data set of these rows, with a market over all symbols. Batches are of one symbol."""
    frame = frame_of(rows)
    groups = list(frame.groupby("unique_id"))
    symbols = [Symbol(str(name), part["ds"].min(), part["ds"].max()) for name, part in groups]
    market = frame.groupby("ds")["y"].mean().reset_index()
    for name in ("market_abs_return", "index_return", "market_members"):
        market[name] = market["y"]
    return Content(
        data=data,
        digest=str(sorted(rows.items())),
        calendar=CALENDAR,
        universe=universe,
        symbols=symbols,
        rows=[table(part) for _, part in groups],
        market=table(market.drop(columns="y")),
    )


def table(frame: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(frame, preserve_index=False)


class Remembered:
    """What the ledger has to know, in memory: for each key its values with their instants."""

    def __init__(self) -> None:
        self.versions: dict[Key, list[list[Any]]] = {}  # [from, until, values]
        self.before: datetime | None = None  # the load before

    def load(self, rows: Rows, at: datetime) -> None:
        for key in {*rows, *self.versions}:
            versions = self.versions.setdefault(key, [])
            seen = bool(versions)
            current = versions[-1] if versions and versions[-1][1] is None else None
            if current is not None and current[2] == rows.get(key):
                continue
            if current is not None and current[0] >= at:
                versions.remove(current)  # nobody has known it
            elif current is not None:
                current[1] = at
            if key in rows:
                versions.append([self.begins(close_of(key[1]), at, seen), None, rows[key]])
        self.before = at

    def begins(self, close: datetime, at: datetime, seen: bool) -> datetime:
        since_before = self.before is None or close > self.before
        return close if close > at or (since_before and not seen) else at

    def known(self, at: datetime) -> dict[Key, Any]:
        found = {}
        for key, versions in self.versions.items():
            for begins, ends, values in versions:
                if begins <= at and (ends is None or ends > at):
                    found[key] = values
        return found


def close_of(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


def read(archive: Archive, at: datetime) -> dict[Key, Any]:
    frame = archive.history("mine", as_of=at, columns=("y", "close"))
    keys = zip(frame["unique_id"], frame["ds"].dt.date, strict=True)
    values = zip(frame["y"], frame["close"], strict=True)
    return dict(zip(keys, values, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_reads_as_of_any_instant_see_what_a_plain_memory_remembers(archive: Archive, seed: int):
    rng = np.random.default_rng(seed)
    remembered, rows = Remembered(), {}
    instants_of_loads = []
    for _ in range(8):
        rows = changed(rng, rows)
        archive.load(content(rows))
        load = loads.last(archive.engine, "mine")
        assert load is not None
        remembered.load(rows, load.known_from)
        instants_of_loads.append(load.known_from)
        asked = [*map(close_of, DAYS), *instants_of_loads, close_of(TODAY) + 2 * MICROSECOND]
        for instant in [*asked, *(instant - MICROSECOND for instant in asked)]:
            assert read(archive, instant) == remembered.known(instant)


def changed(rng: np.random.Generator, rows: Rows) -> dict[Key, tuple[float, float]]:
    """Some rows more, some less, some with other values; never none."""
    kept = {key: values for key, values in rows.items() if rng.random() > 0.2}
    for symbol in SYMBOLS:
        for day in DAYS:
            if rng.random() < 0.3:
                kept[(symbol, day)] = (float(rng.normal()), float(rng.lognormal()))
    return kept or {("A", DAYS[0]): (0.1, 1.0)}


ONE = {("A", DAYS[0]): (0.01, 10.0), ("A", DAYS[1]): (0.02, 10.2), ("B", DAYS[1]): (0.03, 5.0)}


def test_the_same_load_again_changes_nothing(archive: Archive):
    first = archive.load(content(ONE))
    assert (first["daily_returns"].new, first["prices"].new, first["market_daily"].new) == (3, 3, 2)
    again = archive.load(content(ONE))
    assert {(c.new, c.changed, c.withdrawn) for c in again.values()} == {(0, 0, 0)}


def test_a_date_means_the_close_of_its_session_and_nothing_later_is_seen(archive: Archive):
    archive.load(content(ONE))
    as_of_first = archive.history("mine", as_of=f"{DAYS[0]}", columns=("y", "market_members"))
    assert as_of_first["ds"].dt.date.tolist() == [DAYS[0]]
    before = close_of(DAYS[0]) - MICROSECOND
    assert archive.history("mine", as_of=before).empty


def test_a_restated_price_is_known_from_its_load_and_the_old_one_before(archive: Archive):
    archive.load(content(ONE))
    archive.load(content(ONE | {("A", DAYS[0]): (0.5, 11.0)}))
    now = archive.history("mine", ["A"], columns=("y", "close"))
    assert now["close"].tolist() == [11.0, 10.2]
    then = archive.history("mine", ["A"], as_of=f"{DAYS[1]}", columns=("y", "close"))
    assert then["close"].tolist() == [10.0, 10.2]


@pytest.mark.parametrize("universes", [("u@1", "u@2"), ("u@2", "u@1")])
def test_market_columns_are_those_of_the_universe_that_held(
    archive: Archive, universes: tuple[str, str]
):
    archive.load(content(ONE, universe=universes[0]))
    more = ONE | {("C", DAYS[1]): (0.9, 7.0)}
    archive.load(content(more, universe=universes[1]))
    columns = ("y", "index_return")
    then = archive.history("mine", ["A"], as_of=f"{DAYS[1]}", columns=columns)
    assert then["index_return"].tolist() == pytest.approx([0.01, 0.025])
    now = archive.history("mine", ["A"], columns=columns)
    assert now["index_return"].tolist() == pytest.approx([0.01, 0.95 / 3])
    assert faults.find(archive.engine) == []


def test_what_a_later_load_brings_of_the_past_was_not_known_then(archive: Archive):
    archive.load(content(ONE))
    later = {("C", DAYS[0]): (0.4, 7.0), ("A", DAYS[2]): (0.04, 10.6)}
    archive.load(content(ONE | later))
    assert read(archive, close_of(DAYS[5])) == dict(ONE)
    with archive.known("mine", DAYS[5]) as known:
        assert known.symbols == ("A", "B")
    assert read(archive, datetime.now(UTC)) == ONE | later


def test_columns_that_a_set_loses_are_lost_from_then_on(archive: Archive):
    archive.load(content(ONE))
    whole = content(ONE | {("A", DAYS[0]): (0.5, 11.0)})
    returns = [rows.drop_columns(["close"]) for rows in whole.rows]
    market = whole.market.drop_columns(["index_return"])
    archive.load(Content(**{**vars(whole), "rows": returns, "market": market}))
    columns = ("y", "close", "index_return", "market_members")
    now = archive.history("mine", columns=columns)
    assert now["y"].tolist() == [0.5, 0.02, 0.03]
    assert now[["close", "index_return"]].isna().all(axis=None)
    then = archive.history("mine", as_of=f"{DAYS[5]}", columns=columns)
    assert then["close"].tolist() == [10.0, 10.2, 5.0]
    assert then["index_return"].tolist() == pytest.approx([0.01, 0.025, 0.025])


def test_a_session_that_has_not_closed_is_known_from_its_close_as_loaded_last(archive: Archive):
    for y in (0.1, 0.2):
        archive.load(content(ONE | {("A", TODAY): (y, 9.0)}))
    assert ("A", TODAY) not in read(archive, datetime.now(UTC))
    assert read(archive, close_of(TODAY))[("A", TODAY)] == (0.2, 9.0)
    archive.load(content(ONE))
    assert ("A", TODAY) not in read(archive, close_of(TODAY))


def test_another_calendar_is_refused(archive: Archive):
    archive.load(content(ONE))
    other = Content(**{**vars(content(ONE)), "calendar": "XNYS"})
    with pytest.raises(Conflict, match="with sessions of 24/7, those of the data set are of XNYS"):
        archive.load(other)


def test_numbers_and_names_come_back_with_all_their_bits(archive: Archive):
    odd = [0.1 + 0.2, 5e-324, -0.25, 1 / 3, 1.7976931348623157e308, 1e-7]
    rows = {(name, DAYS[0]): (value, value) for name, value in zip("ABCDE", odd, strict=False)}
    rows |= {("NA", DAYS[0]): (odd[5], 1.0), ("é %\n\"x'", DAYS[0]): (0.5, 2.0)}
    archive.load(content(rows))
    frame = archive.history("mine", columns=("y", "close"))
    expected = frame_of(rows)
    assert frame["unique_id"].tolist() == expected["unique_id"].tolist()
    assert frame["y"].to_numpy().tobytes() == expected["y"].to_numpy().tobytes()
    for symbol in set(expected["unique_id"]):
        assert archive.history("mine", [symbol])["unique_id"].tolist() == [symbol]


def test_unknown_names_and_dates_are_refused_in_one_line(archive: Archive):
    with pytest.raises(NotFound, match="no data set 'mine'; `python -m jobs data load mine`"):
        archive.history("mine")
    archive.load(content(ONE))
    with pytest.raises(NotFound, match="has no symbol X"):
        archive.history("mine", ["A", "X"])
    with pytest.raises(BadParameter, match="series is the text 'AA'"):
        archive.history("mine", "AA")
    assert archive.history("mine", []).empty
    with pytest.raises(BadParameter, match="since is '2024'"):
        archive.history("mine", since="2024")
    with pytest.raises(BadParameter, match="outside the years"):
        archive.history("mine", as_of="0001-01-01T00:00:00+14:00")
    with pytest.raises(BadParameter, match="no column 'volumes'"):
        archive.history("mine", columns=("volumes",))
    with pytest.raises(BadParameter, match="names no time zone"):
        archive.history("mine", as_of="2024-01-02T10:00:00")
    with pytest.raises(BadParameter, match="expected a date like 2022-06-30"):
        archive.history("mine", as_of="yesterday")
    with pytest.raises(BadParameter, match="is known from"):
        archive.history("mine", as_of="1950-01-01")


class Cut(Exception):
    """What ends a load in its middle."""


def stopping(rows: Sequence[pa.Table], after: int) -> Iterator[pa.Table]:
    yield from rows[:after]
    raise Cut


def test_a_load_that_was_cut_is_taken_up_again_as_if_it_ran_once(archive: Archive):
    whole = content(ONE)
    cut = Content(**{**vars(whole), "rows": stopping(whole.rows, 1)})
    with pytest.raises(Cut):
        fill(archive.engine, cut)
    with pytest.raises(Conflict, match="is not complete; `python -m jobs data load mine`"):
        archive.history("mine")
    first = loads.last(archive.engine, "mine")
    archive.load(content(ONE))
    last = loads.last(archive.engine, "mine")
    assert first is not None
    assert last is not None
    assert (first.id, first.known_from) == (last.id, last.known_from)
    assert read(archive, datetime.now(UTC)) == dict(ONE)


def test_while_a_load_is_not_complete_the_state_before_it_is_read(archive: Archive):
    archive.load(content(ONE))
    other = content({key: (y + 1, close) for key, (y, close) in ONE.items()})
    for changed in (other, content({("A", DAYS[0]): (3.0, 3.0), ("B", DAYS[0]): (3.0, 3.0)})):
        cut = Content(**{**vars(changed), "rows": stopping(changed.rows, 1)})
        with pytest.raises(Cut):
            fill(archive.engine, cut)
        assert read(archive, datetime.now(UTC)) == dict(ONE)
    archive.load(other)
    assert read(archive, datetime.now(UTC))[("A", DAYS[0])] == (1.01, 10.0)


def test_a_first_load_that_was_cut_twice_is_not_taken_for_whole(archive: Archive):
    for whole in (content(ONE), content({key: (y + 1, c) for key, (y, c) in ONE.items()})):
        with pytest.raises(Cut):
            fill(archive.engine, Content(**{**vars(whole), "rows": stopping(whole.rows, 1)}))
        with pytest.raises(Conflict, match="is not complete"):
            archive.history("mine")


def test_a_load_whose_batch_is_refused_can_be_taken_up_again_by_its_process(archive: Archive):
    whole = content(ONE)
    bad = whole.rows[1].set_column(2, "y", pa.array(["no number"]))
    with pytest.raises(pa.ArrowNotImplementedError):  # within the transaction
        fill(archive.engine, Content(**{**vars(whole), "rows": [whole.rows[0], bad]}))
    archive.load(content(ONE))
    assert read(archive, datetime.now(UTC)) == dict(ONE)


def test_a_load_that_another_process_took_over_writes_nothing_more(archive: Archive):
    whole = content(ONE)

    def rows() -> Iterator[pa.Table]:
        yield whole.rows[0]
        edit(archive, "UPDATE loads SET pid = 0")  # as another process takes it
        yield whole.rows[1]

    with pytest.raises(Conflict, match="loads mine into the ledger since"):
        fill(archive.engine, Content(**{**vars(whole), "rows": rows()}))
    with database.read(archive.engine) as connection:
        stored = connection.execute(sa.select(sa.func.count()).select_from(observations.prices))
        assert stored.scalar() == 2


def test_symbols_that_come_later_between_others_keep_their_rows(archive: Archive):
    rows = {(name, day): (float(n), 1.0 + n) for n, name in enumerate("ACB") for day in DAYS[:3]}
    first = {key: values for key, values in rows.items() if key[0] != "B"}
    for given in (first, rows, rows):
        whole = content(given)
        together = pa.concat_tables(whole.rows)
        archive.load(Content(**{**vars(whole), "rows": [together]}))
    assert read(archive, datetime.now(UTC)) == rows
    assert archive.history("mine")["unique_id"].tolist() == [
        name for name in "ABC" for _ in range(3)
    ]
    assert codes(archive) == []


def codes(archive: Archive) -> list[str]:
    return [fault.code for fault in faults.find(archive.engine)]


def test_cut_loads_lost_rows_and_double_values_are_found(archive: Archive):
    whole = content(ONE)
    with pytest.raises(Cut):
        fill(archive.engine, Content(**{**vars(whole), "rows": stopping(whole.rows, 1)}))
    assert codes(archive) == ["LOAD_CUT"]
    archive.load(content(ONE))
    archive.load(content(ONE | {("A", DAYS[0]): (0.5, 11.0)}))
    assert codes(archive) == []
    edit(archive, "DELETE FROM prices WHERE close = 11.0")
    assert codes(archive) == ["ROWS_LOST"]
    edit(archive, "DELETE FROM market_daily")
    assert codes(archive) == ["ROWS_LOST", "ROWS_LOST"]
    edit(archive, "UPDATE daily_returns SET known_until = NULL")
    assert "TWO_VALUES" in codes(archive)


def edit(archive: Archive, statement: str) -> None:
    with database.write(archive.engine) as connection:
        connection.execute(sa.text(statement))


def test_a_load_waits_for_nobody_but_refuses_while_another_process_loads(archive: Archive):
    whole = content(ONE)

    def rows() -> Iterator[pa.Table]:
        with pytest.raises(Conflict, match="loads mine into the ledger since"):
            archive.load(content(ONE))
        yield from whole.rows

    fill(archive.engine, Content(**{**vars(whole), "rows": rows()}))
    assert read(archive, datetime.now(UTC)) == dict(ONE)


# --- what is removed --------------------------------------------------------------------------


def rows_of(archive: Archive) -> dict[str, int]:
    """How many rows each table has."""
    tables = (observations.symbols, *observations.OBSERVED, loads.loads)
    with database.read(archive.engine) as connection:
        return {
            table.name: connection.execute(
                sa.select(sa.func.count()).select_from(table)
            ).scalar_one()
            for table in tables
        }


def test_a_data_set_that_is_removed_leaves_nothing_and_others_stay(archive: Archive):
    archive.load(content(ONE, data="other"))
    others = rows_of(archive)
    archive.load(content(ONE))
    archive.load(content(ONE | {("A", DAYS[0]): (0.5, 11.0)}))
    removed = archive.remove("mine")
    # A restated return and price of A, and the market of that session, are there twice.
    assert removed == {"symbols": 2, "daily_returns": 4, "prices": 4, "market_daily": 3}
    assert rows_of(archive) == others
    with pytest.raises(NotFound, match="the ledger has no data set 'mine'"):
        archive.remove("mine")
    archive.load(content(ONE))
    assert read(archive, close_of(DAYS[5])) == dict(ONE)
    assert codes(archive) == []


@pytest.mark.parametrize("share_done", [0.0, 0.5, 1.0])
def test_a_removal_that_was_cut_hides_the_data_set_and_is_gone_on_with(
    archive: Archive, share_done: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(removal, "TOGETHER", 1)
    empty = rows_of(archive)
    archive.load(content(ONE))

    def stop(share: float) -> None:
        if share == share_done:
            raise Cut

    with pytest.raises(Cut):
        archive.remove("mine", stop)
    with pytest.raises(NotFound, match="any more: it is being removed"):
        archive.history("mine")
    with pytest.raises(Conflict, match="`python -m jobs data unload mine` goes on with it"):
        archive.load(content(ONE))
    [fault] = faults.find(archive.engine)
    assert fault.code == "UNLOAD_CUT"
    assert "`python -m jobs data unload mine`" in fault.repair
    archive.remove("mine")
    assert rows_of(archive) == empty
    assert codes(archive) == []


def test_a_load_that_was_cut_can_be_removed(archive: Archive):
    whole = content(ONE)
    with pytest.raises(Cut):
        fill(archive.engine, Content(**{**vars(whole), "rows": stopping(whole.rows, 1)}))
    [fault] = faults.find(archive.engine)
    assert "`python -m jobs data unload mine` removes it" in fault.repair
    archive.remove("mine")
    assert set(rows_of(archive).values()) == {0}


def test_a_load_and_a_removal_of_a_data_set_exclude_each_other(archive: Archive):
    whole = content(ONE)

    def rows() -> Iterator[pa.Table]:
        with pytest.raises(Conflict, match="loads mine into the ledger since"):
            archive.remove("mine")
        yield from whole.rows

    def refused(_share: float) -> None:
        for other in (lambda: archive.load(content(ONE)), lambda: archive.remove("mine")):
            with pytest.raises(Conflict, match="removes mine from the ledger since"):
                other()

    fill(archive.engine, Content(**{**vars(whole), "rows": rows()}))
    archive.remove("mine", refused)
    assert set(rows_of(archive).values()) == {0}


def test_who_reads_while_a_data_set_is_removed_sees_all_of_it_or_none(archive: Archive):
    archive.load(content(ONE))
    with archive.known("mine") as known:
        before = known.history(columns=("y", "close"))
        archive.remove("mine")
        pd.testing.assert_frame_equal(known.history(columns=("y", "close")), before)
        assert known.symbols == ("A", "B")
    with pytest.raises(NotFound, match="`python -m jobs data load mine` loads it"):
        archive.history("mine")


# --- the look-ahead firewall ------------------------------------------------------------------


def test_every_read_of_what_has_a_past_is_as_of_the_instant(tmp_path: Path):
    """Statements are those that SQLite runs, whatever wrote them."""
    statements: list[str] = []
    with Archive(Settings(var_dir=tmp_path)) as archive:
        archive.load(content(ONE))
        archive.engine.dispose()
        trace = statements.append
        sa.event.listen(
            archive.engine, "connect", lambda driver, _: driver.set_trace_callback(trace)
        )
        asked = close_of(DAYS[5])
        archive.symbols("mine")
        archive.history("mine", as_of=asked, columns=COLUMNS)
        with archive.known("mine", asked) as known:
            reads = [known.symbols, known.last_session, known.history(["A"], columns=COLUMNS)]
            reads += [known.overview, known.market()]
    public = {name for name in (*vars(Archive), *vars(Known)) if not name.startswith("_")}
    reading = {"symbols", "known", "history", "last_session", "overview", "market"}
    assert public - {"load", "remove"} == reading
    assert len(reads) == 5
    instant = (asked - datetime(1970, 1, 1, tzinfo=UTC)) // MICROSECOND
    checked = 0
    for statement in statements:
        for table in observations.OBSERVED:
            sources = re.findall(rf"(?:FROM|JOIN|,) {table.name}\b(?!\.)", statement)
            condition = (
                f"{table.name}.known_from <= {instant} AND NOT ({table.name}.known_until IS NOT "
                f"NULL AND {table.name}.known_until <= {instant})"
            )
            assert " ".join(statement.split()).count(condition) == len(sources), statement
            checked += len(sources)
    assert checked == 11


def test_only_the_ledger_itself_names_the_tables_that_have_a_past():
    """So other code can read them only through `Archive`."""
    constants = {"PRICES", "MARKET", "MEMBERS", "RAW_CLOSE"}
    for folder in ("jobs", "registry", "serving"):
        for path in (CHECKOUT / folder).rglob("*.py"):
            if path.parent.name != "ledger":
                assert imported_from_observations(path) <= constants, path


def imported_from_observations(path: Path) -> set[str]:
    """Names from the module `observations`, or its own, that a file imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == observations.__name__:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.name for alias in node.names if alias.name.endswith("observations")}
    return found


def test_migrations_go_back_and_forward_on_a_filled_ledger(archive: Archive):
    archive.load(content(ONE))
    migrate(archive, "0002")
    with database.write(archive.engine) as connection:
        tables = sa.inspect(connection).get_table_names()
    assert sorted(tables) == [database.VERSION_TABLE, "promotions"]
    database.bring_up_to_date(archive.engine)
    archive.load(content(ONE))
    assert read(archive, datetime.now(UTC)) == dict(ONE)


def migrate(archive: Archive, revision: str) -> None:
    """Back to an older revision."""
    config = Config()
    config.set_main_option("script_location", str(database.MIGRATIONS))
    with database.write(archive.engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, revision)
