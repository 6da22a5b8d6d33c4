"""What a calibration is: its scope, its states, and how it was learned."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import numpy as np

from registry.errors import BadParameter
from registry.forecast.arrays import Floats, Places
from registry.ledger import checks

KINDS = ("symbol", "sector", "global")
_EVIDENCE = 1 << 16  # characters at most


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What is calibrated: a version of a registry on a data set. Raises BadParameter."""

    registry: str  # its id, as in `promotions`
    model: str
    version: int
    data: str

    def __post_init__(self) -> None:
        checks.check_name("registry", self.registry)
        checks.check_name("model", self.model, 64)
        checks.check_whole("version", self.version, 1)
        checks.check_name("data", self.data, 64)


@dataclass(frozen=True, kw_only=True, eq=False)
class States:
    """K states at Q levels, of different keys and steps. Raises BadParameter."""

    keys: Sequence[tuple[str, str]]  # [K] kind (one of KINDS) and name, which is "" if global
    steps: Places  # [K] 1, 2, ...
    bias: Floats  # [K]
    scale: Floats  # [K] more than 0
    offsets: Floats  # [K, Q]

    def __post_init__(self) -> None:
        for kind, name in self.keys:
            _check_key(kind, name)
        for field in ("steps", "bias", "scale"):
            _check_shape(field, getattr(self, field), (len(self.keys),), "[K]")
        if self.offsets.ndim != 2:
            raise BadParameter(f"offsets have shape {self.offsets.shape}, expected [K, Q]")
        width = self.offsets.shape[1]
        _check_shape("offsets", self.offsets, (len(self.keys), width), "[K, Q]")
        for step in self.steps.tolist():
            checks.check_whole("step", step, 1)
        if (self.scale <= 0).any():
            raise BadParameter("a scale is not more than 0")
        if len(set(zip(self.keys, self.steps.tolist(), strict=True))) < len(self.keys):
            raise BadParameter("a key and step has two states")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A calibration without its states."""

    number: int  # 1, 2, ... within a scope
    method: str
    learned_until: date  # last session that it learned from
    known_from: datetime
    levels: tuple[float, ...]  # [Q]
    evidence: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration(Version, States):
    """A calibration with its states, sorted by (kind, name, step)."""


def checked_levels(levels: Sequence[float], states: States) -> list[float]:
    """Levels that ascend within 0 and 1, as many as a state has offsets. Raises BadParameter."""
    plain = [float(level) for level in levels]
    bounds = np.array([0.0, *plain, 1.0])
    if not plain or not (np.diff(bounds) > 0).all():
        raise BadParameter(
            "levels of a calibration do not ascend within 0 and 1", code="BAD_LEVELS"
        )
    if states.offsets.shape[1] != len(plain):
        raise BadParameter(
            f"offsets have shape {states.offsets.shape}, expected [K, Q] = "
            f"({len(states.keys)}, {len(plain)})"
        )
    return plain


def evidence_json(evidence: Mapping[str, Any]) -> str:
    """The text that is stored. Raises BadParameter."""
    try:
        text = json.dumps(evidence, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"evidence is no JSON: {error}") from error
    if len(text) > _EVIDENCE:
        raise BadParameter(f"evidence has {len(text)} characters, at most {_EVIDENCE} are kept")
    return text


def _check_key(kind: str, name: str) -> None:
    checks.check_choice("kind of a key", kind, KINDS)
    if kind != "global":
        checks.check_name("name of a key", name)
    elif name:
        raise BadParameter("the global key has a name, expected none")


def _check_shape(field: str, array: Any, shape: tuple[int, ...], letters: str) -> None:
    if array.shape != shape:
        raise BadParameter(f"{field} has shape {array.shape}, expected {letters} = {shape}")
    if not np.isfinite(array).all():
        raise BadParameter(f"{field} has a number that is not finite")
