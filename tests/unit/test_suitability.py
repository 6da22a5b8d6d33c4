"""Whether a version can forecast a data set, and which of its symbols and sessions it takes."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest

from registry.errors import BadHistory, BadParameter
from registry.forecast import calendars, names
from registry.forecast.spec import ModelSpec
from registry.versions import suitability

ANY = ModelSpec("ewma", "baselines", min_context=10, max_context=20, max_horizon=5)
WHOLE = replace(ANY, name="stemgnn", joint=True, universe=("A", "B"))
PART = replace(WHOLE, name="graph", subset=True)


def test_a_model_of_any_symbol_takes_those_asked_for_or_all():
    assert suitability.symbols_of(ANY, "mine", ["A", "B", "C"], ["C", "A"]) == ("A", "C")
    assert suitability.symbols_of(ANY, "mine", ["B", "A"], []) == ("A", "B")


def test_a_model_with_a_universe_gets_all_of_it():
    assert suitability.symbols_of(WHOLE, "mine", ["A", "B", "C"], ["A"]) == ("A", "B")
    assert suitability.symbols_of(PART, "mine", ["A", "C"], []) == ("A",)


@pytest.mark.parametrize(
    ("spec", "known", "asked", "message"),
    [
        (WHOLE, ["A", "C"], [], "stemgnn forecasts A, B; mine lacks B"),
        (PART, ["A", "C"], ["C"], "graph does not know C; it was trained on A, B"),
        (PART, ["C", "D"], [], "graph forecasts A, B; mine lacks A, B"),
    ],
)
def test_another_universe_is_refused(spec, known, asked, message):
    with pytest.raises(BadHistory, match=message) as raised:
        suitability.symbols_of(spec, "mine", known, asked)
    assert raised.value.code == "UNIVERSE"


def test_an_unknown_symbol_is_refused_with_the_nearest_names():
    with pytest.raises(
        BadParameter, match=r"mine has no symbol brk\.b; did you mean BRK\.A, BRK-B"
    ):
        suitability.symbols_of(ANY, "mine", ["BRK.A", "BRK-B", "KO"], ["brk.b"])
    with pytest.raises(BadParameter, match=r"mine has no symbol XYZ$"):
        suitability.symbols_of(ANY, "mine", ["KO"], ["XYZ"])


def test_market_columns_over_another_universe_are_refused():
    spec = replace(ANY, columns=(*names.HISTORY, names.MARKET_ABS_RETURN))
    check = partial(suitability.check_universe, "har/2")
    message = "har/2 was .* over us@1, those of mine are over eu@2; train it on mine"
    with pytest.raises(BadHistory, match=message):
        check({"universe": "us@1"}, spec, "mine", "eu@2")
    check({"universe": "us@1"}, ANY, "mine", "eu@2")
    check({}, spec, "mine", "eu@2")


def test_the_same_members_under_another_name_have_the_same_mean_but_maybe_another_index():
    of_members = replace(ANY, columns=(*names.HISTORY, names.MARKET_ABS_RETURN))
    suitability.check_universe("har/2", {"universe": "us@1"}, of_members, "mine", "mine@1")
    of_index = replace(ANY, columns=(*names.HISTORY, *names.MARKET))
    with pytest.raises(BadHistory, match="over us@1, those of mine are over mine@1"):
        suitability.check_universe("ssm/2", {"universe": "us@1"}, of_index, "mine", "mine@1")


@pytest.mark.parametrize(
    ("of_version", "of_data", "dates"),
    [
        ("XNYS", "24/7", ": mine has dates on which XNYS was closed: 2021-07-03, 2021-07-04, 2021"),
        ("24/7", "XNYS", ": mine lacks sessions of 24/7: 2021-07-03, 2021-07-04, 2021-07-05 and "),
        ("XNYS", "XNAS", "those of mine are of XNAS; train it on mine"),
    ],
)
def test_another_calendar_is_refused_with_the_first_dates_that_differ(of_version, of_data, dates):
    error = suitability.other_calendar(
        "har/2", of_version, "mine", of_data, "2021-07-01", "2021-07-30"
    )
    assert error.code == "CALENDAR"
    assert error.message.startswith(f"har/2 forecasts sessions of {of_version}, those of mine are")
    assert dates in error.message


def test_the_window_holds_the_context_of_a_series_that_ends_late_and_has_gaps():
    last = pd.Timestamp("2022-12-28")
    sessions = calendars.sessions("XNYS", suitability.since(ANY, last), last)
    assert len(sessions) * 0.95 - suitability.LATE >= ANY.max_context
    assert len(sessions) < 2 * ANY.max_context


def test_series_that_end_early_are_stale():
    days = calendars.sessions("XNYS", "2022-11-01", "2022-12-28")
    a = pd.DataFrame({"unique_id": "A", "ds": days[:-5]})
    b = pd.DataFrame({"unique_id": "B", "ds": days[:-6]})
    frame = pd.concat([a, b, pd.DataFrame({"unique_id": "D", "ds": days})])
    late = suitability.stale(ANY, frame, ["A", "B", "C", "D"], days[-1])
    assert [series.unique_id for series in late] == ["B", "C"]
    assert late[1].message.startswith("C ended before 2022-11-01; the last one of the")
    common = suitability.up_to_common(WHOLE, frame)
    assert common["ds"].max() == days[-7]
