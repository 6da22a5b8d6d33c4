"""Own data sets on disk: written by year, sealed, and the same however they came to be."""

from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from jobs.data import sets
from jobs.data.catalog import PANEL, Catalog
from jobs.data.dataset import Splits
from jobs.data.market import MEMBERS, Universe
from jobs.data.sets import Facts
from registry.errors import BadParameter, Conflict, Corrupt, NotFound
from registry.settings import Settings

COLUMNS = ("unique_id", "ds", "y", "close", "market_abs_return", "index_return", MEMBERS)


@pytest.fixture(scope="module")
def rows(compiled: Settings) -> pd.DataFrame:
    """Real returns of three stocks over two years, with columns as an own set has them."""
    history = PANEL.load(compiled).history
    some = history["unique_id"].isin(["AAPL", "KO", "XOM"]) & (history["ds"] >= "2021-01-01")
    frame = history[some].copy()
    frame["close"] = np.exp(frame.groupby("unique_id")["y"].cumsum())
    frame[MEMBERS] = 3
    return frame[list(COLUMNS)].reset_index(drop=True)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(var_dir=tmp_path)


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def facts_of(rows: pd.DataFrame, name: str = "mine") -> Facts:
    universe = Universe(f"{name}-3", tuple(sorted(rows["unique_id"].unique())))
    return Facts(name, "closes", COLUMNS, "XNYS", universe, Splits("2021-12-31", "2022-03-31"))


def write(
    settings: Settings,
    connection: duckdb.DuckDBPyConnection,
    rows: pd.DataFrame,
    **kept: list[sets.Part],
) -> Facts:
    connection.register("frame", rows)
    connection.execute(
        "CREATE OR REPLACE TABLE rows AS SELECT * REPLACE (ds::DATE AS ds) FROM frame"
    )
    return sets.write(settings, facts_of(rows), connection, "rows", **kept)


def test_a_set_is_loaded_as_it_was_written(settings, connection, rows):
    facts = write(settings, connection, rows.sample(frac=1, random_state=0))
    assert [part.year for part in facts.parts] == [2021, 2022]
    dataset = Catalog(settings).find("mine")
    data = dataset.load(settings)
    pd.testing.assert_frame_equal(data.history, rows[list(data.history.columns)], check_dtype=False)
    assert data.history["unique_id"].dtype == rows["unique_id"].dtype
    assert set(dataset.columns) == set(COLUMNS)
    assert (data.digest, dataset.universe) == (facts.digest, facts.universe)
    assert sets.read_facts(settings, "mine") == facts


def test_recent_sessions_are_read_from_the_files_of_their_years(settings, connection, rows):
    facts = write(settings, connection, rows)
    (sets.folder(settings, "mine") / facts.parts[0].file).unlink()
    recent = sets.history(settings, facts, since="2022-12-01")
    expected = rows[rows["ds"] >= "2022-12-01"]
    assert recent["y"].tolist() == expected["y"].tolist()
    with pytest.raises(Corrupt, match="is missing or not the file that was compiled"):
        sets.history(settings, facts)
    none = sets.history(settings, facts, since="2023-01-01")
    assert (len(none), none.dtypes.to_dict()) == (0, recent.dtypes.to_dict())


def test_the_same_content_gives_the_same_files_at_once_and_in_two_steps(
    settings, connection, rows, tmp_path
):
    whole = write(settings, connection, rows)
    other = Settings(var_dir=tmp_path / "other")
    first = write(other, connection, rows[rows["ds"] < "2022-06-01"])
    later = rows[rows["ds"] >= "2022-01-01"]
    second = write(other, connection, later, keep=[first.parts[0]])
    assert second == whole
    files = sorted(path.name for path in sets.folder(other, "mine").glob("*.parquet"))
    assert files == sorted(part.file for part in whole.parts)


def test_the_digest_is_of_the_source_columns(settings, connection, rows):
    facts = write(settings, connection, rows)
    derived = write(settings, connection, rows.assign(y=rows["y"] * 2, index_return=0.0))
    assert derived.digest == facts.digest
    changed = rows.copy()
    changed.loc[7, "close"] = np.nextafter(changed.loc[7, "close"], 2)
    assert write(settings, connection, changed).digest != facts.digest


def test_a_changed_bit_is_found_whichever_file_holds_it(settings, connection, rows):
    facts = write(settings, connection, rows)
    root = sets.folder(settings, "mine")
    for name in (facts.parts[1].file, sets.FACTS):
        path = root / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
        with pytest.raises(Corrupt, match=f"{name} is .*; compile mine again"):
            sets.find(settings, "mine").load(settings)
        content[len(content) // 2] ^= 1
        path.write_bytes(bytes(content))
    assert len(sets.find(settings, "mine").load(settings).history) == len(rows)


def test_a_damaged_set_is_listed_and_others_are_found(settings, connection, rows):
    write(settings, connection, rows)
    (sets.folder(settings, "mine") / sets.FACTS).write_text("{}")
    assert Catalog(settings).names == ["panel", "bars", "mine"]
    assert Catalog(settings).find("panel") is PANEL
    with pytest.raises(NotFound, match="no data set 'yours'; there are panel, bars, mine"):
        Catalog(settings).find("yours")


def test_a_set_is_removed_and_then_unknown(settings, connection, rows):
    write(settings, connection, rows)
    sets.remove(settings, "mine")
    assert not sets.folder(settings, "mine").exists()
    with pytest.raises(NotFound, match="no data set 'mine'; `python -m jobs data list`"):
        sets.remove(settings, "mine")
    with pytest.raises(NotFound, match=r"no data set '\.\./mine'"):
        sets.remove(settings, "../mine")


def test_two_processes_do_not_write_one_set(settings, connection, rows):
    write(settings, connection, rows)
    with sets.lock(settings, "mine"), pytest.raises(Conflict, match="mine is being written"):
        sets.remove(settings, "mine")


def test_who_reads_a_set_that_is_written_anew_is_told(settings, connection, rows):
    old = write(settings, connection, rows)
    write(settings, connection, rows.assign(close=rows["close"] * 2))
    with pytest.raises(Conflict, match="mine was changed while it was read; run it again"):
        sets.history(settings, old)


def test_a_file_may_go_after_it_was_compared_and_before_it_is_read(settings, connection, rows):
    part = write(settings, connection, rows).parts[0]

    def columns() -> Iterator[str]:
        (sets.folder(settings, "mine") / part.file).unlink()
        yield "y"

    with pytest.raises(Conflict, match="mine was changed while it was read; run it again"):
        sets.read(settings, "mine", [part], columns())


@pytest.mark.parametrize("name", ["", "Mine", "my stocks", "../x", "a" * 65])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(BadParameter, match=r"1\.\.64 of a-z, 0-9 and _"):
        sets.check_name(name)
    with pytest.raises(BadParameter, match="panel is a built-in data set"):
        sets.check_name("panel", taken=Catalog().names)
