"""What a calibration is learned from: forecasts whose outcomes came true in one session."""

from dataclasses import dataclass
from datetime import date

from registry.forecast.arrays import Floats


@dataclass(frozen=True, eq=False)
class Matured:
    """What came true in one session of forecasts of one step."""

    step: int
    symbols: tuple[str, ...]  # [N] sorted
    y: Floats  # [N] log return of the session, as it was first known
    quantiles: Floats  # [N, Q] raw, as issued


@dataclass(frozen=True, eq=False)
class Night:
    """All that matured in one session; steps ascend; a step without an outcome is left out.

    Nights are the sessions of a data set without a gap: a session in which nothing matured is a
    night with `matured=()`.
    """

    session: date
    matured: tuple[Matured, ...]
