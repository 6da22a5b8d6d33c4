"""GARCH and GJR-GARCH by maximum likelihood, one series at a time, with the package arch: training only."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from arch import arch_model
from matplotlib.figure import Figure

from mlprojects.baselines import garch
from registry.errors import BadHistory
from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.history import History

SHORTEST = (
    500  # sessions; Hwang and Valls Pereira, European Journal of Finance 12 (2006), ask for as many
)
STATIONARY = (
    1 - 1e-6
)  # persistence; the optimiser stops at 1, up to its rounding, when it would go beyond
SLACK = 1.0  # of the log-likelihood; errors that are all but normal end at some large nu, not at the limit
SHOWN = 504  # sessions in the figure: two years

FITTED = "fitted"
TOO_SHORT = f"fewer than {SHORTEST} sessions"
STILL = "does not move"
NO_MAXIMUM = "did not converge"
INTEGRATED = "not stationary"


@dataclass(frozen=True)
class Fit:
    """Maximum of one series' likelihood: parameters [6] (garch.NAMES), or an outcome that says why there is none."""

    outcome: str
    parameters: Floats | None = None
    log_likelihood: float = float("nan")


def fit(y: Floats, *, asymmetric: bool) -> Fit:
    """Maximum likelihood for returns [T], with gamma if `asymmetric`.

    Returns are divided by their standard deviation first: the optimiser needs numbers near 1, and in per cent it takes
    the first steps on a calm bond for a maximum.
    """
    if len(y) < SHORTEST:
        return Fit(TOO_SHORT)
    if (
        np.median(np.abs(np.diff(y))) == 0
    ):  # half of the returns repeat the one before: no density has that
        return Fit(STILL)
    unit = float(y.std())
    model = arch_model(
        y / unit, mean="Constant", vol="GARCH", p=1, o=int(asymmetric), q=1, dist="t", rescale=False
    )
    fitted = model.fit(disp="off", show_warning=False)
    mu, omega, alpha, *gamma, beta, nu = fitted.params.to_numpy()
    parameters = np.array([mu * unit, omega * unit**2, alpha, *(gamma or [0.0]), beta, nu])
    likelihood = float(fitted.loglikelihood - len(y) * np.log(unit))
    return judged(y, parameters, likelihood, converged=fitted.convergence_flag == 0)


def judged(y: Floats, parameters: Floats, log_likelihood: float, *, converged: bool) -> Fit:
    """What an optimiser's result for returns [T] is worth.

    A maximum has to have converged, to be no less likely than independent normal returns, which
    the model contains as a limit, and to be stationary.
    """
    independent = -len(y) / 2 * (np.log(2 * np.pi) + 1 + 2 * np.log(y.std()))
    if not converged or not log_likelihood >= independent - SLACK:
        return Fit(NO_MAXIMUM)
    if garch.persistence(parameters[None])[0] > STATIONARY:
        return Fit(INTEGRATED)
    return Fit(FITTED, parameters, log_likelihood)


@dataclass(frozen=True)
class Estimates:
    """Parameters [S, 6] of the series [S] that could be fitted, and a table of all series with each one's outcome."""

    symbols: tuple[str, ...]
    parameters: Floats
    table: pd.DataFrame


def estimate(history: pd.DataFrame, *, asymmetric: bool) -> Estimates:
    """Fit every series of a history by itself. Raises BadHistory when none can be fitted."""
    whole = History.of(history)
    returns = [whole.columns[names.Y][start:end] for start, end in pairwise(whole.bounds)]
    fits = [fit(y, asymmetric=asymmetric) for y in returns]
    outcomes = pd.Series([found.outcome for found in fits], dtype="str")
    if not (outcomes == FITTED).any():
        why = ", ".join(f"{outcome} ({n})" for outcome, n in outcomes.value_counts().items())
        raise BadHistory(
            f"none of {len(fits)} series up to fit_until can be fitted: {why or 'there is none'}",
            code="NOT_FITTED",
        )
    empty = np.full(len(garch.NAMES), np.nan)
    parameters = np.stack(
        [empty if found.parameters is None else found.parameters for found in fits]
    )
    table = pd.DataFrame(parameters, columns=list(garch.NAMES)).assign(
        persistence=garch.persistence(parameters),
        volatility=garch.unconditional_volatility(parameters),  # of a session, in the long run
        log_likelihood=[found.log_likelihood for found in fits],
        outcome=outcomes,
    )
    table.insert(0, names.UNIQUE_ID, list(whole.ids))
    table.insert(1, "sessions", whole.lengths)
    own = table[outcomes == FITTED]
    return Estimates(tuple(own[names.UNIQUE_ID]), own[list(garch.NAMES)].to_numpy(), table)


def volatility_chart(history: pd.DataFrame, estimates: Estimates) -> Figure:
    """Conditional volatility of the first fitted series beside its EWMA over the last sessions of the fit, per cent."""
    name = estimates.symbols[0]
    one = history[history[names.UNIQUE_ID] == name]
    y = one[names.Y].to_numpy()[None]
    figure = Figure(figsize=(10, 4), layout="constrained")
    axis = figure.subplots()
    for label, sigma, colour in (
        ("EWMA, decay 0.94", volatility.ewma_volatility(y)[0], "#95a5a6"),
        ("conditional volatility", garch.scale(y, estimates.parameters[:1], 1)[0, :, 0], "#1f77b4"),
    ):
        axis.plot(
            one[names.DS].iloc[-SHOWN:],
            100 * sigma[-SHOWN:],
            color=colour,
            linewidth=1.2,
            label=label,
        )
    axis.set_title(f"{name}: volatility of the next session", loc="left", fontsize=10)
    axis.set_ylabel("per cent a session")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure
