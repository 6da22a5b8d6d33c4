"""Which series are neighbours: graphs of a training window's returns, as weights [N, N].

A weight of 0 is no edge; weights are symmetric, and no series is its own neighbour. `network.heard`
turns each row of weights into shares.
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
    """|Pearson correlation| of returns [N, T]; an edge if one is among the other's k strongest."""
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
    """|partial correlation| of returns [N, T] by the graphical lasso.

    Friedman, Hastie and Tibshirani, Biostatistics 9 (2008), as in scikit-learn, on returns in their
    own standard deviations. Five-fold cross-validation sets the penalty; a value that the penalty
    shrinks to 0 is no edge. Raises BadConfig SINGULAR when there is no solution.
    """
    standardised = (y - y.mean(axis=1, keepdims=True)) / y.std(axis=1, keepdims=True)
    lasso = GraphicalLassoCV()
    try:
        # Candidate penalties may fail to converge. Only the final fit counts; it is checked below.
        with warnings.catch_warnings():
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
        "the graphical lasso finds no solution: some series are nearly the same, "
        "or sums of others; leave those out or take another graph (graph: correlation)",
        code="SINGULAR",
    )


def partial_correlations(precision: Floats) -> Floats:
    """-p_ij / sqrt(p_ii p_jj) of a precision matrix [N, N]; 0 on the diagonal.

    Lauritzen, Graphical Models, 1996.
    """
    scale = np.sqrt(np.diag(precision))
    correlations: Floats = -precision / np.outer(scale, scale)
    np.fill_diagonal(correlations, 0.0)
    return correlations


def sector(sectors: Sequence[str]) -> Floats:
    """1 between two series of one sector."""
    names = np.asarray(sectors)
    same: Floats = (names[:, None] == names).astype(np.float64)
    np.fill_diagonal(same, 0.0)
    return same


def check_moves(y: Floats, symbols: Sequence[str]) -> None:
    """Raise BadHistory for a series whose returns [N, T] never change: it has no correlation."""
    still = np.flatnonzero(np.ptp(y, axis=1) == 0)
    if still.size:
        raise BadHistory(
            f"{symbols[still[0]]} has the same return in every session to fit on, "
            "so it has no correlation with the others; leave it out",
            code="CONSTANT",
        )


def with_loops(weights: Floats, symbols: Sequence[str], kind: Kind, isolated: Isolated) -> Floats:
    """Weights in which a series without a neighbour is its own neighbour.

    Raises BadConfig ISOLATED for such a series if `isolated` is "refuse".
    """
    alone = np.flatnonzero(weights.sum(axis=1) == 0).tolist()
    if alone and isolated == "refuse":
        isolated_symbols = ", ".join(symbols[i] for i in alone)
        raise BadConfig(
            f"{isolated_symbols} would have no neighbour with graph: {kind}; take another graph "
            "(graph: correlation), leave it out, or make it its own neighbour (isolated: loop)",
            code="ISOLATED",
        )
    looped = weights.copy()
    looped[alone, alone] = 1.0
    return looped
