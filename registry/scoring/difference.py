"""Is one forecaster better than another: skill, and tests of 'both forecast equally well'.

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
    """Two-sided p-values of 'both forecast equally well'. The larger one counts."""

    p_hln: float  # rectangular window of h - 1 lags with the small-sample factor of HLN
    p_bartlett: float  # Bartlett window of 20 lags: volatility clusters beyond h - 1 lags

    @property
    def p(self) -> float:
        return max(self.p_hln, self.p_bartlett)


def diebold_mariano(differences: Floats, horizon: int) -> DieboldMariano:
    """Test of a loss difference per date [T]; average a panel over its series first.

    A long-run variance that is not positive (possible with the rectangular window) gives p = 1: no
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

    The variance of the mean comes from autocovariances, weighted from lag 0 on.
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
    """Skill against a reference that was scored on the same rows, from every `every`-th session.

    CRPS is averaged over series (and steps, unless one `step` is asked for) per origin first, so
    that every origin weighs the same, however many series take part. Outcomes of origins that far
    apart overlap at horizon / every - 1 lags. Raises BadInput for other rows.
    """
    if not scored[KEYS].astype(str).equals(reference[KEYS].astype(str)):
        raise BadInput(
            "model and reference were not scored on the same rows; evaluate both on the same origins"
        )
    horizon = step or int(scored[names.STEP].max())
    ours, theirs = _per_origin(scored, step), _per_origin(reference, step)
    if np.array_equal(ours, theirs):
        return Skill(0.0, DieboldMariano(1.0, 1.0))
    lags = -(-horizon // every)
    return Skill(1 - float(ours.mean() / theirs.mean()), diebold_mariano(theirs - ours, lags))


def _per_origin(scored: pd.DataFrame, step: int | None) -> Floats:
    """Mean CRPS [O] of each origin, of all steps or of one."""
    rows = scored[scored[names.STEP] == step] if step else scored
    means: Floats = rows.groupby(ORIGIN, observed=True)["crps"].mean().to_numpy()
    return means
