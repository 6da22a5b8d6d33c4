"""Trading sessions: which dates are sessions, and the next sessions after a date."""

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from registry.errors import BadHistory, BadParameter, NotFound
from registry.forecast import calendars


def days(*dates: str) -> list[pd.Timestamp]:
    return [pd.Timestamp(date) for date in dates]


def test_next_sessions_skip_the_weekend_and_new_years_holiday():
    sessions = calendars.next_sessions("XNYS", pd.Timestamp("2022-12-28"), 5)
    assert list(sessions) == days(
        "2022-12-29", "2022-12-30", "2023-01-03", "2023-01-04", "2023-01-05"
    )


def test_a_cutoff_that_is_no_session_is_followed_by_the_next_one():
    assert list(calendars.next_sessions("XNYS", pd.Timestamp("2022-12-31"), 1)) == days(
        "2023-01-03"
    )


def test_a_cutoff_with_a_time_of_day_counts_as_its_date():
    assert list(calendars.next_sessions("XNYS", pd.Timestamp("2022-12-29 16:00"), 1)) == days(
        "2022-12-30"
    )


def test_closed_days_are_not_sessions_whether_planned_or_not():
    # 11 September, hurricane Sandy (two days), Good Friday, Juneteenth and New Year observed.
    # One of the dates is a plain Wednesday.
    closed = days(
        "2001-09-11", "2012-10-29", "2012-10-30", "2022-04-15", "2022-06-20", "2023-01-02"
    )
    dates = pd.DatetimeIndex([*closed[::-1], pd.Timestamp("2022-12-28"), closed[0]])
    assert list(calendars.not_sessions("XNYS", dates)) == closed


def test_sessions_include_both_ends():
    assert list(calendars.sessions("XNYS", "2022-12-30", "2023-01-04")) == days(
        "2022-12-30", "2023-01-03", "2023-01-04"
    )
    # skfolio has 3270 prices in this period.
    assert len(calendars.sessions("XNYS", "2010-01-04", "2022-12-28")) == 3270


def test_many_cutoffs_give_what_one_by_one_gives():
    cutoffs = calendars.sessions("XNYS", "2019-11-01", "2020-03-31")
    sessions = calendars.next_sessions_many("XNYS", cutoffs, 7)
    assert sessions.shape == (len(cutoffs), 7)
    assert sessions.dtype == np.dtype("datetime64[ns]")
    expected = [calendars.next_sessions("XNYS", cutoff, 7).to_numpy() for cutoff in cutoffs]
    npt.assert_array_equal(sessions, expected)


def test_no_cutoffs_give_no_sessions():
    assert calendars.next_sessions_many("XNYS", pd.DatetimeIndex([]), 5).shape == (0, 5)


def test_crypto_trades_every_day():
    assert list(calendars.next_sessions("24/7", pd.Timestamp("2022-12-30"), 3)) == days(
        "2022-12-31", "2023-01-01", "2023-01-02"
    )


def test_an_exchange_recorded_only_from_1997_still_has_a_calendar():
    assert list(calendars.next_sessions("XTKS", pd.Timestamp("2022-12-30"), 1)) == days(
        "2023-01-04"
    )


def test_an_unknown_calendar_is_not_found():
    with pytest.raises(NotFound, match=r"no calendar 'XNYC'.*as in XNYS") as caught:
        calendars.next_sessions("XNYC", pd.Timestamp("2022-12-28"), 5)
    assert caught.value.code == "UNKNOWN_CALENDAR"


def test_a_cutoff_too_near_the_calendars_end_is_refused():
    last = calendars.next_sessions("XNYS", pd.Timestamp.now().normalize(), 200)[-1]
    message = r"XNYS is known until .*, too early for 100 sessions"
    with pytest.raises(BadHistory, match=message) as caught:
        calendars.next_sessions("XNYS", last, 100)
    assert caught.value.code == "CALENDAR_END"


@pytest.mark.parametrize(
    ("day", "until", "number"),
    [
        (date(2022, 12, 28), date(2022, 12, 30), 2),
        (date(2022, 12, 30), pd.Timestamp("2023-01-02"), 0),  # an observed holiday
        (date(2022, 12, 31), date(2023, 1, 3), 1),
        (date(2022, 12, 30), date(2022, 12, 28), 0),
    ],
)
def test_sessions_since_a_day_are_counted(day, until, number):
    assert calendars.sessions_since("XNYS", day, until) == number
    with pytest.raises(BadHistory, match="found a date outside"):
        calendars.sessions_since("XNYS", date(1979, 12, 31), until)


@pytest.mark.parametrize("date", ["1979-12-31", "2200-01-01"])
def test_a_date_outside_the_calendar_is_refused_rather_than_called_closed(date):
    with pytest.raises(BadHistory, match="known from 1980-01-02 to") as caught:
        calendars.not_sessions("XNYS", pd.DatetimeIndex([date]))
    assert caught.value.code == "OUTSIDE_CALENDAR"


def test_a_missing_date_and_a_horizon_of_zero_are_refused():
    with pytest.raises(BadHistory, match="a session date is missing"):
        calendars.next_sessions_many("XNYS", pd.DatetimeIndex(["2022-12-28", pd.NaT]), 5)
    with pytest.raises(BadParameter, match="horizon is 0"):
        calendars.next_sessions("XNYS", pd.Timestamp("2022-12-28"), 0)


def test_threads_get_the_same_sessions_and_cannot_change_them():
    cutoffs = calendars.sessions("XNYS", "2018-01-02", "2019-12-31")
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda _: calendars.next_sessions_many("XNYS", cutoffs, 5), range(32))
        )
    for answer in answers:
        answer[:] = np.datetime64("1999-01-01")  # every caller has a copy
    assert list(calendars.next_sessions("XNYS", pd.Timestamp("2022-12-28"), 1)) == days(
        "2022-12-29"
    )
