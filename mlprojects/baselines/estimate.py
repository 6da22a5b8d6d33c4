"""Training of GARCH and GJR-GARCH: maximum likelihood per series, with the package arch."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from arch import arch_model
from matplotlib.figure import Figure

from mlprojects.baselines import garch
from mlprojects.baselines.settings import SHORTEST
from registry.errors import BadHistory
from registry.forecast import names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.history import History

# Largest persistence; the optimiser stops at 1, up to rounding, when it would go beyond.
STATIONARY = 1 - 1e-6
# Of the log-likelihood: almost normal errors end at some large nu, a little below the limit.
SLACK = 1.0
SHOWN = 504  # sessions in the figure: two years

FITTED = "fitted"
TOO_SHORT = f"fewer than {SHORTEST} sessions"
STILL = "does not move"
NO_MAXIMUM = "did not converge"
INTEGRATED = "not stationary"


@dataclass(frozen=True)
class Fit:
    """Maximum of one series' likelihood: parameters [6] (garch.NAMES).

    Without a maximum, `outcome` is the reason and the parameters are None.
    """

    outcome: str
    parameters: Floats | None = None
    log_likelihood: float = float("nan")


def fit(y: Floats, *, asymmetric: bool) -> Fit:
    """Maximum likelihood for returns [T], with gamma if `asymmetric`.

    Returns are divided by their standard deviation first. The optimiser needs numbers near 1: for a
    calm bond in per cent, it takes its first steps for a maximum.
    """
    if len(y) < SHORTEST:
        return Fit(TOO_SHORT)
    # Half of the returns repeat the return before: no density does that.
    if np.median(np.abs(np.diff(y))) == 0:
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
    """The fit for returns [T], if the optimiser's result is a valid maximum.

    It must have converged, be stationary, and be no less likely than independent normal returns.
    The model contains these as a limit.
    """
    independent = -len(y) / 2 * (np.log(2 * np.pi) + 1 + 2 * np.log(y.std()))
    if not converged or not log_likelihood >= independent - SLACK:
        return Fit(NO_MAXIMUM)
    if garch.persistence(parameters[None])[0] > STATIONARY:
        return Fit(INTEGRATED)
    return Fit(FITTED, parameters, log_likelihood)


@dataclass(frozen=True)
class Estimates:
    """Parameters [S, 6] of the S fitted series, and a table of all series with their outcomes."""

    symbols: tuple[str, ...]
    parameters: Floats
    table: pd.DataFrame


def estimate(history: pd.DataFrame, *, asymmetric: bool) -> Estimates:
    """Fit every series of a history separately. Raises BadHistory when none can be fitted."""
    whole = History.of(history)
    returns = [whole.columns[names.Y][start:end] for start, end in pairwise(whole.bounds)]
    fits = [fit(y, asymmetric=asymmetric) for y in returns]
    outcomes = pd.Series([result.outcome for result in fits], dtype="str")
    fitted = outcomes == FITTED
    if not fitted.any():
        counts = outcomes.value_counts()
        reasons = ", ".join(f"{outcome} ({n})" for outcome, n in counts.items())
        raise BadHistory(
            f"none of {len(fits)} series up to fit_until can be fitted: "
            f"{reasons or 'there is no series'}",
            code="NOT_FITTED",
        )
    empty = np.full(len(garch.NAMES), np.nan)
    rows = [empty if result.parameters is None else result.parameters for result in fits]
    parameters = np.stack(rows)
    table = pd.DataFrame(parameters, columns=list(garch.NAMES)).assign(
        persistence=garch.persistence(parameters),
        volatility=garch.unconditional_volatility(parameters),  # of a session, in the long run
        log_likelihood=[result.log_likelihood for result in fits],
        outcome=outcomes,
    )
    table.insert(0, names.UNIQUE_ID, list(whole.ids))
    table.insert(1, "sessions", whole.lengths)
    symbols = tuple(table.loc[fitted, names.UNIQUE_ID])
    return Estimates(symbols, table.loc[fitted, list(garch.NAMES)].to_numpy(), table)


def volatility_chart(history: pd.DataFrame, estimates: Estimates) -> Figure:
    """Conditional and EWMA volatility, per cent, of the first fitted series over SHOWN sessions."""
    name = estimates.symbols[0]
    series = history[history[names.UNIQUE_ID] == name]
    sessions = series[names.DS].iloc[-SHOWN:]
    y = series[names.Y].to_numpy()[None]
    ewma = volatility.ewma_volatility(y)[0]
    conditional = garch.scale(y, estimates.parameters[:1], 1)[0, :, 0]
    figure = Figure(figsize=(10, 4), layout="constrained")
    axis = figure.subplots()
    for label, sigma, colour in (
        ("EWMA, decay 0.94", ewma, "#95a5a6"),
        ("conditional volatility", conditional, "#1f77b4"),
    ):
        axis.plot(sessions, 100 * sigma[-SHOWN:], color=colour, linewidth=1.2, label=label)
    axis.set_title(f"{name}: volatility of the next session", loc="left", fontsize=10)
    axis.set_ylabel("per cent a session")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=8)
    return figure
