"""Split dates of own data, against the rule by hand."""

from collections.abc import Iterator

import duckdb
import pytest
from staging import derived, simulated

from jobs.data.dataset import Splits
from jobs.data.own.splits import needed


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as opened:
        yield opened


def test_a_quarter_is_reported_and_a_tenth_before_it_chosen_on(connection):
    """201 sessions with returns: 51 reported, 21 chosen on, 129 fitted."""
    result, frame = derived(connection, simulated(length=202))
    sessions = frame["ds"].drop_duplicates().sort_values().dt.strftime("%Y-%m-%d").tolist()
    assert result.splits == Splits(sessions[128], sessions[149])


def test_least_number_of_sessions(connection):
    """ceil(191 / 10) = 20 is the least to choose on."""
    assert needed() == 191
    derived(connection, simulated(length=192))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"fit_until": "2019-05-31"}, Splits("2019-05-31", "2019-08-27")),
        ({"choose_until": "2019-07-31"}, Splits("2019-06-28", "2019-07-31")),
        (
            {"fit_until": "2019-04-28", "choose_until": "2019-07-31"},
            Splits("2019-04-28", "2019-07-31"),
        ),
    ],
)
def test_given_dates_are_kept(connection, given, expected):
    result, _ = derived(connection, simulated(), **given)
    assert result.splits == expected
