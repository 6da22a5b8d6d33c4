"""Comparison of two forecasters: skill, and tests of 'both forecast equally well'.

Sources: Diebold and Mariano, JBES 13 (1995); Harvey, Leybourne and Newbold (HLN), IJF 13 (1997);
Newey and West, Econometrica 55 (1987).
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtr

from registry.errors import BadInput
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.scoring.rolling import KEYS, ORIGIN

BARTLETT_LAGS = 20


@dataclass(frozen=True)
class DieboldMariano:
    """Two-sided p-values of 'both forecast equally well'. The larger p-value counts."""

    p_hln: float  # rectangular window of h - 1 lags with the small-sample factor of HLN
    p_bartlett: float  # Bartlett window of 20 lags: volatility clusters beyond h - 1 lags

    @property
    def p(self) -> float:
        return max(self.p_hln, self.p_bartlett)


def diebold_mariano(differences: Floats, horizon: int) -> DieboldMariano:
    """Test of one loss difference per date [T]; average a panel over its series first.

    If the long-run variance is not positive (possible with the rectangular window), p is 1: no
    evidence.
    """
    d = np.asarray(differences, dtype=np.float64)
    n, h = len(d), horizon
    if n <= h:
        return DieboldMariano(1.0, 1.0)
    factor = np.sqrt(max(n + 1 - 2 * h + h * (h - 1) / n, 0.0) / n)
    rectangular = np.ones(h)
    bartlett = 1 - np.arange(min(BARTLETT_LAGS, n - 1) + 1) / (BARTLETT_LAGS + 1)
    return DieboldMariano(_p_value(d, rectangular, factor), _p_value(d, bartlett, 1.0))


def _p_value(d: Floats, weights: Floats, factor: float) -> float:
    """p of the mean of d [T]: Student's t with T - 1 degrees of freedom.

    The variance of the mean comes from autocovariances; `weights` are those of lags 0, 1, ....
    """
    n = len(d)
    centred = d - d.mean()
    covariance = np.array([centred[lag:] @ centred[: n - lag] / n for lag in range(len(weights))])
    variance = (covariance[0] + 2 * (weights[1:] * covariance[1:]).sum()) / n
    if variance <= 0:
        return 1.0
    return float(2 * stdtr(n - 1, -abs(factor * d.mean() / np.sqrt(variance))))


@dataclass(frozen=True)
class Skill:
    """1 - CRPS / CRPS of a reference, and the test of 'both forecast equally well'."""

    skill: float
    test: DieboldMariano


def against(
    scored: pd.DataFrame, reference: pd.DataFrame, step: int | None = None, *, every: int = 1
) -> Skill:
    """Skill against a reference that was scored on the same rows.

    CRPS is first averaged per origin over series (and over steps, unless `step` selects one). So
    each origin has the same weight, however many series take part. Origins are `every` sessions
    apart: their outcomes overlap at horizon / every - 1 lags. Raises BadInput for other rows.
    """
    if not scored[KEYS].astype(str).equals(reference[KEYS].astype(str)):
        raise BadInput(
            "model and reference were not scored on the same rows; "
            "evaluate both on the same origins"
        )
    horizon = step or int(scored[names.STEP].max())
    model_crps = _per_origin(scored, step)
    reference_crps = _per_origin(reference, step)
    if np.array_equal(model_crps, reference_crps):
        return Skill(0.0, DieboldMariano(1.0, 1.0))
    skill = 1 - float(model_crps.mean() / reference_crps.mean())
    lags = -(-horizon // every)  # rounded up
    return Skill(skill, diebold_mariano(reference_crps - model_crps, lags))


def _per_origin(scored: pd.DataFrame, step: int | None) -> Floats:
    """Mean CRPS [O] of each origin, over all steps or at one step."""
    rows = scored[scored[names.STEP] == step] if step else scored
    means: Floats = rows.groupby(ORIGIN, observed=True)["crps"].mean().to_numpy()
    return means
