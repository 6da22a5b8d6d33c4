"""What a scale model is shown of a session: past-only features, those of the forecast session, and the volatility."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlprojects.blocks import features
from registry.forecast import volatility
from registry.forecast.arrays import Floats

NAMES = (*features.NAMES, *features.SEASON_NAMES)
CLIP = 4.0  # deviations of the training rows


@dataclass(frozen=True)
class Inputs:
    """Of R sessions: `daily` [R, F] known at their close, `season` [R, H, G] of the sessions ahead, EWMA volatility
    `sigma` [R]."""

    daily: Floats
    season: Floats
    sigma: Floats

    @classmethod
    def read(
        cls, values: Floats, ds: npt.NDArray[np.datetime64], horizon: int, keep: int = 1
    ) -> "Inputs":
        """Of the last `keep` sessions of each series, one series after the other; values [n, T, 3], ds [n, T]."""
        daily, season = features.daily(values, ds, keep), features.season(values, horizon, keep)
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
    """Mean and deviation [F + G] of the training rows, in the order of NAMES."""

    mean: Floats
    deviation: Floats

    @classmethod
    def of(cls, seen: Inputs) -> "Scaling":
        """A feature that never moves is divided by 1: it stays 0."""
        parts = seen.daily, seen.season.reshape(-1, seen.season.shape[2])
        deviation = np.concatenate([part.std(axis=0) for part in parts])
        return cls(
            np.concatenate([part.mean(axis=0) for part in parts]),
            np.where(deviation > 0, deviation, 1.0),
        )

    def __call__(self, raw: Inputs) -> Inputs:
        """Features in deviations from the mean, within CLIP."""
        first = raw.daily.shape[1]
        daily = (raw.daily - self.mean[:first]) / self.deviation[:first]
        season = (raw.season - self.mean[first:]) / self.deviation[first:]
        return Inputs(np.clip(daily, -CLIP, CLIP), np.clip(season, -CLIP, CLIP), raw.sigma)
