"""The sessions of a calendar as the gateway gets them."""

from datetime import UTC, date, datetime

import pytest

from registry.errors import NotFound
from registry.forecast import calendars
from serving.supervisor.tables import sessions

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)


def test_sessions_of_twenty_years_and_of_the_months_to_come_have_their_closes():
    of_new_york = sessions("XNYS", NOW)
    assert of_new_york.days[0] == "2006-11-27"  # the 26th was a Sunday
    assert date.fromisoformat(of_new_york.days[-1]) == calendars.span("XNYS")[1].astype(object)
    closes = dict(zip(of_new_york.days, of_new_york.closes, strict=True))
    # 16:00 in winter and in summer, and 13:00 on the day after Thanksgiving.
    assert closes["2022-01-03"] == datetime(2022, 1, 3, 21, tzinfo=UTC).timestamp()
    assert closes["2022-07-05"] == datetime(2022, 7, 5, 20, tzinfo=UTC).timestamp()
    assert closes["2022-11-25"] == datetime(2022, 11, 25, 18, tzinfo=UTC).timestamp()
    assert "2022-11-24" not in closes


def test_sessions_of_crypto_are_all_days_and_end_at_midnight():
    every_day = sessions("24/7", NOW)
    place = every_day.days.index("2024-02-29")
    assert every_day.days[place + 1] == "2024-03-01"
    assert every_day.closes[place] == datetime(2024, 3, 1, tzinfo=UTC).timestamp()


def test_an_unknown_calendar_is_refused():
    with pytest.raises(NotFound, match="no calendar 'XXXX'"):
        sessions("XXXX", NOW)
