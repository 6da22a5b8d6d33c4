"""A small ledger whose forecasts mature: three symbols that trade every day."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.issue import Blocks, Issue
from registry.ledger.track_record import TrackRecord
from registry.settings import Settings

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
SYMBOLS = ("Z", "A", "é %")  # not in the order of their ids
FIRST = date(2024, 1, 1)
HORIZON = 3
Returns = dict[tuple[str, int], float]  # by symbol and number of the day


def returns(days: int = 10) -> Returns:
    """Returns that tell symbol and day."""
    values = {}
    for number in range(1, days + 1):
        for place, symbol in enumerate(SYMBOLS):
            values[symbol, number] = number / 100 + place / 1000
    return values


def load(settings: Settings, values: Returns) -> None:
    keys = sorted(values, key=lambda key: (SYMBOLS.index(key[0]), key[1]))
    ds = pa.array([day(number) for _, number in keys])
    y = [values[key] for key in keys]
    rows = pa.table({"unique_id": [symbol for symbol, _ in keys], "ds": ds, "y": y})
    days = pa.array(sorted({day(number) for _, number in keys}))
    market: dict[str, Any] = {"ds": days}
    for name in ("market_abs_return", "index_return", "market_members"):
        market[name] = pa.array(np.zeros(len(days)))
    known = [Symbol(name, FIRST, FIRST, sector=name.lower()) for name in SYMBOLS]
    digest = str(sorted(values.items()))[:40] + str(len(values))
    content = Content("mine", digest, "24/7", "u@1", known, [rows], pa.table(market))
    with Archive(settings) as archive:
        archive.load(content)


def day(number: int) -> date:
    return FIRST + timedelta(days=number)


def close_of(session: date) -> datetime:
    return datetime(session.year, session.month, session.day, tzinfo=UTC) + timedelta(days=1)


def issue(record: TrackRecord, number: int, given: Blocks, **changes: Any) -> Issue:
    """Issue a backfill of day `number`."""
    values = {
        "registry": "r",
        "model": "har",
        "version": 1,
        "data": "mine",
        "source": "backfill",
        "cutoff": day(number),
        "issued_at": close_of(day(number)),
    }
    issued = Issue(**(values | changes))
    record.issue(issued, given)
    return issued


def blocks(
    seed: int = 0, symbols: tuple[str, ...] = SYMBOLS, *, calibrated: bool = False
) -> Blocks:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(2, len(symbols), HORIZON, 1 + len(LEVELS)))
    values[:, :, :, 1:].sort(axis=3)
    return Blocks(symbols, LEVELS, values[0], values[1] if calibrated else None)
