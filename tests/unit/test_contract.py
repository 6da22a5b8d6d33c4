"""Histories, requests and forecasts: every check with an input that breaks it."""

import dataclasses
import json
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import norm
from shared import SHARED

from registry.errors import (
    BadConfig,
    BadForecast,
    BadHistory,
    BadParameter,
    KronosError,
    NotAvailable,
    NotFound,
)
from registry.forecast import bars, calendars, names, rendering
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecast, check_forecast
from registry.forecast.history import History, Refused
from registry.forecast.quantiles import interpolated, quantile_mean
from registry.forecast.spec import ModelSpec, Option
from registry.training import Config, Count, Rate, Share

NAMES = ("ALFA", "BRAVO", "CHARLIE")
SESSIONS = 6
SPEC = ModelSpec(
    name="model",
    family="family",
    min_context=4,
    max_context=5,
    max_horizon=3,
    columns=(*names.HISTORY, names.MARKET_ABS_RETURN),
    options=(
        Option("num_samples", "long", 100, minimum=1, maximum=1000),
        Option("temperature", "double", 1.0, minimum=0.0),
        Option("overflow", "string", "refuse", choices=("refuse", "truncate")),
        Option("fast", "boolean", False),
        Option("note", "string", ""),
    ),
)


def history() -> pd.DataFrame:
    """Three series of six sessions and a market column. No message holds one of its numbers by
    chance."""
    rng = np.random.default_rng(7)
    days = calendars.next_sessions("XNYS", pd.Timestamp("2020-01-03"), SESSIONS)
    return pd.DataFrame(
        {
            names.UNIQUE_ID: np.repeat(NAMES, SESSIONS),
            names.DS: np.tile(days, len(NAMES)),
            names.Y: rng.normal(0, 0.01, SESSIONS * len(NAMES)),
            names.MARKET_ABS_RETURN: np.tile(rng.uniform(0.005, 0.02, SESSIONS), len(NAMES)),
        }
    )


def with_value(column: str, row: int, value: Any) -> pd.DataFrame:
    """The history with one value changed."""
    frame = history()
    values = list(frame[column])
    values[row] = value
    return frame.assign(**{column: values})


def with_ids(*symbols: Any) -> pd.DataFrame:
    column = np.repeat(np.array(symbols, dtype=object), SESSIONS)
    return history().assign(unique_id=pd.Series(column, dtype=object))


def still(moving: int) -> pd.DataFrame:
    """The history in which one series does not move after its first `moving` sessions."""
    frame = history()
    moves = (frame[names.UNIQUE_ID] != "BRAVO") | (frame[names.DS] < frame[names.DS].iloc[moving])
    return frame.assign(y=frame["y"].where(moves, 0.0))


def shortened(series: int, sessions: int) -> pd.DataFrame:
    """The history in which one series has only its first `sessions` sessions."""
    frame = history()
    others = frame[names.UNIQUE_ID] != NAMES[series]
    return frame[others | (frame[names.DS] < frame[names.DS].iloc[sessions])]


def refused(frame: pd.DataFrame, spec: ModelSpec) -> BadHistory | Refused:
    """The error of a bad history, or its one refused series."""
    try:
        [series] = check_history(frame, spec).refused
    except BadHistory as error:
        return error
    return series


def assert_repeats_no_data(error: KronosError | Refused, frame: pd.DataFrame) -> None:
    symbols = {str(name) for name in frame.get(names.UNIQUE_ID, ()) if len(str(name)) > 1}
    y = pd.to_numeric(pd.Series(frame.get(names.Y, ())), errors="coerce")
    numbers = y.to_numpy(dtype=np.float64)
    digits = {f"{abs(y):.3g}" for y in numbers[np.isfinite(numbers)] if y % 1}
    assert [word for word in symbols | digits if word in error.message] == []


# --- histories --------------------------------------------------------------------------------

BAD_HISTORIES: list[tuple[str, Callable[[], pd.DataFrame], str]] = [
    ("no unique_id", lambda: history().drop(columns="unique_id"), "MISSING_COLUMN"),
    ("no ds", lambda: history().drop(columns="ds"), "MISSING_COLUMN"),
    ("no y", lambda: history().drop(columns="y"), "MISSING_COLUMN"),
    ("no covariate", lambda: history().drop(columns=names.MARKET_ABS_RETURN), "MISSING_COLUMN"),
    ("no rows", lambda: history().iloc[:0], "EMPTY"),
    (
        "dates in another order",
        lambda: history().assign(ds=lambda f: f["ds"].dt.strftime("%d/%m/%Y")),
        "BAD_TIMESTAMP",
    ),
    ("months as text", lambda: history().assign(ds="2020-01"), "BAD_TIMESTAMP"),
    (
        "a column twice",
        lambda: pd.concat([history(), history()[[names.MARKET_ABS_RETURN]]], axis=1),
        "DUPLICATE_COLUMN",
    ),
    (
        "a date on a Saturday",
        lambda: with_value("ds", 5, pd.Timestamp("2020-01-11")),
        "NOT_A_SESSION",
    ),
    ("dates as numbers", lambda: history().assign(ds=range(18)), "BAD_TIMESTAMP"),
    (
        "a time zone",
        lambda: history().assign(ds=lambda f: f["ds"].dt.tz_localize("UTC")),
        "BAD_TIMESTAMP",
    ),
    (
        "a time of day",
        lambda: with_value("ds", 3, pd.Timestamp("2020-01-09 16:00")),
        "BAD_TIMESTAMP",
    ),
    (
        "dates of a far future as Arrow's",
        lambda: history().assign(
            ds=pd.array([date(9999, 1, 4)] * 18, dtype=pd.ArrowDtype(pa.date32()))
        ),
        "DUPLICATE_SESSION",
    ),
    ("a missing date", lambda: with_value("ds", 3, pd.NaT), "BAD_TIMESTAMP"),
    ("a missing name", lambda: with_value("unique_id", 3, None), "BAD_SYMBOL"),
    ("an empty name", lambda: with_ids("", "BRAVO", "CHARLIE"), "BAD_SYMBOL"),
    ("names that are numbers", lambda: with_ids(101, 102, 103), "BAD_SYMBOL"),
    ("names that are complex numbers", lambda: with_ids(1j, 2j, 3j), "BAD_SYMBOL"),
    ("half a character in a name", lambda: with_ids("ALFA", "\ud800", "CHARLIE"), "BAD_SYMBOL"),
    ("series out of order", lambda: with_ids("BRAVO", "ALFA", "CHARLIE"), "UNSORTED"),
    ("a series in two parts", lambda: with_ids("ALFA", "BRAVO", "ALFA"), "UNSORTED"),
    ("sorted by date first", lambda: history().sort_values(["ds", "unique_id"]), "UNSORTED"),
    (
        "newest session first",
        lambda: history().sort_values(["unique_id", "ds"], ascending=[True, False]),
        "UNSORTED",
    ),
    ("two sessions swapped", lambda: history().iloc[[*range(7), 8, 7, *range(9, 18)]], "UNSORTED"),
    ("a session twice", lambda: history().iloc[[*range(9), *range(8, 18)]], "DUPLICATE_SESSION"),
    ("the last session twice", lambda: history().iloc[[*range(18), 17]], "DUPLICATE_SESSION"),
    ("returns as text", lambda: history().assign(y=lambda f: f["y"].astype(str)), "NOT_A_NUMBER"),
    ("returns as truth values", lambda: history().assign(y=lambda f: f["y"] > 0), "NOT_A_NUMBER"),
    ("a covariate as text", lambda: history().assign(market_abs_return="0.0123"), "NOT_A_NUMBER"),
    ("a return of NaN", lambda: with_value("y", 4, np.nan), "NON_FINITE"),
    ("an infinite return", lambda: with_value("y", 4, -np.inf), "NON_FINITE"),
    (
        "a missing return",
        lambda: history().assign(y=pd.array([0.0123] * 17 + [pd.NA], dtype="Float64")),
        "NON_FINITE",
    ),
    ("a covariate of NaN", lambda: with_value(names.MARKET_ABS_RETURN, 4, np.nan), "NON_FINITE"),
    ("a price for a return", lambda: with_value("y", 4, 173.45), "BAD_RETURN"),
    ("a negative price for a return", lambda: with_value("y", 4, -1.0173), "BAD_RETURN"),
    ("returns of 0 alone", lambda: still(0), "HALTED"),
    ("a return before the context, then 0 alone", lambda: still(1), "HALTED"),
    ("one short series", lambda: shortened(1, SPEC.min_context - 1), "TOO_SHORT"),
]


@pytest.mark.parametrize(
    ("frame", "code"), [row[1:] for row in BAD_HISTORIES], ids=[row[0] for row in BAD_HISTORIES]
)
def test_a_bad_history_is_refused_by_code_and_its_data_is_not_repeated(
    frame: Callable[[], pd.DataFrame], code: str
):
    fault = refused(frame(), SPEC)
    assert fault.code == code
    assert_repeats_no_data(fault, frame())


def test_a_whole_number_beyond_float64_is_refused():
    with pytest.raises(BadHistory, match="y holds a number beyond float64") as caught:
        check_history(history().assign(y=pd.Series([10**400] * 18, dtype=object)), SPEC)
    assert caught.value.code == "NON_FINITE"


JOINT = ModelSpec("graph", "graph", 4, 5, 3, joint=True, universe=NAMES)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (history()[history()["unique_id"] != "BRAVO"], "UNIVERSE"),
        (with_ids("ALFA", "BRAVO", "DELTA"), "UNIVERSE"),
        (shortened(2, 5), "CUTOFFS_DIFFER"),
    ],
    ids=["a series of the universe is missing", "a series of another universe", "cutoffs differ"],
)
def test_a_joint_model_refuses_another_universe_and_differing_cutoffs(
    frame: pd.DataFrame, code: str
):
    with pytest.raises(BadHistory) as caught:
        check_history(frame, JOINT)
    assert caught.value.code == code
    assert_repeats_no_data(caught.value, frame)


def test_a_joint_model_takes_its_universe():
    check_history(history(), JOINT)


@pytest.mark.parametrize(
    "frame",
    [
        history(),
        history().assign(unique_id=lambda f: f["unique_id"].astype("category")),
        history().assign(unique_id=lambda f: f["unique_id"].astype(object)),
        history().assign(ds=lambda f: f["ds"].astype("datetime64[us]")),
        history().assign(y=lambda f: f["y"].astype("float32")),
        history().assign(y=1),
        history().assign(sector="unknown"),
        with_value("y", 4, 1.0),
        with_value("y", 4, -1.0),
        shortened(1, SPEC.min_context),
        history().iloc[:6],
        history().set_index(np.arange(18)[::-1]),
    ],
    ids=[
        "as it is",
        "names as categories",
        "names as objects",
        "dates in microseconds",
        "returns in float32",
        "whole numbers",
        "a column more",
        "a return of 1",
        "a return of -1",
        "just long enough",
        "one series",
        "an index out of order",
    ],
)
def test_a_sound_history_passes_and_is_left_as_it_was(frame: pd.DataFrame):
    before = frame.copy()
    check_history(frame, SPEC)
    pd.testing.assert_frame_equal(frame, before)


def test_the_message_for_a_short_history_says_which_series_and_how_many_sessions_are_needed():
    fault = refused(shortened(1, 3), SPEC)
    assert fault.message == "series 2 of 3 has 3 sessions, model needs 4"
    with pytest.raises(
        BadHistory, match=r"^series 1 of 3 has 6 sessions, .* needs 7; 3 series were refused$"
    ):
        check_history(history(), ModelSpec("long", "family", 7, 9, 3))


def test_the_message_for_a_double_session_says_which_series_and_row():
    with pytest.raises(BadHistory, match=r"^series 2 of 3 has the same session twice \(row 9\)"):
        check_history(history().iloc[[*range(9), *range(8, 18)]], SPEC)


def arrow(values: Any, kind: pa.DataType) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values).cast(kind)))


DICTIONARY = pa.dictionary(pa.int8(), pa.string())
ARROW_TEXT = pd.ArrowDtype(pa.string())
PYTHON_TEXT = pd.StringDtype("python")
SAME_HISTORIES: list[tuple[str, Callable[[pd.DataFrame], Any]]] = [
    ("names as objects", lambda f: {"unique_id": f["unique_id"].astype(object)}),
    ("names as categories", lambda f: {"unique_id": f["unique_id"].astype("category")}),
    ("names as Arrow text", lambda f: {"unique_id": f["unique_id"].astype(ARROW_TEXT)}),
    ("names as a dictionary", lambda f: {"unique_id": arrow(list(f["unique_id"]), DICTIONARY)}),
    ("names as Python's text", lambda f: {"unique_id": f["unique_id"].astype(PYTHON_TEXT)}),
    ("dates in seconds", lambda f: {"ds": f["ds"].astype("datetime64[s]")}),
    ("dates as objects", lambda f: {"ds": f["ds"].dt.date}),
    ("dates as ISO text", lambda f: {"ds": f["ds"].dt.strftime("%Y-%m-%d")}),
    ("dates as ISO objects", lambda f: {"ds": f["ds"].dt.strftime("%Y-%m-%d").astype(object)}),
    ("dates of Arrow", lambda f: {"ds": arrow(f["ds"].dt.date.tolist(), pa.date32())}),
    ("timestamps of Arrow", lambda f: {"ds": arrow(f["ds"].tolist(), pa.timestamp("us"))}),
    ("nullable numbers", lambda f: {"y": f["y"].astype("Float64")}),
    ("numbers of Arrow", lambda f: {"y": arrow(f["y"].tolist(), pa.float64())}),
    ("numbers as objects", lambda f: {"y": f["y"].astype(object)}),
]


@pytest.mark.parametrize(
    "change", [row[1] for row in SAME_HISTORIES], ids=[row[0] for row in SAME_HISTORIES]
)
def test_a_type_that_changes_no_number_changes_no_history(change: Callable[[pd.DataFrame], Any]):
    frame = history()
    expected = check_history(frame, SPEC)
    checked = check_history(frame.assign(**change(frame)), SPEC)
    assert checked.ids == expected.ids
    npt.assert_array_equal(checked.bounds, expected.bounds)
    npt.assert_array_equal(checked.ds, expected.ds)
    for name, values in expected.columns.items():
        npt.assert_array_equal(checked.columns[name], values)


def test_whole_numbers_are_numbers_and_the_frame_of_a_history_is_the_frame_it_came_from():
    frame = bar_history().assign(volume=lambda f: f["volume"].astype("int64"))
    checked = check_history(frame, BARS)
    npt.assert_array_equal(checked.columns["volume"], frame["volume"])
    again = checked.frame()
    pd.testing.assert_frame_equal(again, bar_history()[list(again.columns)])


# --- histories of bars --------------------------------------------------------------------------

BARS = ModelSpec(
    name="prices",
    family="family",
    min_context=3,
    max_context=SESSIONS,
    max_horizon=3,
    columns=(*names.HISTORY, *names.OHLC),
    optional=(names.VOLUME, names.AMOUNT),
    has_paths=True,
    has_prices=True,
)


def bar_history() -> pd.DataFrame:
    """The history as bars on one price basis, with volume and amount."""
    frame = history()
    close = 57.31 * np.exp(frame.groupby(names.UNIQUE_ID)[names.Y].cumsum().to_numpy())
    frame = frame.assign(open=0.99 * close, high=1.02 * close, low=0.97 * close, close=close)
    return frame.assign(volume=np.arange(18) * 1000.0, amount=np.arange(18) * 57e3)


def without(*columns: str) -> pd.DataFrame:
    return bar_history().drop(columns=list(columns))


@pytest.mark.parametrize(
    ("frame", "columns"),
    [
        (bar_history(), ["y", "open", "high", "low", "close", "volume", "amount"]),
        (
            bar_history()[bar_history().columns[::-1]],
            ["y", "open", "high", "low", "close", "volume", "amount"],
        ),
        (without("amount"), ["y", "open", "high", "low", "close", "volume"]),
        (without("volume"), ["y", "open", "high", "low", "close", "amount"]),
        (without("volume", "amount"), ["y", "open", "high", "low", "close"]),
    ],
    ids=["both", "in another order", "no amount", "no volume", "neither"],
)
def test_optional_columns_are_taken_where_they_are_sent(frame: pd.DataFrame, columns: list[str]):
    checked = check_history(frame, BARS)
    assert list(checked.columns) == columns
    for name in columns:
        npt.assert_array_equal(checked.columns[name], frame[name])


@pytest.mark.parametrize(
    ("frame", "code", "message"),
    [
        (without("low"), "MISSING_COLUMN", "history lacks low; prices needs unique_id, ds"),
        (bar_history().assign(volume="many"), "NOT_A_NUMBER", "volume must be numbers"),
        (
            bar_history().assign(volume=None),
            "NON_FINITE",
            "series 1 of 3 has volume that is not finite in 6 of 6 sessions, first on 2020-01-06",
        ),
        (
            bar_history().assign(volume=np.nan),
            "NON_FINITE",
            "series 1 of 3 has volume that is not finite in 6 of 6 sessions, first on 2020-01-06",
        ),
        (
            bar_history().assign(amount=[*range(17), np.inf]),
            "NON_FINITE",
            "series 3 of 3 has amount that is not finite in 1 of 6 sessions, first on 2020-01-13",
        ),
        (bar_history().assign(volume=-1), "BAD_VOLUME", "has negative volume in 6 of 6"),
        (
            bar_history().assign(low=lambda f: f["high"] + 1),
            "BAD_BAR",
            "has high below low in 6 of 6",
        ),
        (bar_history().assign(y=0.0123), "PRICE_BASIS", "one price basis"),
    ],
    ids=[
        "no low",
        "volume as text",
        "volume of None",
        "volume of NaN",
        "an infinite amount",
        "negative volume",
        "low above high",
        "y of other prices",
    ],
)
def test_bad_bars_are_refused_by_code_and_their_data_is_not_repeated(
    frame: pd.DataFrame, code: str, message: str
):
    fault = refused(frame, BARS)
    assert fault.code == code
    assert message in fault.message
    assert_repeats_no_data(fault, frame)


def test_a_model_of_returns_does_not_look_at_bars():
    frame = bar_history().assign(low=np.nan, volume=-1.0)
    assert list(check_history(frame, SPEC).columns) == [names.Y, names.MARKET_ABS_RETURN]


def test_the_last_value_of_a_column_is_that_of_each_series_last_session():
    frame = bar_history().drop(index=[5, 17])
    closes = frame.groupby(names.UNIQUE_ID)["close"].last()
    npt.assert_array_equal(check_history(frame, BARS).last("close"), closes)


# --- requests ---------------------------------------------------------------------------------

MEDIAN = (0.5,)
BAD_REQUESTS: list[tuple[str, int, Any, dict[str, Any], str]] = [
    ("no horizon", 0, MEDIAN, {}, "BAD_HORIZON"),
    ("a negative horizon", -(10**18), MEDIAN, {}, "BAD_HORIZON"),
    ("a horizon beyond the model's", 4, MEDIAN, {}, "BAD_HORIZON"),
    ("no levels", 1, (), {}, "BAD_LEVELS"),
    ("100 levels", 1, np.linspace(0.1, 0.9, 100), {}, "BAD_LEVELS"),
    ("a table of levels", 1, [[0.1, 0.2]], {}, "BAD_LEVELS"),
    ("a level of 0", 1, (0.0, 0.5), {}, "BAD_LEVELS"),
    ("a level of 1", 1, (0.5, 1.0), {}, "BAD_LEVELS"),
    ("a level in per cent", 1, (5, 50), {}, "BAD_LEVELS"),
    ("a level of NaN", 1, (0.1, np.nan), {}, "BAD_LEVELS"),
    ("a level that is text", 1, ("low",), {}, "BAD_LEVELS"),
    ("levels descending", 1, (0.9, 0.5), {}, "BAD_LEVELS"),
    ("a level twice", 1, (0.5, 0.5), {}, "BAD_LEVELS"),
    ("a level below the trained ones", 1, (0.01, 0.5), {}, "BAD_LEVELS"),
    ("a level above the trained ones", 1, (0.5, 0.99), {}, "BAD_LEVELS"),
    ("an unknown parameter", 1, MEDIAN, {"top_p": 0.9}, "UNKNOWN_PARAM"),
    ("a parameter whose name is no text", 1, MEDIAN, {7: 0.9, "top_p": 0.9}, "UNKNOWN_PARAM"),
    ("a seed of many digits", 1, MEDIAN, {"seed": 10**400}, "BAD_SEED"),
    ("a text option that is a number", 1, MEDIAN, {"note": 5}, "BAD_OPTION"),
    ("a long below its minimum", 1, MEDIAN, {"num_samples": 0}, "BAD_OPTION"),
    ("a long above its maximum", 1, MEDIAN, {"num_samples": 10**9}, "BAD_OPTION"),
    ("a long that is text", 1, MEDIAN, {"num_samples": "many"}, "BAD_OPTION"),
    ("a long that is None", 1, MEDIAN, {"num_samples": None}, "BAD_OPTION"),
    ("a double below its minimum", 1, MEDIAN, {"temperature": -0.1}, "BAD_OPTION"),
    ("a double of NaN", 1, MEDIAN, {"temperature": np.nan}, "BAD_OPTION"),
    ("an infinite double without a maximum", 1, MEDIAN, {"temperature": np.inf}, "BAD_OPTION"),
    ("a choice that is none", 1, MEDIAN, {"overflow": "explode"}, "BAD_OPTION"),
    ("a number beyond every type", 1, MEDIAN, {"num_samples": 2**70}, "BAD_OPTION"),
    ("an array for a number", 1, MEDIAN, {"num_samples": np.array([3])}, "BAD_OPTION"),
    ("an array among the levels", 1, [np.array([0.1]), 0.5], {}, "BAD_LEVELS"),
    (
        "one bad option among good ones",
        1,
        MEDIAN,
        {"num_samples": 5, "overflow": "explode"},
        "BAD_OPTION",
    ),
]


@pytest.mark.parametrize(
    ("horizon", "levels", "options", "code"),
    [row[1:] for row in BAD_REQUESTS],
    ids=[row[0] for row in BAD_REQUESTS],
)
def test_a_bad_request_is_refused_by_code(
    horizon: int, levels: Any, options: dict[str, Any], code: str
):
    with pytest.raises(BadParameter) as caught:
        SPEC.request({"horizon": horizon, "levels": levels, **options})
    assert caught.value.code == code
    assert not {"explode", "many", "low"} & set(caught.value.message.replace("'", " ").split())


@pytest.mark.parametrize(
    ("horizon", "levels", "options"),
    [
        (1, names.LEVELS, {}),
        (3, (0.05, 0.95), {"num_samples": 1, "temperature": 0.0}),
        (
            3,
            (0.051, 0.9499),
            {"num_samples": 1000, "temperature": 1e9, "overflow": "truncate", "fast": True},
        ),
        (1, np.linspace(0.05, 0.95, 99), {}),
    ],
)
def test_a_request_at_the_bounds_passes(horizon: int, levels: Any, options: dict[str, Any]):
    request = SPEC.request({"horizon": horizon, "levels": levels, **options})
    assert (request.horizon, request.levels) == (horizon, tuple(levels))
    assert {name: request.options[name] for name in options} == options


def test_what_a_request_leaves_out_has_its_default():
    request = SPEC.request()
    assert (request.horizon, request.levels, request.seed) == (3, SPEC.levels, 0)
    assert request.options == {option.name: option.default for option in SPEC.options}


def test_numbers_of_numpy_and_a_bare_level_are_read_as_what_they_are():
    """MLflow passes parameters as NumPy values."""
    levels = np.array([0.1, 0.9])
    params = {"horizon": np.int64(2), "levels": levels, "seed": np.int64(7)}
    request = SPEC.request({**params, "fast": np.bool_(True)})
    assert (request.horizon, request.levels, request.seed) == (2, (0.1, 0.9), 7)
    assert request.options["fast"] is True
    assert SPEC.request({"levels": 0.5}).levels == (0.5,)
    mixed = [np.float32(0.25), np.float64(0.5), np.array(0.75)]
    assert SPEC.request({"levels": mixed}).levels == (0.25, 0.5, 0.75)
    scalars = SPEC.request({"horizon": np.array(2), "num_samples": np.uint8(9)})
    assert (scalars.horizon, scalars.options["num_samples"]) == (2, 9)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("horizon", "BAD_HORIZON"),
        ("levels", "BAD_LEVELS"),
        ("seed", "BAD_SEED"),
        ("num_samples", "BAD_OPTION"),
        ("overflow", "BAD_OPTION"),
        ("fast", "BAD_OPTION"),
    ],
)
def test_null_is_no_default_and_the_message_says_to_leave_it_out(name: str, code: str):
    with pytest.raises(BadParameter, match=r"null \(leave it out for the default\)") as caught:
        SPEC.request({name: None})
    assert caught.value.code == code


def test_an_option_has_its_own_type():
    options = SPEC.request({"num_samples": 3.0, "temperature": 1}).options
    assert [type(options[name]) for name in ("num_samples", "temperature")] == [int, float]


def test_a_path_model_answers_levels_beyond_the_trained_ones():
    spec = ModelSpec("paths", "scenarios", 4, 5, 3, has_paths=True)
    assert spec.request({"levels": (0.001, 0.999)}).levels == (0.001, 0.999)


# --- configs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"horizon": 0}, "BAD_HORIZON"),
        ({"horizon": 61}, "BAD_HORIZON"),
        ({"levels": ()}, "BAD_LEVELS"),
        ({"levels": (0.5, 0.1)}, "BAD_LEVELS"),
        ({"levels": (0.0, 0.5)}, "BAD_LEVELS"),
        ({"fit_until": "end of year"}, "BAD_TIME"),
        ({"fit_until": "99999-01-01"}, "BAD_TIME"),
        ({"fit_until": ""}, "BAD_TIME"),
        ({"fit_until": "NaT"}, "BAD_TIME"),
        ({"fit_until": "2018-12-31T00:00Z"}, "BAD_TIME"),
        ({"fit_until": "2019-12-31"}, "BAD_CONFIG"),
        ({"fit_until": "2020-01-02"}, "BAD_CONFIG"),
        ({"report_until": "2019-12-31"}, "BAD_CONFIG"),
        ({"report_until": "2019-06-30"}, "BAD_CONFIG"),
        ({"report_every": 0}, "BAD_CONFIG"),
    ],
    ids=str,
)
def test_a_bad_config_is_refused_by_code(settings: dict[str, Any], code: str):
    with pytest.raises((BadConfig, BadParameter)) as caught:
        Config(**SHARED | settings)
    assert caught.value.code == code
    assert caught.value.status == 400


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"horizon": 1},
        {"horizon": 60},
        {"report_until": "2020-01-01"},
        {"data": "bars", "report_every": 9},
    ],
    ids=str,
)
def test_a_config_at_the_bounds_passes(settings: dict[str, Any]):
    assert Config(**SHARED | settings).choose_until == "2019-12-31"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bounded(Config):
    units: Count = 1
    dropout: Share = 0.0
    rate: Rate = 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"units": 0}, "units is 0, expected 1 or more"),
        ({"dropout": 1.0}, "dropout is 1.0, expected 0 or more and less than 1"),
        ({"dropout": -0.1}, "dropout is -0.1, expected 0 or more and less than 1"),
        ({"dropout": np.nan}, "dropout is nan, expected 0 or more and less than 1"),
        ({"rate": 0.0}, "rate is 0.0, expected more than 0 and less than 1"),
        ({"rate": 1.0}, "rate is 1.0, expected more than 0 and less than 1"),
        ({"report_every": 0}, "report_every is 0, expected 1 or more"),
    ],
)
def test_a_setting_outside_the_bounds_of_its_type_is_refused(
    settings: dict[str, Any], message: str
):
    with pytest.raises(BadConfig) as caught:
        Bounded(**SHARED | settings)
    assert caught.value.message == message


def test_settings_at_their_bounds_pass():
    Bounded(units=1, dropout=0.0, rate=1e-9, **SHARED)
    Bounded(units=10**9, dropout=0.999999, rate=0.999999, **SHARED)


def test_a_spec_survives_json():
    assert ModelSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC
    assert ModelSpec.from_json(json.loads(json.dumps(JOINT.to_json()))) == JOINT
    assert ModelSpec.from_json(json.loads(json.dumps(BARS.to_json()))) == BARS


def test_a_spec_of_contract_1_is_read_and_one_of_a_newer_contract_refused():
    """Specs of contract 1 hold no number, and the first ones no optional columns."""
    stored = json.loads(json.dumps(SPEC.to_json()))
    assert stored.pop("contract") == names.CONTRACT == 2
    del stored["optional"]
    assert ModelSpec.from_json(stored) == SPEC
    with pytest.raises(
        NotFound, match=r"keeps contract 3, this code knows contracts up to 2"
    ) as caught:
        ModelSpec.from_json({**stored, "contract": 3})
    assert caught.value.code == "NEWER_CONTRACT"


# --- forecasts --------------------------------------------------------------------------------


def forecast(**changes: Any) -> Forecast:
    """Two series, three steps, quantiles at three levels: 0, 1, 2, ... in reading order."""
    values = {
        "unique_id": ("ALFA", "BRAVO"),
        "cutoffs": np.array(["2020-01-13", "2020-01-10"], dtype="datetime64[D]"),
        "levels": (0.1, 0.5, 0.9),
        "quantiles": np.arange(18.0).reshape(2, 3, 3),
        "mean": np.arange(6.0).reshape(2, 3) * 10,
    }
    return Forecast(**{**values, **changes})


THREE = dataclasses.replace(SPEC, levels=(0.1, 0.5, 0.9))


def with_quantile(value: float) -> np.ndarray:
    quantiles = np.arange(18.0).reshape(2, 3, 3)
    quantiles[1, 2, 1] = value
    return quantiles


@pytest.mark.parametrize(
    ("broken", "horizon", "message"),
    [
        (forecast(), 2, r"quantiles have shape \(2, 3, 3\), expected \(2, 2, 3\)"),
        (forecast(levels=(0.1, 0.9)), 3, "answered at other levels than those of its spec"),
        (
            forecast(quantiles=np.zeros((2, 3, 2))),
            3,
            r"quantiles have shape \(2, 3, 2\), expected \(2, 3, 3\)",
        ),
        (forecast(unique_id=("ALFA",)), 3, r"quantiles have shape"),
        (forecast(mean=np.zeros((2, 1))), 3, r"mean have shape \(2, 1\), expected \(2, 3\)"),
        (forecast(quantiles=with_quantile(np.nan)), 3, "not finite"),
        (forecast(mean=np.full((2, 3), np.inf)), 3, "not finite"),
        (forecast(quantiles=with_quantile(14.9)), 3, "quantiles cross"),
    ],
)
def test_a_forecast_that_breaks_the_contract_is_refused(
    broken: Forecast, horizon: int, message: str
):
    with pytest.raises(BadForecast, match=f"^model.* .*{message}") as caught:
        check_forecast(broken, THREE, THREE.request({"horizon": horizon}))
    assert caught.value.status == 500


def test_a_sound_forecast_passes_even_where_quantiles_coincide():
    check_forecast(forecast(), THREE, THREE.request())
    check_forecast(forecast(quantiles=np.zeros((2, 3, 3))), THREE, THREE.request())


def test_a_forecast_as_a_frame_has_one_row_per_series_and_step():
    sessions = np.array(
        [["2020-01-14", "2020-01-15", "2020-01-16"], ["2020-01-13", "2020-01-14", "2020-01-15"]],
        dtype="datetime64[D]",
    )
    frame = rendering.frame(forecast(), sessions)
    assert list(frame.columns) == ["unique_id", "step", "ds", "mean", "q0.1", "q0.5", "q0.9"]
    assert list(frame["unique_id"]) == ["ALFA"] * 3 + ["BRAVO"] * 3
    assert list(frame["step"]) == [1, 2, 3, 1, 2, 3]
    assert list(frame["ds"].dt.strftime("%d")) == ["14", "15", "16", "13", "14", "15"]
    npt.assert_array_equal(frame["mean"], [0, 10, 20, 30, 40, 50])
    npt.assert_array_equal(frame[["q0.1", "q0.5", "q0.9"]], np.arange(18).reshape(6, 3))
    assert forecast().horizon == 3


def test_what_a_caller_does_to_the_columns_of_a_frame_changes_no_other_frame():
    sessions = np.array([["2020-01-14", "2020-01-15", "2020-01-16"]] * 2, dtype="datetime64[D]")
    rendering.frame(forecast(), sessions).columns.name = "changed"
    assert rendering.frame(forecast(), sessions).columns.name is None


def test_a_packed_forecast_is_the_same_unpacked_even_without_notes_and_refused_for_other_series():
    """Versions before the 24th commit wrote no notes."""
    sessions = np.array([["2020-01-14", "2020-01-15", "2020-01-16"]] * 2, dtype="datetime64[D]")
    three = check_history(history(), SPEC)
    two = dataclasses.replace(three, ids=NAMES[:2], bounds=three.bounds[:3])
    reply = json.loads(json.dumps(rendering.packed(forecast(), sessions)))
    del reply["notes"]
    unpacked = rendering.unpacked(reply, two, forecast().levels)
    npt.assert_array_equal(unpacked.quantiles, forecast().quantiles)
    npt.assert_array_equal(unpacked.mean, forecast().mean)
    assert unpacked.notes == {}
    with pytest.raises(BadForecast, match="other series"):
        rendering.unpacked(reply, three, forecast().levels)


# --- forecasts of paths -------------------------------------------------------------------------

SESSIONS_AHEAD = np.array([["2020-01-12", "2020-01-13"]] * 3, dtype="datetime64[D]")


def price_paths() -> np.ndarray:
    """Possible bars [3, 4, 2, 6] after `bar_history`."""
    rng = np.random.default_rng(11)
    sampled = rng.normal([60, 61, 59, 60, 1e3, 6e4], [1, 1, 1, 1, 9e2, 1e4], (3, 4, 2, 6))
    return bars.correct(sampled, np.full(3, 57.0))[0]


TWO = dataclasses.replace(BARS, levels=(0.1, 0.9))


def of_paths(**changes: Any) -> Forecast:
    """Forecast of `price_paths` at two levels, with a measured share."""
    checked = check_history(bar_history(), BARS)
    measured = {"bars_corrected": np.array([0.25, 0.0, 0.5])}
    forecast = Forecast.of_price_paths(checked, TWO, price_paths(), notes={}, measured=measured)
    return dataclasses.replace(forecast, **changes)


def test_a_forecast_of_price_paths_is_their_returns_quantiles_and_mean():
    path_forecast, frame = of_paths(), bar_history()
    check_forecast(path_forecast, TWO, TWO.request({"horizon": 2}))
    assert path_forecast.unique_id == NAMES
    npt.assert_array_equal(path_forecast.price_paths, price_paths())
    for i, name in enumerate(NAMES):
        last = frame.loc[frame[names.UNIQUE_ID] == name, "close"].iloc[-1]
        closes = price_paths()[i, :, :, 3]
        first, second = np.log(closes[:, 0] / last), np.log(closes[:, 1] / closes[:, 0])
        for step, returns in enumerate((first, second)):
            quantiles = np.quantile(returns, (0.1, 0.9))
            npt.assert_allclose(path_forecast.mean[i, step], returns.mean(), rtol=1e-10)
            npt.assert_allclose(path_forecast.quantiles[i, step], quantiles, rtol=1e-10)
            npt.assert_allclose(path_forecast.paths[i, :, step], returns, rtol=1e-10)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"paths": None}, r"paths have shape None, expected \(3, 'S', 2\)"),
        ({"paths": np.zeros((3, 4, 3))}, r"paths have shape \(3, 4, 3\), expected \(3, 'S', 2\)"),
        ({"paths": np.zeros((2, 4, 2))}, r"paths have shape \(2, 4, 2\), expected \(3, 'S', 2\)"),
        ({"paths": np.full((3, 4, 2), np.nan)}, "paths hold a value that is not finite"),
        ({"price_paths": None}, r"price_paths have shape None, expected \(3, 'S', 2, 6\)"),
        (
            {"price_paths": np.ones((3, 4, 2, 4))},
            r"price_paths have shape \(3, 4, 2, 4\), expected \(3, 'S', 2, 6\)",
        ),
        (
            {"price_paths": np.full((3, 4, 2, 6), np.inf)},
            "price_paths hold a value that is not finite",
        ),
        ({"measured": {"odd": np.zeros(2)}}, r"odd must be 3 finite numbers, found shape \(2,\)"),
        ({"measured": {"odd": np.array([0, np.nan, 0])}}, "odd must be 3 finite numbers"),
    ],
)
def test_paths_that_break_the_contract_are_refused(broken: dict[str, Any], message: str):
    with pytest.raises(BadForecast, match=f"^prices: {message}"):
        check_forecast(of_paths(**broken), TWO, TWO.request({"horizon": 2}))


def test_prices_are_median_bars_with_mean_and_quantiles_of_the_close():
    frame = rendering.price_frame(of_paths(), SESSIONS_AHEAD)
    assert list(frame.columns) == ["unique_id", "step", "ds", *names.BAR, "mean", "q0.1", "q0.9"]
    assert list(frame["unique_id"]) == list(np.repeat(NAMES, 2))
    assert list(frame["step"]) == [1, 2] * 3
    assert list(frame["ds"].dt.strftime("%d")) == ["12", "13"] * 3
    for row in range(6):
        bar = price_paths()[row // 2, :, row % 2]
        values = frame.loc[row, list(names.BAR)].astype(float)
        npt.assert_allclose(values, np.median(bar, axis=0), rtol=1e-15)
        npt.assert_allclose(frame.loc[row, "mean"], bar[:, 3].mean(), rtol=1e-15)
        quantiles = frame.loc[row, ["q0.1", "q0.9"]].astype(float)
        npt.assert_allclose(quantiles, np.quantile(bar[:, 3], (0.1, 0.9)), rtol=1e-15)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8))
def test_medians_of_possible_bars_are_a_possible_bar(seed: int, samples: int):
    sampled = np.random.default_rng(seed).normal(60, 5, (3, samples, 2, 6))
    possible, _ = bars.correct(sampled, np.full(3, 57.0))
    frame = rendering.price_frame(of_paths(price_paths=possible), SESSIONS_AHEAD)
    assert (frame["low"] <= frame[["open", "close"]].min(axis=1)).all()
    assert (frame["high"] >= frame[["open", "close"]].max(axis=1)).all()


def test_a_forecast_of_returns_has_no_prices():
    with pytest.raises(NotAvailable) as caught:
        rendering.price_frame(forecast(), SESSIONS_AHEAD)
    assert caught.value.status == 422


def test_what_there_is_to_say_is_a_column_of_every_row_and_otherwise_there_is_none():
    with_notes = of_paths(notes={"simulated": "simulated", "volume": "volume was taken as 0"})
    for render in (rendering.frame, rendering.price_frame):
        frame = render(with_notes, SESSIONS_AHEAD)
        assert frame.columns[-1] == names.NOTES
        assert set(frame[names.NOTES]) == {"simulated; volume was taken as 0"}
        assert names.NOTES not in render(of_paths(), SESSIONS_AHEAD).columns


# --- frames to arrays -------------------------------------------------------------------------


def test_a_checked_history_is_the_frame_as_arrays():
    frame = shortened(1, 4)
    checked = check_history(frame, dataclasses.replace(SPEC, max_context=SESSIONS))
    assert checked.ids == NAMES
    npt.assert_array_equal(checked.bounds, [0, 6, 10, 16])
    npt.assert_array_equal(checked.lengths, [6, 4, 6])
    cutoffs = np.array(["2020-01-13", "2020-01-09", "2020-01-13"], dtype="datetime64[D]")
    npt.assert_array_equal(checked.cutoffs, cutoffs)
    npt.assert_array_equal(checked.ds, frame["ds"].to_numpy())
    assert list(checked.columns) == [names.Y, names.MARKET_ABS_RETURN]
    for name, values in checked.columns.items():
        npt.assert_array_equal(values, frame[name])


@pytest.mark.parametrize("kind", ["str", "object", "category"])
def test_how_names_are_stored_does_not_matter(kind: str):
    frame = history().astype({names.UNIQUE_ID: kind}).set_index(np.arange(18)[::-1])
    assert History.of(frame).ids == NAMES
    npt.assert_array_equal(History.of(frame).bounds, [0, 6, 12, 18])


def test_blocks_hold_the_last_sessions_of_every_series_once():
    frame = shortened(1, 4)
    rows_of: dict[int, np.ndarray] = {}
    for series, values in check_history(frame, SPEC).blocks(5, (names.Y, names.MARKET_ABS_RETURN)):
        assert values.shape == (len(series), values.shape[1], 2)
        rows_of |= dict(zip(series.tolist(), values, strict=True))
    assert sorted(rows_of) == [0, 1, 2]
    for i, name in enumerate(NAMES):
        rows = frame.loc[frame["unique_id"] == name, [names.Y, names.MARKET_ABS_RETURN]].tail(5)
        npt.assert_array_equal(rows_of[i], rows.to_numpy())


# --- other levels, and the mean ---------------------------------------------------------------

returns = hnp.arrays(np.float64, (3, 11), elements=st.floats(-1, 1, allow_subnormal=False))
unsorted_levels = st.lists(st.floats(0.05, 0.95), min_size=1, max_size=20, unique=True)
some_levels = unsorted_levels.map(lambda levels: tuple(sorted(levels)))


def test_a_quantile_between_two_trained_levels_lies_on_the_line_between_them():
    quantiles = np.array([[0.0, 1.0, 5.0]])
    between = interpolated(quantiles, (0.1, 0.2, 0.4), (0.1, 0.125, 0.15, 0.2, 0.25, 0.4))
    npt.assert_allclose(between, [[0.0, 0.25, 0.5, 1.0, 2.0, 5.0]], rtol=1e-12)


@given(returns, some_levels)
def test_quantiles_in_between_agree_with_numpy_and_never_cross(
    values: np.ndarray, levels: tuple[float, ...]
):
    trained = np.sort(values, axis=1)
    between = interpolated(trained, names.LEVELS, levels)
    expected = [np.interp(levels, names.LEVELS, row) for row in trained]
    npt.assert_allclose(between, expected, rtol=0, atol=1e-12)
    all_levels = tuple(sorted({*levels, *names.LEVELS}))
    at_all = interpolated(trained, names.LEVELS, all_levels)
    assert np.all(np.diff(at_all, axis=1) >= 0)
    places = [all_levels.index(level) for level in names.LEVELS]
    npt.assert_array_equal(at_all[:, places], trained)


@given(returns, some_levels)
def test_quantiles_in_between_are_the_same_alone_and_in_a_batch(
    values: np.ndarray, levels: tuple[float, ...]
):
    trained = np.sort(values, axis=1)
    together = interpolated(trained, names.LEVELS, levels)
    npt.assert_array_equal(together[1:2], interpolated(trained[1:2], names.LEVELS, levels))


@pytest.mark.parametrize("levels", [(0.04, 0.5), (0.5, 0.96)])
def test_levels_outside_the_trained_ones_are_not_made_up(levels: tuple[float, ...]):
    with pytest.raises(BadParameter) as caught:
        interpolated(np.zeros((1, 11)), names.LEVELS, levels)
    assert caught.value.code == "BAD_LEVELS"


def test_a_model_of_one_level_answers_that_level():
    npt.assert_array_equal(interpolated(np.array([[7.0]]), (0.5,), (0.5,)), [[7.0]])
    npt.assert_array_equal(interpolated(np.array([[7.0]]), (0.5,), np.array([0.5])), [[7.0]])


def test_the_mean_of_three_quantiles_by_hand():
    # .1 x 0 below the first level, (0 + 2) / 2 x .4 and (2 + 8) / 2 x .4 between,
    # and .1 x 8 above the last.
    mean = quantile_mean(np.array([0.0, 2.0, 8.0]), (0.1, 0.5, 0.9))
    npt.assert_allclose(mean, 0.4 + 2.0 + 0.8, rtol=1e-12)
    # .2 x 1 below, (1 + 3) / 2 x .3 between, .5 x 3 above
    mean = quantile_mean(np.array([1.0, 3.0]), (0.2, 0.5))
    npt.assert_allclose(mean, 0.2 + 0.6 + 1.5, rtol=1e-12)
    npt.assert_allclose(quantile_mean(np.array([[3.0]]), (0.5,)), [3.0], rtol=1e-12)


@given(returns, st.floats(0.001, 100), st.floats(-1, 1))
def test_the_mean_moves_and_scales_with_the_quantiles(
    values: np.ndarray, factor: float, shift: float
):
    mean = quantile_mean(values, names.LEVELS)
    npt.assert_allclose(
        quantile_mean(factor * values + shift, names.LEVELS),
        factor * mean + shift,
        rtol=1e-9,
        atol=1e-9,
    )


def test_the_mean_of_a_symmetric_forecast_is_its_median_and_on_a_fine_grid_the_true_mean():
    quantiles = 0.01 + 0.02 * norm.ppf(names.LEVELS)
    npt.assert_allclose(quantile_mean(quantiles, names.LEVELS), 0.01, atol=1e-15)
    fine = np.linspace(0.0005, 0.9995, 1000)
    exponential = -np.log1p(-fine)  # mean 1
    npt.assert_allclose(quantile_mean(exponential, fine), 1.0, atol=0.002)
