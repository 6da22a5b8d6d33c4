"""What one start of `issue` did for one version."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from registry.errors import KronosError
from registry.forecast.history import Refused

LISTED = 20  # refused series, and nights, that are listed


@dataclass
class Issued:
    """Forecasts that were issued, and what was not and why."""

    reference: str  # as asked for, then as nbeats/3
    data: str = ""
    horizon: int = 0
    series: int = 0  # of the last cutoff
    cutoffs: list[date] = field(default_factory=list)  # that were issued now
    already: list[date] = field(default_factory=list)  # that were issued before
    sources: Counter[str] = field(default_factory=Counter)
    calibrations: Counter[int] = field(default_factory=Counter)  # cutoffs by version applied
    refused: Sequence[Refused] = ()  # series of the last cutoff
    nights: dict[date, KronosError] = field(default_factory=dict)  # without a forecast
    notes: dict[str, str] = field(default_factory=dict)
    error: KronosError | None = None  # what ended the work

    def summary(self) -> dict[str, Any]:
        """JSON-ready; what is empty is left out."""
        model, _, version = self.reference.partition("/")
        listed = [_series(one) for one in self.refused[:LISTED]]
        facts = {
            "horizon": self.horizon,
            "series": self.series,
            "issued": len(self.cutoffs),
            **_span(self.cutoffs),
            "already_issued": len(self.already),
            "sources": dict(self.sources),
            "calibrated": self.calibrations.total(),
            "last_calibration": max(self.calibrations, default=0),
            "refused": listed,
            "refused_series": len(self.refused),
            "nights_refused": self._nights(),
            "refused_nights": len(self.nights),
            "notes": self.notes,
            "error": self.error and _error(self.error),
        }
        kept = {key: value for key, value in facts.items() if value or key == "issued"}
        numbered = {"version": int(version)} if version.isdigit() else {}
        return {"model": model, **numbered, "data": self.data, **kept}

    def _nights(self) -> list[dict[str, str]]:
        nights = sorted(self.nights.items())[:LISTED]
        return [{"cutoff": night.isoformat(), **_error(error)} for night, error in nights]


def _span(cutoffs: Sequence[date]) -> dict[str, str]:
    if not cutoffs:
        return {}
    return {"first": min(cutoffs).isoformat(), "last": max(cutoffs).isoformat()}


def _series(series: Refused) -> dict[str, str]:
    return {"unique_id": series.unique_id, "code": series.code, "message": series.message}


def _error(error: KronosError) -> dict[str, str]:
    return {"code": error.code, "message": error.message}
