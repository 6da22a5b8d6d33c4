"""Counts that are made up: the same every time, of the past only, and labelled."""

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.data import processed, synthetic
from registry.forecast import names


def test_counts_are_whole_numbers_of_every_row_and_the_same_again(panel: pd.DataFrame) -> None:
    one = panel[panel[names.UNIQUE_ID].isin(["AAPL", "KO"])]
    found = synthetic.counts(one)
    pd.testing.assert_frame_equal(found, synthetic.counts(one))
    assert found[names.UNIQUE_ID].tolist() == one[names.UNIQUE_ID].tolist()
    for name in names.COUNTS:
        npt.assert_array_equal(found[name], np.floor(found[name]))
        assert (found[name] >= 0).all()
        npt.assert_array_equal(found[name], one[name])  # what the compiled panel holds


@pytest.mark.parametrize("sessions", [30, 500])
def test_later_returns_change_no_earlier_count(panel: pd.DataFrame, sessions: int) -> None:
    one = panel[panel[names.UNIQUE_ID] == "AAPL"].reset_index(drop=True)
    later = one.assign(y=one["y"].where(one.index < sessions, 0.01 - 3 * one["y"].abs()))
    before, after = (synthetic.counts(frame)[list(names.COUNTS)] for frame in (one, later))
    pd.testing.assert_frame_equal(before.head(sessions), after.head(sessions))
    assert not before.equals(after)


def test_counts_rise_with_the_size_of_the_return(panel: pd.DataFrame) -> None:
    for name in names.COUNTS:
        ranked = panel.groupby(names.UNIQUE_ID)[name].rank()
        assert np.corrcoef(ranked, panel["y"].abs())[0, 1] > 0.2


def test_data_say_which_columns_are_made_up(compiled) -> None:
    assert processed.load(compiled, "panel").synthetic == ("news_count", "tweet_count")
    assert processed.load(compiled, "bars").synthetic == ()
