"""The official weights, if they are on disk: their bytes and the figures of upstream's tests.

    KRONOS_WEIGHTS=DIR make test-weights

DIR holds Kronos-mini, Kronos-Tokenizer-2k, Kronos-small and Kronos-Tokenizer-base as downloaded
from the Hub at the pinned commits, and upstream's regression_input.csv, regression_output_512.csv
and regression_output_256.csv.
"""

import os
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from mlprojects.kronos import model
from mlprojects.kronos.folders import load_predictor, load_tokenizer
from mlprojects.kronos.official import PINNED
from mlprojects.kronos.sampler import Draw, Sampler
from registry.forecast import names
from registry.versions.manifest import sha256

GREEDY = Draw(temperature=0.0)  # upstream writes top_k=1
COMMITS = {
    "Kronos-mini": "f4e68697d9d5aed55cef5c96aabc3376bcad9f81",
    "Kronos-Tokenizer-2k": "26966d0035065a0cae0ebad7af8ece35bc1fb51c",
    "Kronos-small": "901c26c1332695a2a8f243eb2f37243a37bea320",
    "Kronos-Tokenizer-base": "0e0117387f39004a9016484a186a908917e22426",
}
# By context; from upstream's tests, small@901c26c with Tokenizer-base@0e01173.
MEAN_SQUARED_ERROR = {512: 0.008979, 256: 0.003741}


@pytest.fixture(scope="module")
def folder() -> Path:
    return Path(os.environ["KRONOS_WEIGHTS"])


@pytest.fixture(scope="module")
def small(folder: Path) -> Sampler:
    tokenizer = load_tokenizer(folder / "Kronos-Tokenizer-base")
    predictor = load_predictor(folder / "Kronos-small")
    return Sampler(tokenizer, predictor, max_context=512)


@pytest.fixture(scope="module")
def bars(folder: Path) -> pd.DataFrame:
    """2,500 five-minute bars."""
    return pd.read_csv(folder / "regression_input.csv", parse_dates=["timestamps"])


def forecast(
    sampler: Sampler, bars: pd.DataFrame, first: int, context: int, steps: int
) -> np.ndarray:
    """Bars [steps, 6] after bars first .. first + context - 1."""
    rows = bars.iloc[first : first + context + steps]
    clock = rows["timestamps"].dt
    parts = [clock.minute, clock.hour, clock.weekday, clock.day, clock.month]
    stamps = np.stack(parts, axis=1)[None]
    history = rows[list(names.BAR)].to_numpy(dtype=np.float64)[None, :context]
    return sampler.sample(history, stamps, [0], 1, GREEDY, overflow="exact").bars[0, 0]


@pytest.mark.parametrize(("name", "commit"), COMMITS.items())
def test_bytes_are_the_pinned_ones(folder: Path, name: str, commit: str) -> None:
    for file, expected in PINNED[commit].items():
        assert sha256(folder / name / file) == expected


def test_mini_and_its_tokenizer_load_and_belong_together(folder: Path) -> None:
    kronos = model.from_official(
        folder / "Kronos-mini", folder / "Kronos-Tokenizer-2k", name="kronos"
    )
    assert kronos.spec.max_context == 2048


@pytest.mark.parametrize("context", [512, 256])
def test_eight_greedy_steps_are_those_of_upstream(
    folder: Path, small: Sampler, bars: pd.DataFrame, context: int
) -> None:
    expected = pd.read_csv(folder / f"regression_output_{context}.csv")[list(names.BAR)].to_numpy()
    npt.assert_allclose(forecast(small, bars, 0, context, len(expected)), expected, rtol=1e-5)


@pytest.mark.parametrize(("context", "expected"), MEAN_SQUARED_ERROR.items())
def test_mean_squared_error_of_thirty_steps_is_the_published_one(
    small: Sampler, bars: pd.DataFrame, context: int, expected: float
) -> None:
    """Four windows, drawn as upstream draws them: by pandas, seed 123."""
    drawn = bars.iloc[context : len(bars) - 30].sample(n=4, random_state=123).sort_index().index
    errors = []
    for row in drawn:
        forecast_prices = forecast(small, bars, row - context, context, 30)[:, :4]
        prices = bars.iloc[row : row + 30][list(names.OHLC)].to_numpy()
        errors.append(np.square(forecast_prices - prices).mean())
    npt.assert_allclose(np.mean(errors), expected, rtol=0, atol=1e-6)
