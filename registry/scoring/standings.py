"""Standings: how forecasts of each version scored, beside references that were issued with them.

Every night (cutoff) has the same weight, however many symbols it has. A skill is 1 - CRPS / CRPS of
the reference, on the symbols and nights that both have: raw against raw, calibrated against
calibrated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from registry.forecast import names
from registry.scoring.coverage import Coverage, coverage
from registry.scoring.difference import diebold_mariano

ALL = 0  # in place of a step: the mean over all steps of nights whose outcomes are complete
SIGNIFICANT = 0.05
BETTER, WORSE, OPEN = "better", "worse", "open"
KEYS = ["model", "version"]
_FORMS = ("", "_calibrated")


@dataclass(frozen=True)
class Against:
    """A version beside a reference, on the nights that both have."""

    nights: int
    skill: float
    p: float  # the larger of two Diebold-Mariano p-values

    @property
    def verdict(self) -> str:
        if self.p >= SIGNIFICANT:
            return OPEN
        return BETTER if self.skill > 0 else WORSE


@dataclass(frozen=True)
class Scored:
    """Raw or calibrated forecasts of a version, at a step or at all of them."""

    crps: float
    coverage_90: Coverage | None  # None: the levels do not reach that far
    against: Mapping[str, Against]  # by reference


@dataclass(frozen=True)
class Row:
    """A version at a step, over all nights or over those of a month."""

    model: str
    version: int
    step: int  # or ALL
    month: str  # of the cutoff, as 2022-06; empty: all
    nights: int
    outcomes: int
    uncalibrated: float  # share of the nights whose calibrated numbers are the raw ones
    raw: Scored
    calibrated: Scored


def rows(nights: pd.DataFrame, beside: Mapping[str, pd.DataFrame], by_month: bool) -> list[Row]:
    """Rows of frames as `registry.ledger.pairing` makes them, of one data set and source.

    `beside` has a frame for each reference. Sorted by model, version, step (ALL first) and month.
    """
    nights = _with_all(nights)
    paired = {}
    for reference, frame in beside.items():
        paired[reference] = dict(list(_groups(_with_all(frame), by_month)))
    made = []
    for key, group in _groups(nights, by_month):
        pairs = {name: groups[key] for name, groups in paired.items() if key in groups}
        made.append(_row(key, group, pairs))
    return made


def _groups(frame: pd.DataFrame, by_month: bool) -> Any:
    """Pairs of (model, version, step, month) and the nights in order."""
    cutoffs = pd.to_datetime(frame["cutoff"])
    months = cutoffs.dt.strftime("%Y-%m") if by_month else pd.Series("", index=frame.index)
    placed = frame.assign(month=months, cutoff=cutoffs).sort_values("cutoff", kind="stable")
    return placed.groupby([*KEYS, names.STEP, "month"], sort=True)


def _with_all(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a row more, of step ALL, for each forecast whose steps all have an outcome."""
    forecast = [*KEYS, "cutoff"]
    number = frame.groupby(forecast)[names.STEP].transform("count")
    complete = frame[number == frame["horizon"]]
    texts = [*forecast, "data", "source", names.STEP, "n", "horizon"]
    numbers = frame.columns.difference(texts)
    groups = complete.groupby(forecast)
    means = groups[[*numbers]].mean()
    means = means.assign(n=groups["n"].sum(), overlap=groups["horizon"].max())
    means = means.assign(**{names.STEP: ALL}).reset_index()
    return pd.concat([frame.assign(overlap=frame[names.STEP]), means], ignore_index=True)


def _row(key: Sequence[Any], group: pd.DataFrame, pairs: Mapping[str, pd.DataFrame]) -> Row:
    model, version, step, month = key
    raw, calibrated = (_scored(group, pairs, form) for form in _FORMS)
    return Row(
        model=str(model),
        version=int(version),
        step=int(step),
        month=str(month),
        nights=len(group),
        outcomes=int(group["n"].sum()),
        uncalibrated=float(group["uncalibrated"].mean()),
        raw=raw,
        calibrated=calibrated,
    )


def _scored(group: pd.DataFrame, pairs: Mapping[str, pd.DataFrame], form: str) -> Scored:
    overlap = int(group["overlap"].max())
    covered = group[f"covered_90{form}"].dropna().to_numpy()
    against = {}
    for reference, pair in pairs.items():
        crps = pair[f"crps{form}"].to_numpy()
        other = pair[f"crps_reference{form}"].to_numpy()
        skill = 1 - float(crps.mean() / other.mean())
        p = diebold_mariano(other - crps, overlap).p
        against[reference] = Against(len(pair), skill, p)
    return Scored(
        crps=float(group[f"crps{form}"].mean()),
        coverage_90=coverage(covered, int(group["n"].sum()), overlap) if len(covered) else None,
        against=against,
    )
