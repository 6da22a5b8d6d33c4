"""A comparison over series that fail a check at some origins: all are scored on the same rows."""

from dataclasses import replace

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from shared import SHARED

from jobs.data import catalog
from jobs.data.dataset import Data
from jobs.training.comparison import Comparison, compare
from jobs.training.references import References
from jobs.training.task import Task
from mlprojects.baselines.model import Ewma
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.scoring.rolling import KEYS, rolling
from registry.training import Config

SYMBOLS = ["AAPL", "JNJ", "KO", "PG", "XOM"]
SPEC = ModelSpec("ewma", "baselines", min_context=60, max_context=100, max_horizon=5)
CONFIG = Config(**SHARED | {"report_until": "2020-04-30", "report_every": 20})
ORIGINS = ["2020-01-02", "2020-01-31", "2020-03-02", "2020-03-30"]


@pytest.fixture(scope="module")
def history(panel: pd.DataFrame) -> pd.DataFrame:
    """Five stocks. AAPL is halted from 21 January on. JNJ lacks six sessions of September 2019,
    which is beyond what ewma looks at from March on, and within what the references look at."""
    frame = panel[panel[names.UNIQUE_ID].isin(SYMBOLS) & (panel[names.DS] <= "2020-06-30")]
    halted = (frame[names.UNIQUE_ID] == "AAPL") & (frame[names.DS] >= "2020-01-21")
    hole = (frame[names.UNIQUE_ID] == "JNJ") & frame[names.DS].between("2019-09-12", "2019-09-19")
    return frame.assign(y=frame[names.Y].where(~halted, 0.0))[~hole].reset_index(drop=True)


@pytest.fixture(scope="module")
def reports() -> list[str]:
    return []


@pytest.fixture(scope="module")
def comparison(history: pd.DataFrame, reports: list[str]) -> Comparison:
    task = Task(Data(catalog.PANEL, "digest", history), CONFIG)
    models = {"ewma": Ewma(SPEC), "brief": Ewma(replace(SPEC, max_context=60))}
    return compare(models, task, References(), lambda label, _: reports.append(label))


def test_each_model_and_reference_has_the_rows_that_all_can_score(comparison: Comparison):
    every = [*comparison.models.values(), *comparison.references.values()]
    for scored in every:
        pd.testing.assert_frame_equal(scored.scores[KEYS], every[0].scores[KEYS])
        assert len(scored.forecasts) == len(scored.scores)
    pairs = every[0].pairs.unique()
    assert set(pairs.get_level_values(0)) == {"AAPL", "KO", "PG", "XOM"}  # nobody scores JNJ
    of_apple = [f"{day:%Y-%m-%d}" for name, day in pairs if name == "AAPL"]
    assert of_apple == ORIGINS[:2]  # eight zeros on 31 January, 28 on 2 March
    assert list(comparison.origins.strftime("%Y-%m-%d")) == ORIGINS
    assert len(pairs) == 4 * 3 + 2


def test_who_refused_what_is_listed_and_counted(comparison: Comparison, reports: list[str]):
    refused = comparison.refused
    assert list(refused.columns) == ["model", "unique_id", "origin", "code", "message"]
    by_model = refused.groupby(["model", "code"]).size().to_dict()
    references = {(name, code): n for name in ("fhs", "har", "naive")
                  for code, n in (("GAP", 4), ("HALTED", 2))}  # fmt: skip
    # In January, ewma looks back to before the hole, "brief" does not.
    of_models = {("ewma", "GAP"): 2, ("ewma", "HALTED"): 2, ("brief", "HALTED"): 2}
    assert by_model == references | of_models
    halted = refused[refused["code"] == "HALTED"]
    assert set(halted[names.UNIQUE_ID]) == {"AAPL"}
    assert halted["message"].str.startswith("series 1 of 5 has a return of 0 throughout").all()
    assert comparison.refusals() == {"left_out": 6, "codes": {"GAP": 4, "HALTED": 2}}
    assert "left out of all: 6 pairs of series and origin (GAP, HALTED)" in reports


def test_good_rows_have_the_scores_that_they_have_without_the_bad_series(
    history: pd.DataFrame, comparison: Comparison
):
    good = history[history[names.UNIQUE_ID].isin(["KO", "PG", "XOM"])]
    origins = pd.DatetimeIndex(ORIGINS).as_unit("ns")
    alone = rolling(Ewma(SPEC), good, origins, 5, levels=CONFIG.levels)
    forecasts = comparison.models["ewma"].forecasts
    kept = forecasts[forecasts[names.UNIQUE_ID] != "AAPL"].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, alone, check_exact=True)


def test_without_a_common_row_the_error_says_who_refused_and_why(history: pd.DataFrame):
    apple = history[history[names.UNIQUE_ID].isin(["AAPL", "KO"])]
    halted = apple.assign(y=apple[names.Y].where(apple[names.DS] < "2019-12-02", 0.0))
    task = Task(Data(catalog.PANEL, "halted", halted.reset_index(drop=True)), CONFIG)
    with pytest.raises(BadHistory, match=r"series 1 of 2 has a return of 0.*; 2 series") as caught:
        compare({"ewma": Ewma(SPEC)}, task, References(), lambda *_: None)
    assert caught.value.code == "HALTED"


def test_a_caller_that_does_not_ask_for_refused_series_gets_an_error(history: pd.DataFrame):
    with pytest.raises(BadHistory, match="series 1 of 5 has a return of 0") as caught:
        rolling(Ewma(SPEC), history, pd.DatetimeIndex(["2020-03-02"]), 5)
    assert caught.value.code == "HALTED"


def test_a_joint_model_leaves_out_the_origins_at_which_one_series_is_refused(history: pd.DataFrame):
    spec = replace(SPEC, max_context=60, joint=True, universe=tuple(SYMBOLS))
    refused = []
    forecasts = rolling(
        Ewma(spec), history, pd.DatetimeIndex(ORIGINS), 5,
        on_refused=lambda origin, series: refused.append((f"{origin:%Y-%m-%d}", series.unique_id)),
    )  # fmt: skip
    npt.assert_array_equal(forecasts["origin"].unique(), np.array(ORIGINS[:2], dtype="M8[ns]"))
    assert len(forecasts) == 2 * 5 * 5
    assert refused == [("2020-03-02", "AAPL"), ("2020-03-30", "AAPL")]
