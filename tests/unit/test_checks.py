"""The front door: which series of a table pass, what is said of them, and how the rest is answered.

Checks of types, order and universes are in test_contract.py.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.data.sources import builtin
from mlprojects.baselines.model import Ewma
from registry.errors import BadHistory
from registry.forecast import calendars, names
from registry.forecast.answer import answer
from registry.forecast.checks import check_history, check_training
from registry.forecast.history import History, Refused
from registry.forecast.rendering import unpacked
from registry.forecast.spec import ModelSpec

SPEC = ModelSpec("ewma", "baselines", min_context=60, max_context=500, max_horizon=5)
SESSIONS = calendars.sessions("XNYS", "2018-01-02", "2022-12-28")[-900:]


def series(name: str = "ALFA", length: int = 900, seed: int = 0) -> pd.DataFrame:
    """A series of the last `length` sessions."""
    y = 0.01 * np.random.default_rng(seed).standard_t(5, 900).clip(-8, 8)
    frame = pd.DataFrame({names.UNIQUE_ID: name, names.DS: SESSIONS, names.Y: y})
    return frame.tail(length).reset_index(drop=True)


def table(*parts: pd.DataFrame) -> pd.DataFrame:
    """The parts as series S00, S01, ..."""
    named = [part.assign(unique_id=f"S{i:02d}") for i, part in enumerate(parts)]
    return pd.concat(named, ignore_index=True)


def with_end(values: Any) -> pd.DataFrame:
    """A series whose last returns are these."""
    frame = series()
    frame.loc[len(frame) - len(values) :, names.Y] = values
    return frame


def without(*rows: Any) -> pd.DataFrame:
    """A series that lacks the sessions at these places."""
    return series().drop(index=np.concatenate([np.atleast_1d(row) for row in rows]))


def refusal(frame: pd.DataFrame, spec: ModelSpec = SPEC) -> str:
    """Code and message of the error, in which series is the only one."""
    with pytest.raises(BadHistory) as caught:
        check_history(frame.reset_index(drop=True), spec)
    return f"{caught.value.code}: {caught.value.message}"


# --- missing sessions -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (series().iloc[::5], "has 716 of 896 sessions of XNYS missing, the first from 2019-06-06 "),
        (series().iloc[::2], "has 449 of 899 sessions of XNYS missing, the first from 2019-06-06 "),
        (without(range(500, 800)), "has 300 of 800 sessions of XNYS missing, the first long hole "),
        (
            without(range(600, 606), 700),
            "has 7 of 507 sessions of XNYS missing, the first long hole from 2021-10-20 to "
            "2021-10-27; at most 5 in a row and 5% may be: send each session, or only those after "
            "such holes",
        ),
        (without(range(450, 890, 16)), "has 28 of 528 sessions of XNYS missing, the first from "),
    ],
    ids=["weekly", "every second", "a hole of 300", "6 in a row", "more than 5 %"],
)
def test_too_many_missing_sessions_are_refused(frame: pd.DataFrame, text: str):
    assert refusal(frame).startswith(f"GAP: series 1 of 1 {text}")


def test_five_sessions_in_a_row_may_be_missing_and_it_is_said():
    checked = check_history(table(without(range(600, 605)), series(), without(700, 750)), SPEC)
    assert checked.refused == ()
    assert checked.notes == {"gaps": "7 sessions are missing in 2 series"}
    reply = answer(Ewma(SPEC), table(without(600)), {})
    assert set(reply[names.NOTES]) == {"1 sessions are missing in 1 series"}


def test_five_per_cent_of_the_sessions_may_be_missing():
    spec = replace(SPEC, max_context=95)
    assert check_history(without(range(810, 890, 16)), spec).notes == {
        "gaps": "5 sessions are missing in 1 series"
    }
    assert refusal(without(range(810, 890, 14)), spec).startswith("GAP: series 1 of 1 has 6 of 101")


def test_a_hole_beyond_the_sessions_that_the_model_looks_at_changes_nothing():
    holed = without(range(100, 390))
    checked = check_history(holed, SPEC)
    assert (checked.notes, len(checked.ds)) == ({}, 500)
    pd.testing.assert_frame_equal(answer(Ewma(SPEC), holed, {}), answer(Ewma(SPEC), series(), {}))


def test_each_series_ends_where_it_ends():
    checked = check_history(table(series(), series().head(600)), SPEC)
    assert (checked.refused, checked.notes) == ((), {})


def test_a_calendar_of_every_day_misses_weekends():
    message = refusal(series(), replace(SPEC, calendar="24/7"))
    assert message.startswith("GAP: ")
    assert "sessions of 24/7 missing, the first from 2021-01-09 to 2021-01-10" in message


# --- halted series ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frame", "what"),
    [
        (with_end(np.zeros(400)), "has a return of 0 throughout its last 20 sessions; it is halt"),
        (with_end(np.zeros(20)), "has a return of 0 throughout its last 20 sessions"),
        (series().assign(y=0.0), "has a return of 0 throughout its last 20 sessions"),
        (series().assign(y=1e-320), "has returns below 1e-07 on average in its last 20 sessions"),
        (with_end([0.0] * 400 + [1e-12] * 30), "has returns below 1e-07 on average in its last 20"),
        (with_end(np.full(20, 7e-5)), "has returns below 1% of those before in its last 20"),
    ],
    ids=["400 zeros", "20 zeros", "zeros alone", "1e-320", "zeros, then tiny", "collapsed"],
)
def test_a_series_that_does_not_move_any_more_is_refused(frame: pd.DataFrame, what: str):
    assert refusal(frame).startswith(f"HALTED: series 1 of 1 {what}")


@pytest.mark.parametrize(
    "frame",
    [
        with_end(np.zeros(19)),
        with_end([0.01, *np.zeros(19)]),
        series().assign(y=lambda f: f[names.Y].where(f.index % 3 == 0, 0.0)),
        series().assign(y=lambda f: 1e-3 * f[names.Y]),
        with_end(2e-4 * np.random.default_rng(1).normal(size=60)),
    ],
    ids=["19 zeros", "a move, then 19 zeros", "two zeros of three", "a currency peg", "a bid"],
)
def test_a_series_that_moves_a_little_passes(frame: pd.DataFrame):
    assert check_history(frame, SPEC).refused == ()


@pytest.mark.parametrize("since", [1, 19, 20])
def test_a_halt_within_the_window_is_said_and_refused_if_it_has_just_ended(since):
    """A filled hole is a halt, too."""
    end = len(series()) - since
    halted = series().assign(y=lambda f: f[names.Y].where(~f.index.isin(range(450, end)), 0))
    if since < 20:
        text = "20 or more returns of 0 in a row, and fewer than 20 returns since, in its last 20"
        assert refusal(halted, SPEC).startswith(f"HALTED: series 1 of 1 has {text} sessions")
        return
    history = check_history(halted, SPEC)
    assert history.notes["still"] == "20 or more returns of 0 follow each other in 1 series"


def test_zeros_of_two_series_are_no_run_of_one():
    ending = series().assign(y=lambda f: f[names.Y].where(f.index < len(f) - 12, 0))
    beginning = series().assign(y=lambda f: f[names.Y].where(f.index >= 12, 0))
    history = check_history(table(ending, beginning), replace(SPEC, max_context=len(ending)))
    assert (history.refused, "still" in history.notes) == ((), False)


def test_columns_of_the_market_are_bounded_like_returns():
    spec = replace(SPEC, columns=(*names.HISTORY, names.MARKET_ABS_RETURN))
    for value in (-0.01, 1.5, 1e308):
        frame = series().assign(market_abs_return=0.01)
        frame.loc[len(frame) - 3, names.MARKET_ABS_RETURN] = value
        text = "BAD_RETURN: series 1 of 1 has market_abs_return outside 0..1 in 1 of"
        assert refusal(frame, spec).startswith(text)


def test_the_hole_that_is_named_is_one_that_is_too_long():
    frame = series().drop(index=[500, *range(700, 720)]).reset_index(drop=True)
    first, last = (f"{SESSIONS[row]:%Y-%m-%d}" for row in (700, 719))
    text = f"has 21 of 900 sessions of XNYS missing, the first long hole from {first} to {last};"
    assert text in refusal(frame, replace(SPEC, max_context=900))


def test_a_training_is_not_told_that_a_move_passes_once_it_is_old():
    frame = series().assign(y=lambda f: f[names.Y].where(f.index != 3, 2.0))
    with pytest.raises(BadHistory) as caught:
        check_training(frame, replace(SPEC, max_context=100))
    assert "once it is older" not in caught.value.message


def test_bars_whose_close_stands_still_are_halted_whatever_their_returns():
    """Closes of one tick say nothing of the returns within it."""
    frame = series(length=100).assign(y=lambda f: f[names.Y].clip(-0.02, 0.02))
    frame = frame.assign(**dict.fromkeys(names.OHLC, 0.1))
    spec = replace(SPEC, columns=(*names.HISTORY, *names.OHLC))
    assert refusal(frame, spec).startswith("HALTED: series 1 of 1 has the same close throughout")


# --- values beyond what the model looks at ----------------------------------------------------


@pytest.mark.parametrize(
    "value", [np.log(1 - 0.756), np.nan, np.inf], ids=["-75.6 %", "NaN", "inf"]
)
def test_only_the_sessions_that_the_model_looks_at_are_checked(value: float):
    before, at = series(), series()
    before.loc[399, names.Y] = value
    at.loc[400, names.Y] = value
    expected = answer(Ewma(SPEC), series(), {})
    pd.testing.assert_frame_equal(answer(Ewma(SPEC), before, {}), expected)
    code = "BAD_RETURN" if np.isfinite(value) else "NON_FINITE"
    assert refusal(at).startswith(f"{code}: series 1 of 1 has ")


def test_the_text_of_the_limit_says_what_it_is_and_what_to_do():
    frame = series()
    frame.loc[600, names.Y] = np.log(1 - 0.756)
    assert refusal(frame) == (
        "BAD_RETURN: series 1 of 1 has |y| beyond 1 (a fall of 63%, a rise of 172%) in 1 of 500 "
        f"sessions, first on {SESSIONS[600]:%Y-%m-%d}; y is a log return: mend splits, percentages "
        "and typing errors. A genuine move passes once it is older than the 500 sessions that ewma "
        "looks at"
    )


def test_dates_on_which_the_exchange_was_closed_are_listed():
    frame = series()
    frame.loc[[700, 800], names.DS] = [pd.Timestamp("2022-03-12"), pd.Timestamp("2022-08-06")]
    frame = frame.sort_values(names.DS)
    assert refusal(frame).startswith(
        "NOT_A_SESSION: series 1 of 1 has dates on which XNYS was closed: 2022-03-12, 2022-08-06"
    )


def test_dates_outside_the_calendar_are_those_of_one_series():
    far = series(length=70)
    far[names.DS] = pd.date_range("2100-01-01", periods=70)
    [refused] = check_history(table(series(), far), SPEC).refused
    assert (refused.series, refused.code) == (2, "OUTSIDE_CALENDAR")


# --- one bad series among many ----------------------------------------------------------------


def damaged() -> pd.DataFrame:
    """Ten series: halted, too short, NaN, a hole, and six good ones."""
    parts = [series(seed=seed) for seed in range(10)]
    parts[1] = with_end(np.zeros(50))
    parts[4] = series(length=59)
    parts[5] = parts[5].assign(y=parts[5][names.Y].where(parts[5].index != 890))
    parts[8] = without(range(600, 620))
    return table(*parts)


CODES = {2: "HALTED", 5: "TOO_SHORT", 6: "NON_FINITE", 9: "GAP"}


def test_the_rest_is_answered_to_the_same_bits_and_the_refused_are_listed():
    reply = answer(Ewma(SPEC), damaged(), {})
    good = damaged()[~damaged()[names.UNIQUE_ID].isin(["S01", "S04", "S05", "S08"])]
    expected = answer(Ewma(SPEC), good, {})
    pd.testing.assert_frame_equal(reply.drop(columns=names.NOTES), expected, check_exact=True)
    note = (
        "4 of 10 series were refused: series 2 HALTED, series 5 TOO_SHORT, series 6 NON_FINITE "
        "and 1 more"
    )
    assert set(reply[names.NOTES]) == {note}


def test_a_packed_reply_lists_each_refused_series_with_code_and_message():
    reply = answer(Ewma(SPEC), damaged(), {"output": "packed"})
    assert {entry["series"]: entry["code"] for entry in reply["refused"]} == CODES
    assert reply["refused"][1] == {
        "series": 5,
        "unique_id": "S04",
        "code": "TOO_SHORT",
        "message": "series 5 of 10 has 59 sessions, ewma needs 60",
    }
    assert reply["unique_id"] == ["S00", "S02", "S03", "S06", "S07", "S09"]
    assert "refused" not in answer(Ewma(SPEC), series(), {"output": "packed"})


def test_no_message_repeats_a_name_or_a_value():
    for refused in check_history(damaged(), SPEC).refused:
        assert refused.unique_id not in refused.message
        assert refused.message.startswith(f"series {refused.series} of 10 has ")


def test_all_refused_is_the_error_of_the_first_and_says_how_many():
    bad = damaged()[damaged()[names.UNIQUE_ID].isin(["S01", "S04"])]
    assert refusal(bad) == (
        "HALTED: series 1 of 2 has a return of 0 throughout its last 20 sessions; it is halted or "
        "its prices are stale: leave it out until it moves; 2 series were refused"
    )


def test_a_model_of_a_whole_universe_answers_all_or_nothing():
    universe = tuple(f"S{i:02d}" for i in range(10))
    joint = replace(SPEC, joint=True, universe=universe)
    assert refusal(damaged(), joint).startswith("HALTED: series 2 of 10 has a return of 0")
    assert check_history(damaged(), replace(joint, subset=True)).ids == (
        "S00", "S02", "S03", "S06", "S07", "S09",
    )  # fmt: skip


def test_a_training_takes_each_session_of_each_series_or_nothing():
    whole = check_training(table(series(), series()), SPEC)
    npt.assert_array_equal(whole.lengths, [900, 900])
    early = series()
    early.loc[5, names.Y] = np.nan
    for frame, code in ((damaged(), "HALTED"), (table(series(), early), "NON_FINITE")):
        with pytest.raises(BadHistory) as caught:
            check_training(frame, SPEC)
        assert caught.value.code == code


def test_a_reply_of_other_code_that_refuses_a_series_is_its_error():
    history = check_history(table(series(), series(seed=1)), SPEC)
    stricter = replace(history.only(np.array([0])), refused=(Refused(2, "S01", "GAP", "a hole"),))
    request = {"output": "packed"}
    reply = answer(Ewma(SPEC), stricter.frame(), request)
    reply["refused"] = [{"series": 2, "unique_id": "S01", "code": "GAP", "message": "a hole"}]
    with pytest.raises(BadHistory, match="the version's own check: a hole") as caught:
        unpacked(reply, history, SPEC.levels)
    assert caught.value.code == "GAP"


# --- real bars --------------------------------------------------------------------------------

BARS = replace(SPEC, columns=(*names.HISTORY, *names.OHLC), max_context=1000)


@pytest.fixture(scope="module")
def raw() -> pd.DataFrame:
    """Bars of AAPL and IBM as their vendor gives them."""
    bars = builtin.bokeh_bars()
    return bars[bars[names.UNIQUE_ID].isin(["AAPL", "IBM"])].reset_index(drop=True)


def adjusted(raw: pd.DataFrame, **prices: pd.Series) -> pd.DataFrame:
    """Returns of the adjusted close, with these prices; the first session has no return."""
    close = raw["adj_close"].groupby(raw[names.UNIQUE_ID])
    y = np.log(raw["adj_close"] / close.shift())
    frame = raw[[names.UNIQUE_ID, names.DS]].assign(y=y, **prices)
    return frame[y.notna()].reset_index(drop=True)


def multiplied(raw: pd.DataFrame) -> dict[str, pd.Series]:
    return {name: raw[name] * (raw["adj_close"] / raw["close"]) for name in names.OHLC}


def test_the_usual_adjustment_is_taken_and_its_rounding_error_said(raw: pd.DataFrame):
    """Prices times adj_close / close, close replaced by adj_close: high is 1 ulp below it."""
    sent = adjusted(raw, **(multiplied(raw) | {"close": raw["adj_close"]}))
    window = sent.groupby(names.UNIQUE_ID).tail(1000).reset_index(drop=True)
    top = window[["open", "close"]].max(axis=1)
    assert (top > window["high"]).any()
    checked = check_history(sent, BARS)
    widened = (
        (top > window["high"]) | (window[["open", "close"]].min(axis=1) < window["low"])
    ).sum()
    note = f"high or low was widened by a rounding error in {widened} bars"
    assert (checked.refused, checked.notes) == ((), {"widened": note})
    npt.assert_array_equal(checked.columns["high"], np.maximum(window["high"], top))
    npt.assert_array_equal(checked.columns["close"], window["close"])


def test_adjusted_prices_rounded_to_cents_are_taken_and_it_is_said(raw: pd.DataFrame):
    cents = {name: values.round(2) for name, values in multiplied(raw).items()}
    early = adjusted(raw, **cents).query("ds < '2006-01-01'").reset_index(drop=True)
    checked = check_history(early, BARS)
    assert checked.refused == ()
    assert checked.notes["basis"].startswith("y fits close only within the rounding of prices in ")


def test_bars_that_were_not_adjusted_are_refused(raw: pd.DataFrame):
    """AAPL has splits in 2000 and 2005 and dividends from August 2012; IBM pays each quarter."""
    sent = adjusted(raw, **{name: raw[name] for name in names.OHLC})
    for until in ("2005-06-01", "2013-03-01"):
        with pytest.raises(BadHistory) as caught:
            check_history(sent[sent[names.DS] <= until].reset_index(drop=True), BARS)
        assert caught.value.code == "PRICE_BASIS"
        assert caught.value.message.endswith("2 series were refused")


def test_untouched_bars_reach_the_model_as_they_are(raw: pd.DataFrame):
    sent = adjusted(raw, **multiplied(raw)).groupby(names.UNIQUE_ID).tail(1000)
    checked = check_history(sent.reset_index(drop=True), BARS)
    assert checked.notes == {}
    expected = History.of(sent, [names.Y, *names.OHLC])
    for name, values in expected.columns.items():
        npt.assert_array_equal(checked.columns[name], values)
