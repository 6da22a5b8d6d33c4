"""Inputs of a scale model: past-only features, seasons of the sessions ahead, and volatility."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlprojects.blocks import features
from registry.forecast import volatility
from registry.forecast.arrays import Floats

NAMES = (*features.NAMES, *features.SEASON_NAMES)
CLIP = 4.0  # deviations over the training rows


@dataclass(frozen=True)
class Inputs:
    """Inputs at the close of R sessions.

    `daily` [R, F]: features; `season` [R, H, G]: features of the sessions ahead; `sigma` [R]: EWMA
    volatility.
    """

    daily: Floats
    season: Floats
    sigma: Floats

    @classmethod
    def read(
        cls, values: Floats, ds: npt.NDArray[np.datetime64], horizon: int, keep: int = 1
    ) -> "Inputs":
        """Inputs at the last `keep` sessions of each series, series by series.

        values [n, T, 3], ds [n, T].
        """
        daily = features.daily(values, ds, keep)
        season = features.season(values, horizon, keep)
        sigma = volatility.ewma_volatility(np.ascontiguousarray(values[:, :, 0]))[:, -keep:]
        return cls(
            daily.reshape(-1, daily.shape[2]),
            season.reshape(-1, *season.shape[2:]),
            sigma.reshape(-1),
        )

    def take(self, rows: npt.NDArray[np.bool_]) -> "Inputs":
        return Inputs(self.daily[rows], self.season[rows], self.sigma[rows])


@dataclass(frozen=True)
class Scaling:
    """Mean and standard deviation [F + G] of the training rows, in the order of NAMES."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, inputs: Inputs) -> "Scaling":
        """A constant feature gets a deviation of 1, so that its scaled value is 0."""
        parts = inputs.daily, inputs.season.reshape(-1, inputs.season.shape[2])
        mean = np.concatenate([part.mean(axis=0) for part in parts])
        deviation = np.concatenate([part.std(axis=0) for part in parts])
        return cls(mean, np.where(deviation > 0, deviation, 1.0))

    def __call__(self, raw: Inputs) -> Inputs:
        """Features in deviations from the mean, within CLIP."""
        first = raw.daily.shape[1]
        daily = (raw.daily - self.mean[:first]) / self.deviation[:first]
        season = (raw.season - self.mean[first:]) / self.deviation[first:]
        return Inputs(np.clip(daily, -CLIP, CLIP), np.clip(season, -CLIP, CLIP), raw.sigma)
