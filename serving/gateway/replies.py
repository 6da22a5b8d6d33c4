"""Replies of /forecast: numbers for people and programs, with what they rest on."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from registry.errors import BadForecast, NotAvailable
from registry.forecast import names
from registry.forecast.quantiles import interpolated
from registry.forecast.spec import ModelSpec
from registry.scoring import calibration as calibrating
from registry.scoring.calibration_table import APPLIED
from serving.gateway.calls import Floats, Row
from serving.gateway.history import LEDGER, History
from serving.gateway.tables import Calibration
from serving.messages import Issued, Route

TARGET = "session_log_return"
CUMULATIVE = "cumulative_log_return"
_CLOSE = names.BAR.index("close")
_IDENTITY = APPLIED.index("identity")


@dataclass(frozen=True, slots=True)
class Numbers:
    """Raw and calibrated numbers of one series: for each step the mean, then the quantiles."""

    raw: Floats  # [H, 1 + Q]
    calibrated: Floats | None  # None: no state of a calibration applies


def numbers(row: Row, symbol: str, levels: Sequence[float], calibration: Calibration) -> Numbers:
    """A forecast before and after its calibration, if that has a state for one of its steps."""
    if calibration.table is None:
        return Numbers(row.values, None)
    states = calibration.table.states([symbol], calibration.sectors, len(row.values))
    if (states.applied == _IDENTITY).all():
        return Numbers(row.values, None)
    mean, before = row.values[None, :, 0], row.values[None, :, 1:]
    after = calibrating.calibrated(before, levels, states)
    moved = calibrating.calibrated_mean(mean, before, after, levels)
    return Numbers(row.values, np.concatenate([moved[0][:, None], after[0]], axis=1))


def asked(
    row: Row,
    both: Numbers,
    levels: Sequence[float],
    wanted: Sequence[float],
    *,
    cumulative: bool,
    close: float | None,
) -> Floats:
    """Mean and quantiles [H, 1 + Q] at the wanted levels; of the cumulative return if asked."""
    current = both.raw if both.calibrated is None else both.calibrated
    outside = wanted[0] < levels[0] or wanted[-1] > levels[-1]
    if not (cumulative or outside):
        quantiles = interpolated(current[:, 1:], levels, wanted)
        return np.concatenate([current[:, :1], quantiles], axis=1)
    paths = _paths(row, both, close)
    if cumulative:
        paths = paths.cumsum(axis=1)
    quantiles = np.quantile(paths, np.asarray(wanted), axis=0).T
    mean = paths.mean(axis=0) if cumulative else current[:, 0]
    return np.concatenate([mean[:, None], quantiles], axis=1)


def check_cumulative(spec: ModelSpec) -> None:
    """Raise NotAvailable unless a model has paths."""
    if not spec.has_paths:
        raise NotAvailable(
            f"{spec.name} forecasts single sessions; it has no paths, so a cumulative return "
            "cannot be said"
        )


def _paths(row: Row, both: Numbers, close: float | None) -> Floats:
    """Sampled returns [S, H], calibrated if the forecast is."""
    paths = row.paths
    if row.prices is not None and close is not None:
        paths = _returns(row.prices[:, :, _CLOSE], close)
    if paths is None:
        raise NotAvailable("the version sent no paths")
    if both.calibrated is None:
        return paths
    before, after = both.raw[None, :, 1:], both.calibrated[None, :, 1:]
    mapped: Floats = calibrating.calibrated_paths(paths[None], before, after)[0]
    return mapped


def _returns(closes: Floats, last: float) -> Floats:
    """Log returns [S, H] of sampled closes [S, H] after a last close."""
    first = np.full((len(closes), 1), last)
    returns: Floats = np.diff(np.log(np.concatenate([first, closes], axis=1)), axis=1)
    return returns


def shown(values: Floats, steps: Sequence[int], keys: Sequence[str]) -> dict[str, Any]:
    """`yhat` and `q` of the steps. Raises BadForecast for a number that JSON does not have."""
    if not np.isfinite(values).all():
        raise BadForecast("a forecast holds a value that is not finite")
    yhat, quantiles = {}, {}
    rows = values.tolist()  # at once: one step at a time takes three times as long
    for step in steps:
        row = rows[step - 1]
        name = str(step)
        yhat[name] = row[0]
        quantiles[name] = dict(zip(keys, row[1:], strict=True))
    return {"yhat": yhat, "q": quantiles}


def of_version(route: Route) -> dict[str, Any]:
    """The part of `meta` that says which version answered."""
    meta: dict[str, Any] = {
        "model": route.name,
        "ver": route.version,
        "stage": route.stage,
        "manifest": route.manifest[:12],
        "trained_until": route.trained_until or None,
        "pretrained_until": route.pretrained_until or None,
    }
    if route.name != route.model:
        meta["asked"] = route.model
    if route.stale:
        meta["stale"] = True
    return meta


def of_history(history: History) -> dict[str, Any]:
    """The part of `meta` that says what the forecast rests on."""
    return {
        "cutoff": history.cutoff,
        "history": history.y,
        "ds": history.ds,
        "covariates": history.covariates,
        "input_digest": digest(history),
    }


def digest(history: History) -> str:
    """sha256 of the rows that the version looked at: its columns as JSON, names first."""
    hashed = hashlib.sha256(history.series.symbol.encode())
    for name, column in history.series.columns.items():
        hashed.update(b"\n%b:%b" % (name.encode(), column))
    return hashed.hexdigest()


def of_calibration(calibration: Calibration, age: int, steps: list[int]) -> dict[str, Any]:
    """What is said of a calibration, `age` sessions after the last one that it learned from."""
    identity = calibration.number is None
    return {
        "version": calibration.number,
        "state": calibration.state(steps, age),
        "learned_until": calibration.learned_until or None,
        "learned_from": calibration.learned_from or None,
        "age": None if identity else age,
    }


def forecast_id() -> str:
    return secrets.token_hex(16)


def notes_of(*groups: Sequence[str]) -> list[str]:
    """All notes, each once."""
    texts: dict[str, None] = {}
    for group in groups:
        texts.update(dict.fromkeys(group))
    return list(texts)


def issued(
    history: History, both: Numbers, levels: Sequence[float], data: str, calibration: Calibration
) -> Issued | None:
    """What the ledger keeps of a forecast, if its history came from there."""
    if history.y != LEDGER or not data:
        return None
    return Issued(
        data=data,
        symbol=history.series.symbol,
        cutoff=history.cutoff,
        levels=list(levels),
        raw=both.raw.tolist(),
        calibrated=None if both.calibrated is None else both.calibrated.tolist(),
        calibration=None if both.calibrated is None else calibration.number,
    )


@lru_cache(maxsize=64)
def keys_of(levels: tuple[float, ...]) -> list[str]:
    return [names.percent_key(level) for level in levels]
