"""Rolling evaluation: the data that a forecaster gets, its outcomes, and the averages of scores."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest
from scipy.stats import norm, spearmanr

from mlprojects.baselines.model import Ewma
from registry.errors import BadForecast, BadHistory, BadInput
from registry.forecast import names
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec, Option, Request
from registry.scoring import difference, metrics
from registry.scoring.difference import Skill, against
from registry.scoring.rolling import KEYS, origins_between, rolling
from registry.scoring.scores import levels_of, means, of_step, rank_ic, reliability, scores

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
EVERY_DAY = "24/7"  # the calendar of `simulated`
EWMA = Ewma(ModelSpec("ewma", "baselines", 60, 100, 5, calendar=EVERY_DAY))


def simulated(
    seed: int = 0, n: int = 3, length: int = 90, start: str = "2020-01-01"
) -> pd.DataFrame:
    """History of `n` series on the same days."""
    return pd.DataFrame(
        {
            names.UNIQUE_ID: np.repeat([f"S{i}" for i in range(n)], length),
            names.DS: np.tile(pd.date_range(start, periods=length, unit="ns"), n),
            names.Y: 0.01 * np.random.default_rng(seed).standard_t(5, n * length).clip(-8, 8),
        }
    )


@dataclass
class Constant:
    """Forecasts N(0, sigma) for every history, and records histories and requests."""

    sigma: float = 0.01
    levels: tuple[float, ...] = LEVELS
    max_context: int = 30
    histories: list[History] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)

    @property
    def spec(self) -> ModelSpec:
        option = Option("num_samples", "long", 7)
        return ModelSpec(
            "constant", "fake", 1, self.max_context, 5, levels=self.levels, options=(option,),
            calendar=EVERY_DAY,
        )  # fmt: skip

    def predict(self, history: History, request: Request) -> Forecast:
        self.histories.append(history)
        self.requests.append(request)
        shape = (len(history.ids), request.horizon)
        quantiles = np.broadcast_to(self.sigma * norm.ppf(self.levels), (*shape, len(self.levels)))
        return Forecast(history.ids, history.cutoffs, self.levels, quantiles, np.zeros(shape))


# --- origins ----------------------------------------------------------------------------------


def test_origins_lie_after_a_date_and_leave_room_for_the_horizon():
    history = simulated(length=10)  # 1 to 10 January
    origins = origins_between(history, "2020-01-03", None, 3)
    assert list(origins.strftime("%d")) == ["04", "05", "06", "07"]  # 08, 09, 10 follow the last


def test_outcomes_of_origins_do_not_pass_the_end_of_the_period():
    origins = origins_between(simulated(length=20), "2020-01-03", "2020-01-09", 3)
    assert list(origins.strftime("%d")) == ["04", "05", "06"]


def uneven() -> pd.DataFrame:
    """S0 from 1 to 20 January, S1 from the 6th to the 15th, S2 from the 11th to the 20th."""
    history = simulated(length=20)
    days_of = {"S0": [*range(1, 21)], "S1": [*range(6, 16)], "S2": [*range(11, 21)]}
    parts = []
    for name, series in history.groupby(names.UNIQUE_ID):
        parts.append(series[series[names.DS].dt.day.isin(days_of[name])])
    return pd.concat(parts, ignore_index=True)


def test_origins_are_sessions_from_which_some_series_can_be_scored():
    origins = origins_between(uneven(), "2020-01-03", None, 3)
    assert list(origins.day) == list(range(4, 18))
    only_later = uneven()[uneven()[names.UNIQUE_ID] != "S0"]
    origins = origins_between(only_later, "2020-01-03", None, 3)
    assert list(origins.day) == list(range(6, 18))


def test_origins_have_the_context_that_was_asked_for():
    origins = origins_between(uneven(), "2020-01-03", None, 3, context=12)
    # The twelfth session of S0 is the 12th.
    assert list(origins.day) == [12, 13, 14, 15, 16, 17]


def test_every_other_origin_begins_with_the_first():
    origins = origins_between(simulated(length=20), "2020-01-03", None, 3, every=4)
    assert list(origins.strftime("%d")) == ["04", "08", "12", "16"]


def test_the_message_for_a_period_without_an_origin_says_what_was_needed_and_what_there_is():
    with pytest.raises(
        BadInput,
        match=r"^no session after 2020-01-15 has 8 sessions up to it and 5 after it in any",
    ):
        origins_between(simulated(length=20), "2020-01-15", None, 5, context=8)
    with pytest.raises(BadInput, match=r"; the last such session is 2020-01-15$"):
        origins_between(simulated(length=20), "2020-01-15", None, 5, context=8)


@pytest.mark.parametrize(
    ("length", "after", "until", "horizon"),
    [
        (10, "2020-01-07", None, 3),
        (10, "2030-01-01", None, 1),
        (3, "2019-01-01", None, 5),
        (10, "2019-01-01", "2019-06-30", 1),
    ],
    ids=[
        "too near the end",
        "after the end",
        "fewer sessions than the horizon",
        "a period before the data",
    ],
)
def test_a_period_without_an_origin_is_an_error(
    length: int, after: str, until: str | None, horizon: int
):
    with pytest.raises(BadInput) as caught:
        origins_between(simulated(length=length), after, until, horizon)
    assert caught.value.code == "NO_ORIGINS"


def test_series_without_a_common_session_have_their_own_origins():
    of_2020 = simulated(n=1, length=3)
    of_2021 = simulated(n=1, length=3, start="2021-01-01").assign(unique_id="S1")
    origins = origins_between(pd.concat([of_2020, of_2021]), "2019-01-01", None, 1)
    expected = ["2020-01-01", "2020-01-02", "2021-01-01", "2021-01-02"]
    assert list(origins.strftime("%Y-%m-%d")) == expected


# --- rolling ----------------------------------------------------------------------------------


def by_hand(history: pd.DataFrame, origins: pd.DatetimeIndex, horizon: int) -> pd.DataFrame:
    """The slow way: cut the frame at every origin, forecast each series alone, read outcomes."""
    rows = []
    for origin in origins:
        for name, series in history.groupby(names.UNIQUE_ID):
            past, future = series[series[names.DS] <= origin], series[series[names.DS] > origin]
            request = EWMA.spec.request({"horizon": horizon, "levels": LEVELS})
            forecast = EWMA.predict(History.of(past), request).at(LEVELS)
            for h in range(1, horizon + 1):
                outcome = future.iloc[h - 1]
                key = (name, origin, h, outcome[names.DS], outcome[names.Y])
                quantiles = forecast.quantiles[0, h - 1]
                rows.append((*key, forecast.mean[0, h - 1], *quantiles))
    quantile_columns = [names.quantile_column(level) for level in LEVELS]
    columns = ["unique_id", "origin", "step", "ds", "y", "mean", *quantile_columns]
    return pd.DataFrame(rows, columns=columns)


def test_rolling_is_predicting_by_hand_on_cut_frames():
    history = simulated()
    # S1 is listed later.
    history = history[(history[names.UNIQUE_ID] != "S1") | (history[names.DS] > "2020-01-11")]
    origins = origins_between(history, "2020-03-12", None, 3)
    forecasts = rolling(EWMA, history, origins, 3, levels=LEVELS)
    expected = by_hand(history, origins, 3)
    assert list(forecasts.columns) == list(expected.columns)
    pd.testing.assert_frame_equal(
        forecasts.astype({names.UNIQUE_ID: "str"}),
        expected.astype({names.UNIQUE_ID: "str"}),
        check_exact=True,
        check_dtype=False,
    )


def test_a_forecaster_is_shown_its_context_up_to_the_origin_and_nothing_else():
    history, constant = simulated(), Constant(max_context=30)
    origins = pd.DatetimeIndex(["2020-01-20", "2020-02-20"])
    rolling(constant, history, origins, 2)
    early, late = constant.histories
    for passed, origin, sessions in ((early, "2020-01-20", 20), (late, "2020-02-20", 30)):
        expected = history[history[names.DS] <= origin].groupby(names.UNIQUE_ID).tail(sessions)
        assert passed.ids == ("S0", "S1", "S2")
        npt.assert_array_equal(passed.lengths, sessions)
        npt.assert_array_equal(passed.ds, expected[names.DS])
        assert list(passed.columns) == [names.Y]
        npt.assert_array_equal(passed.columns[names.Y], expected[names.Y])


def test_a_forecaster_is_asked_with_its_own_levels_and_the_defaults_of_its_options():
    constant = Constant()
    rolling(constant, simulated(), pd.DatetimeIndex(["2020-02-20"]), 2)
    rolling(constant, simulated(), pd.DatetimeIndex(["2020-02-20"]), 1, levels=(0.5,))
    defaults = {"num_samples": 7}
    assert constant.requests == [Request(2, LEVELS, 0, defaults), Request(1, (0.5,), 0, defaults)]


def test_rows_after_the_last_outcome_change_nothing():
    history = simulated()
    origins = pd.DatetimeIndex(["2020-03-10", "2020-03-15"])
    cut = history[history[names.DS] <= "2020-03-18"]
    pd.testing.assert_frame_equal(
        rolling(EWMA, cut, origins, 3), rolling(EWMA, history, origins, 3), check_exact=True
    )


def test_rows_after_an_origin_change_its_outcomes_and_not_its_forecast():
    history = simulated()
    origins = pd.DatetimeIndex(["2020-03-10"])
    changed = history.assign(y=history[names.Y].where(history[names.DS] <= "2020-03-10", 0.5))
    before, after = (rolling(EWMA, frame, origins, 3) for frame in (history, changed))
    npt.assert_array_equal(after[names.Y], 0.5)
    pd.testing.assert_frame_equal(
        before.drop(columns="y"), after.drop(columns="y"), check_exact=True
    )


def test_one_series_never_changes_another():
    history = simulated()
    origins = origins_between(history, "2020-03-12", None, 3)
    changed = history.assign(y=history[names.Y].where(history[names.UNIQUE_ID] != "S2", 0.3))
    before, after = (rolling(EWMA, frame, origins, 3) for frame in (history, changed))
    others = (before[names.UNIQUE_ID] != "S2").to_numpy()
    pd.testing.assert_frame_equal(before[others], after[others], check_exact=True)


def test_series_of_different_lengths_are_forecast_where_they_can_be_scored():
    """The slow way on series that start and end apart: the same rows, the same numbers."""
    history = simulated(length=120)
    listed = (history[names.UNIQUE_ID] != "S1") | (history[names.DS] > "2020-01-21")
    delisted = (history[names.UNIQUE_ID] != "S2") | (history[names.DS] <= "2020-04-10")
    history = history[listed & delisted].reset_index(drop=True)
    origins = origins_between(history, "2020-03-12", None, 3, context=60)
    forecasts = rolling(EWMA, history, origins, 3, levels=LEVELS)
    parts = []
    for origin in origins:
        for name, series in history.groupby(names.UNIQUE_ID):
            past, future = (series[names.DS] <= origin).sum(), (series[names.DS] > origin).sum()
            if past >= 60 and future >= 3:
                alone = history[history[names.UNIQUE_ID] == name]
                parts.append(by_hand(alone, pd.DatetimeIndex([origin]), 3))
    expected = pd.concat(parts, ignore_index=True)
    rows = expected.groupby("unique_id").size().to_dict()
    assert rows == {"S0": 45 * 3, "S1": 37 * 3, "S2": 26 * 3}
    pd.testing.assert_frame_equal(
        forecasts.astype({"unique_id": "str"}),
        expected.astype({"unique_id": "str"}),
        check_exact=True,
        check_dtype=False,
    )


def test_a_series_takes_part_where_it_has_the_session_the_context_and_the_outcomes():
    history = uneven()
    origins = origins_between(history, "2020-01-03", None, 3)
    forecasts = rolling(Constant(), history, origins, 3, context=2)
    first_steps = forecasts[forecasts["step"] == 1]
    days = first_steps.groupby("unique_id")["origin"].apply(lambda origin: list(origin.dt.day))
    assert days["S0"] == [*range(4, 18)]
    # From its second session, with three more sessions up to the 15th.
    assert days["S1"] == [7, 8, 9, 10, 11, 12]
    assert days["S2"] == [*range(12, 18)]


def test_a_series_takes_no_part_at_a_session_that_it_lacks():
    history = simulated(length=40)
    lacking = (history[names.UNIQUE_ID] == "S1") & (history[names.DS] == "2020-01-30")
    constant, origins = Constant(), pd.DatetimeIndex(["2020-01-29", "2020-01-30", "2020-01-31"])
    rolling(constant, history[~lacking], origins, 3)
    ids = [passed.ids for passed in constant.histories]
    assert ids == [("S0", "S1", "S2"), ("S0", "S2"), ("S0", "S1", "S2")]


def test_the_forecaster_is_shown_those_that_take_part_and_no_others():
    history, constant = uneven(), Constant()
    rolling(constant, history, pd.DatetimeIndex(["2020-01-05", "2020-01-11", "2020-01-16"]), 3)
    ids = [passed.ids for passed in constant.histories]
    assert ids == [("S0",), ("S0", "S1", "S2"), ("S0", "S2")]
    second = constant.histories[1]
    expected = history[history[names.DS] <= "2020-01-11"]
    npt.assert_array_equal(second.lengths, [11, 6, 1])
    npt.assert_array_equal(second.ds, expected[names.DS])
    npt.assert_array_equal(second.columns[names.Y], expected[names.Y])


def test_models_of_different_needs_are_scored_on_the_same_rows_when_they_are_given_one_context():
    history = simulated(length=80)
    listed = (history[names.UNIQUE_ID] != "S1") | (history[names.DS] > "2020-01-11")
    history = history[listed].reset_index(drop=True)
    origins = origins_between(history, "2020-02-20", None, 2, context=60)
    of_ewma = rolling(EWMA, history, origins, 2, context=60)
    of_constant = rolling(Constant(), history, origins, 2, context=60)
    pd.testing.assert_frame_equal(of_ewma[KEYS], of_constant[KEYS])
    assert len(of_ewma) < len(rolling(Constant(), history, origins, 2))


def test_a_context_below_what_the_model_needs_is_an_error():
    with pytest.raises(BadInput, match="context is 59; ewma needs 60 sessions"):
        rolling(EWMA, simulated(), pd.DatetimeIndex(["2020-03-20"]), 1, context=59)


@dataclass
class Joint(Constant):
    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            "joint", "fake", 1, 30, 5, levels=self.levels, joint=True,
            universe=("S0", "S1", "S2"), calendar=EVERY_DAY,
        )  # fmt: skip


def test_a_joint_model_needs_all_of_its_series():
    joint, history = Joint(), uneven()
    rolling(joint, history, pd.DatetimeIndex(["2020-01-11"]), 3)
    assert joint.histories[0].ids == ("S0", "S1", "S2")
    with pytest.raises(BadHistory) as caught:
        rolling(joint, history, pd.DatetimeIndex(["2020-01-11", "2020-01-16"]), 3)
    assert caught.value.code == "NO_ORIGINS"
    assert caught.value.message == (
        "2 of 3 series have 1 sessions up to 2020-01-16 and 3 after it, joint needs 3; "
        "1 of 2 origins have too few"
    )


@dataclass
class Measuring(Constant):
    """Takes volume if present. Its measured value is 1, 2, 3, ... over the series, times the number
    of the call."""

    @property
    def spec(self) -> ModelSpec:
        return ModelSpec(
            "measuring", "fake", 1, 30, 5, levels=self.levels, optional=("volume", "amount"),
            calendar=EVERY_DAY,
        )  # fmt: skip

    def predict(self, *args: Any) -> Forecast:
        forecast = super().predict(*args)
        measured = len(self.histories) * np.arange(1.0, len(forecast.unique_id) + 1)
        return replace(forecast, measured={"bars_corrected": measured})


def test_optional_columns_are_handed_over_when_the_frame_has_them():
    measuring, history = Measuring(), simulated(length=40)
    origin = pd.DatetimeIndex(["2020-01-20"])
    rolling(measuring, history.assign(volume=7.0, colour=1.0), origin, 1)
    rolling(measuring, history, origin, 1)
    with_volume, without = measuring.histories
    assert (list(with_volume.columns), list(without.columns)) == (["y", "volume"], ["y"])


def test_what_a_forecast_measured_is_averaged_like_a_score():
    forecasts = rolling(Measuring(), simulated(), pd.DatetimeIndex(["2020-02-20", "2020-02-21"]), 2)
    assert list(forecasts.columns[-6:]) == [*map(names.quantile_column, LEVELS), "bars_corrected"]
    npt.assert_array_equal(forecasts["bars_corrected"], np.repeat([1, 2, 3, 2, 4, 6], 2))
    scored = scores(forecasts)
    assert means(scored).loc[0, "bars_corrected"] == 3.0
    assert means(scored, "unique_id")["bars_corrected"].tolist() == [1.5, 3.0, 4.5]


def test_progress_is_told_origin_by_origin():
    reports: list[tuple[int, ...]] = []
    origins = pd.DatetimeIndex(["2020-02-20", "2020-02-21", "2020-02-22"])
    rolling(Constant(), simulated(), origins, 1, progress=lambda *report: reports.append(report))
    assert reports == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("origin", "horizon"),
    [("2020-03-29", 2), ("2020-02-28", 1), ("2019-12-31", 1), ("2020-04-10", 1)],
    ids=[
        "without outcomes",
        "59 of 60 sessions",
        "before the first session",
        "after the last session",
    ],
)
def test_an_origin_at_which_no_series_takes_part_is_an_error(origin: str, horizon: int):
    message = f"^0 of 3 series have 60 sessions up to {origin}"
    with pytest.raises(BadHistory, match=message) as caught:
        rolling(EWMA, simulated(), pd.DatetimeIndex(["2020-03-20", origin]), horizon)
    assert caught.value.code == "NO_ORIGINS"


class Crossing(Constant):
    def predict(self, *args: Any) -> Forecast:
        forecast = super().predict(*args)
        return replace(forecast, quantiles=forecast.quantiles[..., ::-1])


def test_a_forecast_that_breaks_the_contract_is_not_scored():
    with pytest.raises(BadForecast, match="cross"):
        rolling(Crossing(), simulated(), pd.DatetimeIndex(["2020-02-20"]), 1)


# --- scores -----------------------------------------------------------------------------------


def frame(
    y: Sequence[float], quantiles: Sequence[float], levels: Sequence[float], mean: float = 0.0
) -> pd.DataFrame:
    """Rows as `rolling` gives them, one series, step 1, the same forecast for every outcome."""
    days = pd.date_range("2020-01-01", periods=len(y))
    named = {names.quantile_column(level): q for level, q in zip(levels, quantiles, strict=True)}
    return pd.DataFrame(
        {"unique_id": "S0", "origin": days, "step": 1, "ds": days, "y": y, "mean": mean} | named
    )


def test_scores_of_two_outcomes_by_hand():
    scored = scores(frame([0.0, 6.0], [-4.0, -1.0, 1.0, 2.0, 4.0], LEVELS, mean=0.5))
    # y = 0: .05 x 4 + .25 x 1 + .5 x 1 + .25 x 2 + .05 x 4 = 1.65
    # y = 6: .05 x 10 + .25 x 7 + .5 x 5 + .75 x 4 + .95 x 2 = 9.65
    npt.assert_allclose(scored["pinball"], [1.65 / 5, 9.65 / 5], rtol=1e-12)
    npt.assert_allclose(scored["crps"], [3.3 / 5, 19.3 / 5], rtol=1e-12)
    npt.assert_allclose(scored["abs_error"], [1, 5], rtol=1e-12)
    npt.assert_allclose(scored["bias"], [0.5, -5.5], rtol=1e-12)
    npt.assert_array_equal(scored["direction"], [np.nan, 1.0])
    npt.assert_array_equal(scored["covered_90"], [1, 0])
    npt.assert_allclose(scored["winkler_90"], [8, 8 + 2 / 0.1 * 2], rtol=1e-9)
    npt.assert_array_equal(scored["covered_50"], [1, 0])
    npt.assert_allclose(scored["winkler_50"], [3, 3 + 2 / 0.5 * 4], rtol=1e-9)
    # .1 and .9 are a quarter of the way from .05 to .25: the 80 % band is -3.25 .. 3.5
    npt.assert_allclose(scored["winkler_80"], [6.75, 6.75 + 2 / 0.2 * 2.5], rtol=1e-9)


def test_a_perfect_forecast_scores_0():
    scored = scores(frame([0.3], [0.3] * 5, LEVELS, mean=0.3))
    shares = ["covered_50", "covered_80", "covered_90", "direction"]
    npt.assert_allclose(scored.drop(columns=[*KEYS, *shares]), 0, atol=1e-15)
    npt.assert_array_equal(scored[shares], 1)


def test_bands_that_the_levels_do_not_span_are_left_out():
    scored = scores(frame([0.0], [-1.0, 1.0], (0.25, 0.75)))
    assert [c for c in scored if c.startswith("covered")] == ["covered_50"]
    assert "abs_error" in scored
    assert "abs_error" not in scores(frame([0.0], [-2.0, -1.0], (0.1, 0.2)))


def test_scores_are_those_of_the_metrics_on_real_forecasts():
    history = simulated()
    forecasts = rolling(EWMA, history, origins_between(history, "2020-03-05", None, 3), 3)
    scored = scores(forecasts)
    y = forecasts["y"].to_numpy()
    q = forecasts[[names.quantile_column(level) for level in names.LEVELS]].to_numpy()
    npt.assert_allclose(scored["crps"], metrics.crps(y, q, names.LEVELS), rtol=1e-12)
    npt.assert_allclose(scored["winkler_90"], metrics.winkler(y, q[:, 0], q[:, -1], 0.9), rtol=1e-9)
    npt.assert_array_equal(scored["covered_80"], metrics.inside(y, q[:, 1], q[:, -2]))
    npt.assert_array_equal(scored["abs_error"], np.abs(y - q[:, 5]))
    npt.assert_array_equal(scored["direction"], metrics.direction(y, forecasts["mean"].to_numpy()))
    pd.testing.assert_frame_equal(scored[KEYS], forecasts[KEYS])


@pytest.mark.parametrize(
    "levels", [names.LEVELS, (0.001, 0.025, 0.5), (0.00001, 0.5, 0.99999)], ids=str
)
def test_levels_are_read_from_the_columns(levels: tuple[float, ...]):
    columns = frame([0.0], [0.0] * len(levels), levels).assign(quality=1.0, q=2.0)
    assert levels_of(columns) == levels


def scored_constant(sigma: float, history: pd.DataFrame, horizon: int = 2) -> pd.DataFrame:
    origins = origins_between(history, "2020-01-20", None, horizon)
    return scores(rolling(Constant(sigma), history, origins, horizon))


def test_means_under_published_names_over_all_and_by_group():
    scored = scored_constant(0.01, simulated())
    over_all, by_series = means(scored), means(scored, "unique_id")
    assert {"mae_median", "coverage_90", "crps", "bias", "winkler_50"} <= set(over_all.columns)
    assert not {"abs_error", "covered_90", *KEYS} & set(over_all.columns)
    npt.assert_allclose(over_all.loc[0, "coverage_90"], scored["covered_90"].mean(), rtol=1e-12)
    assert list(by_series.index) == ["S0", "S1", "S2"]
    for name in by_series.index:
        rows = scored[scored["unique_id"] == name]
        npt.assert_allclose(by_series.loc[name, "crps"], rows["crps"].mean(), rtol=1e-12)
    assert list(means(scored, "step").index) == [1, 2]


def test_coverage_of_a_true_forecast_is_nominal():
    history = simulated(n=4, length=2000).assign(y=np.random.default_rng(0).normal(0, 0.01, 8000))
    averages = means(scored_constant(0.01, history, horizon=1)).iloc[0]
    npt.assert_allclose(
        averages[["coverage_50", "coverage_90"]].astype(float), [0.5, 0.9], atol=0.015
    )


def test_an_outcome_without_direction_is_left_out_of_its_mean():
    scored = scores(frame([0.0, 6.0, -6.0, 6.0], [-4.0, -1.0, 1.0, 2.0, 4.0], LEVELS, mean=0.5))
    npt.assert_allclose(means(scored).loc[0, "direction"], 2 / 3, rtol=1e-15)


def test_pit_is_the_level_at_which_the_forecast_has_the_outcome():
    levels = (0.1, 0.4, 0.6, 0.9)
    y = np.array([-2.0, -1.0, 0.5, 1.0, 1.5, 3.0])
    q = np.tile([-1.0, 0.0, 1.0, 2.0], (len(y), 1))
    npt.assert_allclose(metrics.pit(y, q, levels), [0.05, 0.1, 0.5, 0.6, 0.75, 0.95], rtol=1e-12)
    flat = np.zeros((3, 4))
    y = np.array([-1.0, 0.0, 1.0])
    npt.assert_allclose(metrics.pit(y, flat, levels), [0.05, 0.5, 0.95], rtol=1e-12)


def test_pit_of_many_levels_is_the_distribution_function():
    levels = tuple(np.linspace(0.001, 0.999, 999))
    y = np.random.default_rng(0).normal(size=(50, 2))
    quantiles = np.broadcast_to(norm.ppf(levels), (50, 2, 999))
    npt.assert_allclose(metrics.pit(y, quantiles, levels), norm.cdf(y), atol=1e-5)


def test_scores_of_a_step_are_those_of_an_evaluation():
    levels = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    origins = pd.date_range("2020-02-20", periods=20)
    forecasts = rolling(Constant(levels=levels), simulated(), origins, 3)
    columns = [names.quantile_column(level) for level in levels]
    y = forecasts[names.Y].to_numpy()
    scored = of_step(y, forecasts[columns].to_numpy(), levels)
    expected = scores(forecasts)
    assert list(scored) == ["crps", "pit", "covered_50", "covered_80", "covered_90"]
    for name in set(scored) - {"pit"}:
        npt.assert_array_equal(scored[name], expected[name])


# --- rank IC ----------------------------------------------------------------------------------


def ranked(series: int = 6, origins: int = 40) -> pd.DataFrame:
    """Rows as `rolling` gives them, two steps. Mean and outcome are related at step 1 only, and one
    origin lacks two series."""
    rng = np.random.default_rng(3)
    days = pd.date_range("2020-01-01", periods=origins)
    rows = []
    for day in days:
        for i in range(series if day != days[5] else series - 2):
            for step in (1, 2):
                rows.append((f"S{i}", day, step, rng.normal(), rng.normal()))
    table = pd.DataFrame(rows, columns=["unique_id", "origin", "step", "y", "mean"])
    return table.assign(mean=table["mean"] + np.where(table["step"] == 1, table["y"], 0))


def test_rank_ic_is_the_mean_over_origins_of_spearmans_correlation_across_series():
    table = ranked()
    by_step = rank_ic(table)
    for step in (1, 2):
        correlations = []
        for _, rows in table[table["step"] == step].groupby("origin"):
            if len(rows) >= metrics.MIN_SERIES:
                correlations.append(spearmanr(rows["mean"], rows["y"]).statistic)
        assert len(correlations) == 39
        npt.assert_allclose(by_step[step], np.mean(correlations), rtol=1e-12)
    assert by_step[1] > 0.5 > abs(by_step[2]) + 0.2


def test_rank_ic_does_not_depend_on_the_order_of_the_rows():
    table = ranked()
    shuffled = rank_ic(table.sample(frac=1, random_state=0))
    for step, value in rank_ic(table).items():
        npt.assert_allclose(shuffled[step], value, rtol=1e-12)


def test_rank_ic_of_too_few_series_or_of_one_mean_for_all_is_not_reported():
    assert rank_ic(ranked(series=metrics.MIN_SERIES - 1)) == {}
    assert rank_ic(ranked().assign(mean=0.001)) == {}


# --- against a reference ----------------------------------------------------------------------


def test_skill_by_hand_and_both_tests_on_the_average_per_origin():
    history = simulated()
    model, reference = scored_constant(0.01, history), scored_constant(0.03, history)
    skill = against(model, reference)
    of_model, of_reference = (s.groupby("origin")["crps"].mean() for s in (model, reference))
    test = difference.diebold_mariano((of_reference - of_model).to_numpy(), 2)
    expected = 1 - model["crps"].mean() / reference["crps"].mean()
    npt.assert_allclose(skill.skill, expected, rtol=1e-12)
    npt.assert_allclose(skill.test.p_hln, test.p_hln, rtol=1e-9)
    npt.assert_allclose(skill.test.p_bartlett, test.p_bartlett, rtol=1e-9)
    assert skill.skill > 0.1


def test_skill_at_one_step_looks_at_that_step_and_its_lags():
    history = simulated()
    model, reference = scored_constant(0.01, history), scored_constant(0.03, history)
    skill = against(model, reference, step=1)
    of_model, of_reference = (
        scored[scored["step"] == 1].groupby("origin")["crps"].mean().to_numpy()
        for scored in (model, reference)
    )
    test = difference.diebold_mariano(of_reference - of_model, 1)
    npt.assert_allclose(skill.skill, 1 - of_model.mean() / of_reference.mean(), rtol=1e-12)
    npt.assert_allclose(skill.test.p_hln, test.p_hln, rtol=1e-9)


@pytest.mark.parametrize(("every", "lags"), [(1, 5), (2, 3), (4, 2), (5, 1), (20, 1)])
def test_origins_further_apart_overlap_at_fewer_lags(every: int, lags: int):
    history = simulated(length=90)
    model, reference = (scored_constant(sigma, history, horizon=5) for sigma in (0.01, 0.011))
    losses = (reference["crps"] - model["crps"]).groupby(model["origin"]).mean().to_numpy()
    expected = difference.diebold_mariano(losses, lags)
    test = against(model, reference, every=every).test
    npt.assert_allclose(test.p_hln, expected.p_hln, rtol=1e-9)
    npt.assert_allclose(test.p_bartlett, expected.p_bartlett, rtol=1e-9)


def test_every_origin_weighs_the_same_however_many_series_take_part():
    days = pd.to_datetime(["2020-01-01"] * 3 + ["2020-01-02"])
    model = pd.DataFrame({"unique_id": ["A", "B", "C", "A"], "origin": days, "step": 1})
    model["crps"] = [1.0, 1.0, 1.0, 2.0]
    skill = against(model, model.assign(crps=[2.0, 2.0, 2.0, 1.0]))
    npt.assert_allclose(skill.skill, 0.0, atol=1e-15)  # by rows it would be 1 - 5 / 7


def test_skill_is_positive_for_the_better_one_whichever_is_the_reference():
    history = simulated()
    good, bad = scored_constant(0.01, history), scored_constant(0.05, history)
    assert against(good, bad).skill > 0 > against(bad, good).skill


def test_a_model_has_no_skill_against_itself():
    scored = scored_constant(0.01, simulated())
    assert against(scored, scored.copy()) == Skill(0.0, difference.DieboldMariano(1.0, 1.0))


def test_skill_over_fewer_origins_than_steps_is_no_evidence():
    history = simulated(length=27)  # two origins of five steps
    model, reference = (scored_constant(sigma, history, horizon=5) for sigma in (0.01, 0.03))
    assert model["origin"].nunique() == 2
    assert against(model, reference).test.p == 1.0


def test_models_scored_on_other_rows_are_not_compared():
    scored = scored_constant(0.01, simulated())
    for other_rows in (
        scored.iloc[:-1],
        scored.assign(step=scored["step"] + 1),
        scored_constant(0.01, simulated(n=2)),
    ):
        with pytest.raises(BadInput, match="same origins"):
            against(scored, other_rows)


def test_reliability_counts_outcomes_at_or_below_each_quantile():
    table = reliability(frame([-2.0, -1.0, 0.0, 3.0], [-1.0, 0.5, 9.0], (0.1, 0.5, 0.9)))
    assert list(table["level"]) == [0.1, 0.5, 0.9]
    npt.assert_allclose(table["observed"], [0.5, 0.75, 1.0], rtol=1e-12)
    assert list(table["n"]) == [4, 4, 4]
