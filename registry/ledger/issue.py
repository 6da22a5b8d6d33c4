"""What a version issues: which forecast it is, and its numbers."""

import json
import uuid
from dataclasses import dataclass
from datetime import date, datetime

import numpy as np

from registry.errors import BadParameter
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.ledger import checks
from registry.ledger.claims import now

# A backfill was computed later than its `issued_at`, from what was known then.
NIGHTLY, SERVED, BACKFILL = "nightly", "served", "backfill"
SOURCES = (NIGHTLY, SERVED, "shadow", BACKFILL)
_IDS = uuid.UUID("b0f5a2bb-3d5d-4c3e-9d0e-6a2a6b0c8f11")  # namespace of the ids made here


@dataclass(frozen=True, kw_only=True)
class Issue:
    """Who issued a forecast, of what, and when."""

    registry: str  # id of the registry
    model: str
    version: int
    data: str  # data set in the ledger
    source: str  # one of SOURCES
    cutoff: date
    issued_at: datetime
    calibration: int | None = None  # version of the calibration that was applied
    forecast_id: str = ""  # empty: made from registry to cutoff; needed if it was served

    @property
    def id(self) -> str:
        """`forecast_id`, or the one id that this version has for the cutoff."""
        if self.forecast_id:
            return self.forecast_id
        key = [self.registry, self.model, self.version, self.data, self.source, str(self.cutoff)]
        return str(uuid.uuid5(_IDS, json.dumps(key)))


@dataclass(frozen=True)
class Blocks:
    """Numbers of a forecast: for each symbol and step its mean, then its quantiles."""

    symbols: tuple[str, ...]  # [N]
    levels: tuple[float, ...]  # [Q]
    raw: Floats  # [N, H, 1 + Q]
    calibrated: Floats | None = None  # [N, H, 1 + Q]

    @classmethod
    def of(cls, raw: Forecast, calibrated: Forecast | None = None) -> "Blocks":
        """Of a forecast and of the same one calibrated, both at the levels of the model."""
        after = None if calibrated is None else _block(calibrated)
        return cls(raw.unique_id, raw.levels, _block(raw), after)


def _block(forecast: Forecast) -> Floats:
    return np.concatenate([forecast.mean[:, :, None], forecast.quantiles], axis=2)


def check(issued: Issue, blocks: Blocks) -> None:
    """Raise BadParameter for what is no forecast."""
    _check_issue(issued)
    _check_blocks(blocks)
    if (issued.calibration is None) != (blocks.calibrated is None):
        raise BadParameter(
            "a forecast has calibrated numbers and the version of their calibration, or neither"
        )


def _check_issue(issued: Issue) -> None:
    checks.check_name("registry", issued.registry)
    checks.check_name("model", issued.model, 64)
    checks.check_whole("version", issued.version, 1)
    checks.check_name("data", issued.data, 64)
    checks.check_choice("source", issued.source, SOURCES)
    checks.check_session("cutoff", issued.cutoff)
    checks.check_instant("issued_at", issued.issued_at)
    if issued.calibration is not None:
        checks.check_whole("calibration", issued.calibration, 1)
    if issued.forecast_id:
        checks.check_name("forecast_id", issued.forecast_id, 64)
    if issued.source == SERVED and not issued.forecast_id:
        raise BadParameter("a served forecast needs the forecast_id that its reply has")
    if issued.issued_at > now():
        raise BadParameter(f"issued_at {issued.issued_at} is in the future")


def _check_blocks(blocks: Blocks) -> None:
    number = len(blocks.symbols)
    expected = (number, blocks.raw.shape[1] if blocks.raw.ndim > 1 else 0, 1 + len(blocks.levels))
    if not number or not expected[1] or len(set(blocks.symbols)) != number:
        raise BadParameter("a forecast has at least one step and symbol, and no symbol twice")
    bounds = np.array([0.0, *blocks.levels, 1.0])
    if not len(blocks.levels) or not (np.diff(bounds) > 0).all():
        raise BadParameter("levels do not ascend within 0 and 1", code="BAD_LEVELS")
    for values in (blocks.raw, blocks.calibrated):
        if values is not None:
            _check_values(values, expected)


def _check_values(values: Floats, expected: tuple[int, ...]) -> None:
    if values.shape != expected:
        raise BadParameter(f"blocks have shape {values.shape}, expected [N, H, 1 + Q] = {expected}")
    if not np.isfinite(values).all():
        raise BadParameter("a forecast holds a value that is not finite")
    if (values[:, :, 2:] < values[:, :, 1:-1]).any():
        raise BadParameter("quantiles cross")
