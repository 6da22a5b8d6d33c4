"""What a calibration learned from, in words."""

import pytest

from jobs.nightly.learned_from import LearnedFrom


@pytest.mark.parametrize(
    ("live", "backfill", "words"),
    [
        (0, 59, "59 backfilled nights"),
        (2, 59, "2 live and 59 backfilled nights"),
        (1, 0, "1 live night"),
        (0, 0, "no nights"),
    ],
)
def test_live_and_backfilled_nights_are_told_apart(live: int, backfill: int, words: str) -> None:
    assert str(LearnedFrom(live, backfill)) == words
