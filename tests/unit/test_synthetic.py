"""Made-up counts: reproducible, from past returns only, and labelled."""

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from jobs.data import catalog, synthetic
from registry.forecast import names


def test_counts_are_whole_numbers_of_every_row_and_the_same_again(panel: pd.DataFrame) -> None:
    two_stocks = panel[panel[names.UNIQUE_ID].isin(["AAPL", "KO"])]
    counts = synthetic.counts(two_stocks)
    pd.testing.assert_frame_equal(counts, synthetic.counts(two_stocks))
    assert counts[names.UNIQUE_ID].tolist() == two_stocks[names.UNIQUE_ID].tolist()
    for name in names.COUNTS:
        npt.assert_array_equal(counts[name], np.floor(counts[name]))
        assert (counts[name] >= 0).all()
        npt.assert_array_equal(counts[name], two_stocks[name])  # as in the compiled panel


@pytest.mark.parametrize("sessions", [30, 500])
def test_later_returns_change_no_earlier_count(panel: pd.DataFrame, sessions: int) -> None:
    stock = panel[panel[names.UNIQUE_ID] == "AAPL"].reset_index(drop=True)
    later = stock.assign(y=stock["y"].where(stock.index < sessions, 0.01 - 3 * stock["y"].abs()))
    before, after = (synthetic.counts(frame)[list(names.COUNTS)] for frame in (stock, later))
    pd.testing.assert_frame_equal(before.head(sessions), after.head(sessions))
    assert not before.equals(after)


def test_counts_rise_with_the_size_of_the_return(panel: pd.DataFrame) -> None:
    for name in names.COUNTS:
        ranked = panel.groupby(names.UNIQUE_ID)[name].rank()
        assert np.corrcoef(ranked, panel["y"].abs())[0, 1] > 0.2


def test_data_say_which_columns_are_made_up() -> None:
    assert catalog.Catalog().find("panel").synthetic == ("news_count", "tweet_count")
    assert catalog.Catalog().find("bars").synthetic == ()
