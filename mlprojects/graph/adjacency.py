"""Which series are neighbours: graphs of a training window's returns, as weights [N, N].

A weight of 0 is no edge; weights are symmetric and no series is its own neighbour. What a series hears of a neighbour
is the neighbour's share of its row (network.heard).
"""

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.covariance import GraphicalLassoCV
from sklearn.exceptions import ConvergenceWarning

from mlprojects.graph.settings import Isolated, Kind
from registry.errors import BadConfig, BadHistory
from registry.forecast.arrays import Floats


def correlation(y: Floats, k: int) -> Floats:
    """|Pearson correlation| of returns [N, T] between two series of which one is among the k strongest of the other."""
    n = len(y)
    if not 1 <= k < n:
        raise BadConfig(f"k is {k}, expected 1..{n - 1}: a series has {n - 1} others")
    strength = np.abs(np.corrcoef(y))
    np.fill_diagonal(strength, -1.0)
    strongest = np.argsort(-strength, axis=1, kind="stable")[:, :k]
    chosen = np.zeros((n, n), dtype=bool)
    np.put_along_axis(chosen, strongest, True, axis=1)
    return np.where(chosen | chosen.T, strength, 0.0)


def partial(y: Floats) -> Floats:
    """|partial correlation| of returns [N, T] by the graphical lasso, its penalty found by five-fold cross-validation.

    Friedman, Hastie and Tibshirani, Biostatistics 9 (2008), by scikit-learn, on returns in their own standard
    deviations. What the penalty shrinks to 0 is no edge. Raises BadConfig SINGULAR when there is no solution.
    """
    standardised = (y - y.mean(axis=1, keepdims=True)) / y.std(axis=1, keepdims=True)
    lasso = GraphicalLassoCV()
    try:
        with (
            warnings.catch_warnings()
        ):  # of penalties that lose on the way; the fit that is used is looked at below
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.filterwarnings(
                "ignore", message="invalid value encountered", category=RuntimeWarning
            )
            lasso.fit(standardised.T)
    except FloatingPointError as error:
        raise _no_solution() from error
    if lasso.n_iter_ >= lasso.max_iter:
        raise _no_solution()
    return np.abs(partial_correlations(lasso.precision_))


def _no_solution() -> BadConfig:
    return BadConfig(
        "the graphical lasso finds no solution: some series are nearly the same, or sums of others; leave those out or "
        "take another graph (graph: correlation)",
        code="SINGULAR",
    )


def partial_correlations(precision: Floats) -> Floats:
    """-p_ij / sqrt(p_ii p_jj) of a precision matrix [N, N]; 0 on the diagonal (Lauritzen, Graphical Models, 1996)."""
    scale = np.sqrt(np.diag(precision))
    found: Floats = -precision / np.outer(scale, scale)
    np.fill_diagonal(found, 0.0)
    return found


def sector(sectors: Sequence[str]) -> Floats:
    """1 between two series of one sector."""
    names = np.asarray(sectors)
    same: Floats = (names[:, None] == names).astype(np.float64)
    np.fill_diagonal(same, 0.0)
    return same


def check_moves(y: Floats, symbols: Sequence[str]) -> None:
    """Raise BadHistory when a series' returns [N, T] are all the same: they correlate with nothing."""
    still = np.flatnonzero(np.ptp(y, axis=1) == 0)
    if still.size:
        raise BadHistory(
            f"{symbols[still[0]]} has the same return in every session to fit on; it has no place in a graph: leave "
            "it out",
            code="CONSTANT",
        )


def with_loops(weights: Floats, symbols: Sequence[str], kind: Kind, isolated: Isolated) -> Floats:
    """Weights in which a series without a neighbour hears itself; BadConfig ISOLATED unless that was asked for."""
    alone = np.flatnonzero(weights.sum(axis=1) == 0).tolist()
    if alone and isolated == "refuse":
        raise BadConfig(
            f"{', '.join(symbols[i] for i in alone)} would have no neighbour with graph: {kind}; take another graph "
            "(graph: correlation), leave it out, or let such a series hear itself (isolated: loop)",
            code="ISOLATED",
        )
    looped = weights.copy()
    looped[alone, alone] = 1.0
    return looped
