"""Sessions are added to a data set, which is then what one compile of everything gives."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.data import sets
from jobs.data.catalog import PANEL, Catalog
from jobs.data.own.append import append_own
from jobs.data.own.compile import compile_frame
from jobs.data.own.options import Options
from jobs.data.sources.source import FRAME, Source
from registry.errors import BadHistory, BadParameter, NotFound
from registry.settings import Settings

DATES = {"fit_until": "2021-09-30", "choose_until": "2021-12-31"}


@pytest.fixture(scope="module")
def prices(compiled: Settings) -> pd.DataFrame:
    """Real returns of three stocks from 2021 on, and closes that have them."""
    history = PANEL.load(compiled).history
    chosen = history["unique_id"].isin(["AAPL", "KO", "XOM"]) & (history["ds"] >= "2021-01-01")
    frame = history.loc[chosen, ["unique_id", "ds", "y", "sector"]].reset_index(drop=True)
    frame["close"] = 100 * np.exp(frame.groupby("unique_id")["y"].cumsum())
    return frame


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(_env_file=None, var_dir=tmp_path)


def compile_set(settings: Settings, frame: pd.DataFrame, name: str = "mine") -> dict[str, Any]:
    adjusted = True if "close" in frame.columns else None
    return compile_frame(frame, name=name, settings=settings, adjusted=adjusted, **DATES)


def append(settings: Settings, frame: pd.DataFrame, **options: Any) -> dict[str, Any]:
    dry_run = options.pop("dry_run", False)
    values: dict[str, Any] = {"adjusted": True if "close" in frame.columns else None, **options}
    source = Source(FRAME, frame=frame)
    return append_own(settings, source, Options("mine", **values), dry_run=dry_run)


@pytest.mark.parametrize("kind", ["returns", "closes", "with sectors"])
@pytest.mark.parametrize("start", ["2022-06-01", "2022-01-03", "2021-03-01"])
def test_a_set_appended_to_is_the_set_compiled_at_once(settings, prices, kind, start):
    columns = {"returns": ["y"], "closes": ["close"], "with sectors": ["close", "sector"]}
    frame = prices[["unique_id", "ds", *columns[kind]]]
    whole = compile_set(settings, frame, "whole")
    compile_set(settings, frame[frame["ds"] < "2022-06-02"])
    found = append(settings, frame[frame["ds"] >= start])
    parts = sets.read_facts(settings, "mine").parts
    assert parts == sets.read_facts(settings, "whole").parts
    assert (found["digest"], found["rows"]) == (whole["digest"], whole["rows"])
    assert found["restated"] == 0


def test_nothing_changes_where_nothing_is_new(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame)
    before = sets.read_facts(settings, "mine")
    append(settings, frame[frame["ds"] >= "2022-11-01"])
    assert sets.read_facts(settings, "mine") == before


def test_restated_values_count_and_are_listed(settings, prices):
    """The return after a corrected close changes, too, although its own close does not."""
    frame = prices[["unique_id", "ds", "close"]]
    corrected = frame.copy()
    row = frame.index[(frame["unique_id"] == "KO") & (frame["ds"] == "2022-11-15")][0]
    corrected.loc[row, "close"] *= 1.01
    whole = compile_set(settings, corrected, "whole")
    compile_set(settings, frame[frame["ds"] < "2022-12-01"])
    end = corrected[(corrected["ds"] >= "2022-11-14") & (corrected["ds"] != "2022-11-16")]
    found = append(settings, end)
    assert found["digest"] == whole["digest"]
    assert sets.read_facts(settings, "mine").parts == sets.read_facts(settings, "whole").parts
    [restated] = [each for each in found["findings"] if each["reason"].startswith("restated")]
    assert restated["rows"] == found["restated"] == 1
    assert restated["examples"][0].startswith("KO 2022-11-15 (close ")


def test_a_dry_run_changes_nothing_and_tells_the_digest(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    whole = compile_set(settings, frame, "whole")
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    before = sets.read_facts(settings, "mine")
    assert (
        append(settings, frame[frame["ds"] >= "2022-05-31"], dry_run=True)["digest"]
        == (whole["digest"])
    )
    assert sets.read_facts(settings, "mine") == before


def test_a_dividend_since_is_seen_where_a_session_is_given_again(settings, prices):
    """An adjusted close of before the dividend and one of after it make no return."""
    frame = prices[["unique_id", "ds", "close"]]
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    later = frame[frame["ds"] >= "2022-05-31"].assign(close=lambda rows: rows["close"] * 0.995)
    with pytest.raises(BadHistory, match=r"AAPL 2022-05-31: the close is .*a dividend or split"):
        append(settings, later)
    found = append(settings, frame[frame["ds"] >= "2022-06-01"])
    reasons = [each["reason"] for each in found["findings"]]
    assert any(reason.startswith("no session of the set is given again") for reason in reasons)


def test_what_does_not_fit_the_set_is_refused(settings, prices):
    frame = prices[["unique_id", "ds", "close"]]
    later = frame[frame["ds"] >= "2022-06-01"]
    with pytest.raises(NotFound, match="no data set 'mine'"):
        append(settings, later)
    compile_set(settings, frame[frame["ds"] < "2022-06-01"])
    with pytest.raises(BadHistory, match="mine has no NEW"):
        append(settings, later.replace({"unique_id": {"KO": "NEW"}}))
    with pytest.raises(BadHistory, match="give the same columns as when it was compiled"):
        append(settings, later.assign(adj_close=later["close"]), adjusted=None)
    halved = later["close"].where(later["ds"] < "2022-07-01", later["close"] / 2)
    split = np.where(later["ds"] == "2022-07-01", 2.0, 0.0)
    with pytest.raises(BadHistory, match="compile mine anew with all its sessions"):
        append(settings, later.assign(close=halved, split=split), adjusted=None)
    with pytest.raises(BadParameter, match="--calendar is 'XLON', that of mine is 'XNYS'"):
        append(settings, later, calendar="XLON")
    with pytest.raises(BadParameter, match="leave out --sectors"):
        append(settings, later, sectors="sectors.csv")
    assert Catalog(settings).find("mine").load(settings).history["ds"].max() < pd.Timestamp(
        "2022-06-01"
    )
