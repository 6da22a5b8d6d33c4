"""Cuts of a data set's past are what the archive reads at the instant, on both databases."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from nights import FIRST, close_of, day

from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.observations import MARKET, PRICES
from registry.ledger.past import Past
from registry.settings import Settings

SYMBOLS = ("Z", "A", "B")
COLUMNS = ("close", "y", "market_abs_return", "volume")


@pytest.fixture
def archive(ledger_uri: str, tmp_path: Path) -> Any:
    with Archive(Settings(var_dir=tmp_path, ledger_uri=ledger_uri)) as archive:
        yield archive


def load(archive: Archive, seed: int, days: int, universe: str = "u@1") -> None:
    """Load random days, some of which are missing, with other values for each seed."""
    rng = np.random.default_rng(seed)
    rows = []
    for symbol in SYMBOLS:
        present = np.flatnonzero(rng.random(days) < 0.8)
        ds = pa.array([day(int(number)) for number in present])
        columns: dict[str, Any] = {"unique_id": [symbol] * len(present), "ds": ds}
        for name in ("y", *PRICES):
            columns[name] = rng.integers(2, size=len(present)) / 7.0
        rows.append(pa.table(columns))
    market = {"ds": pa.array([day(number) for number in range(days)])}
    for name in MARKET:
        market[name] = pa.array(rng.integers(2, size=days) / 3.0)
    known = [Symbol(name, FIRST, FIRST) for name in SYMBOLS]
    batches = iter([pa.concat_tables(rows)])
    content = Content("mine", f"{seed}", "24/7", universe, known, batches, pa.table(market))
    archive.load(content)


def test_a_cut_is_what_the_archive_reads_at_the_instant(archive: Archive):
    loaded = []
    for seed, (days, universe) in enumerate([(12, "u@1"), (15, "u@1"), (20, "v@2")]):
        load(archive, seed, days, universe)
        loaded.append(datetime.now(close_of(FIRST).tzinfo))
    with archive.known("mine") as known:
        past = Past.read(known, day(3), day(18), COLUMNS)
    instants = [close_of(day(number)) for number in (3, 7, 11, 14, 18)]
    instants += [at + timedelta(microseconds=shift) for at in loaded for shift in (-1, 0)]
    for at in instants:
        history = past.history(day(3), day(18), at)
        expected = archive.history("mine", as_of=at, since=str(day(3)), columns=COLUMNS)
        until = expected["ds"] <= pd.Timestamp(day(18))
        pd.testing.assert_frame_equal(
            history.frame()[["unique_id", "ds", *COLUMNS]],
            expected[until].reset_index(drop=True)[["unique_id", "ds", *COLUMNS]],
            check_dtype=False,
            check_exact=True,
        )
    first = past.history(day(3), day(9), close_of(day(9)))
    shorter = past.history(day(5), day(9), close_of(day(9)))
    kept = first.frame()[first.frame()["ds"] >= pd.Timestamp(day(5))].reset_index(drop=True)
    pd.testing.assert_frame_equal(shorter.frame(), kept)


def test_a_cut_before_anything_was_known_has_no_series(archive: Archive):
    load(archive, 0, 12)
    with archive.known("mine") as known:
        past = Past.read(known, day(3), day(9), ("y",))
    nothing = past.history(day(3), day(9), close_of(day(2)))
    assert (nothing.ids, nothing.bounds.tolist(), len(nothing.ds)) == ((), [0], 0)
