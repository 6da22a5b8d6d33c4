"""Outcomes of one step in one session, beside the states that they were issued with."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from registry.errors import BadParameter
from registry.forecast.arrays import Floats, Places
from registry.forecast.quantiles import interpolated
from registry.scoring.calibration_table import ANCHORS
from registry.scoring.learning.keys import Keys
from registry.scoring.learning.nights import Matured, Night
from registry.scoring.learning.states import KeyStates


@dataclass(frozen=True, eq=False)
class Rows:
    """N outcomes of one step, of forecasts that have a width."""

    step: int
    keys: Keys
    places: Places  # [N] of the symbols
    z: Floats  # [N] (y - median) / width
    shape: Floats  # [N, Q] (quantile - median) / width
    bias: Floats  # [N] as issued
    scale: Floats  # [N]
    offsets: Floats  # [N, Q]

    @property
    def symbol_rows(self) -> Places:
        """Rows [N] of the symbols among the keys."""
        return self.keys.first_symbol + self.places

    @property
    def sectors(self) -> Places:
        """Places [N] of the symbols' sectors, -1 without one."""
        return self.keys.sector_of[self.places]

    def part(self, kept: npt.NDArray[np.bool_]) -> "Rows":
        """The rows that are set in `kept` [N]."""
        arrays = {field.name: getattr(self, field.name)[kept] for field in fields(self)[2:]}
        return replace(self, **arrays)

    def quantiles(self) -> Floats:
        """Issued quantiles [N, Q] before they were sorted, as distances from the median."""
        return self.bias[:, None] + self.scale[:, None] * self.shape + self.offsets

    def below(self) -> npt.NDArray[np.bool_]:
        """Whether the outcome was at or below each issued quantile [N, Q], before sorting."""
        below: npt.NDArray[np.bool_] = self.z[:, None] <= self.quantiles()
        return below


def rows_of(
    matured: Matured, places: Places, issued: KeyStates, levels: Sequence[float]
) -> tuple[Rows, int]:
    """Rows of one step, and how many outcomes were left out: their forecast has no width."""
    low, median, high = interpolated(matured.quantiles, levels, ANCHORS).T
    width = high - low
    wide = width > 0
    place = matured.step - 1
    kept = places[wide]
    symbol_rows = issued.keys.first_symbol + kept
    scaled = (matured.quantiles - median[:, None])[wide] / width[wide, None]
    rows = Rows(
        step=matured.step,
        keys=issued.keys,
        places=kept,
        z=(matured.y - median)[wide] / width[wide],
        shape=scaled,
        bias=issued.bias[place, symbol_rows],
        scale=issued.scale[place, symbol_rows],
        offsets=issued.offsets[place, symbol_rows],
    )
    return rows, int((~wide).sum())


# --- checks -----------------------------------------------------------------------------------


def check_night(night: Night, horizon: int, levels: int) -> None:
    """Raise BadParameter for a night that no ledger would hold."""
    steps = [matured.step for matured in night.matured]
    if steps != sorted(set(steps)) or not set(steps) <= set(range(1, horizon + 1)):
        raise BadParameter(
            f"the steps of {night.session} are {steps}; expected ascending ones in 1..{horizon}"
        )
    for matured in night.matured:
        _check_matured(matured, night, levels)


def _check_matured(matured: Matured, night: Night, levels: int) -> None:
    where = f"step {matured.step} of {night.session}"
    count = len(matured.symbols)
    if matured.y.shape != (count,) or matured.quantiles.shape != (count, levels):
        raise BadParameter(
            f"{where}: y has shape {matured.y.shape} and quantiles {matured.quantiles.shape}, "
            f"expected [N] = ({count},) and [N, Q] = ({count}, {levels})"
        )
    if not all(map(operator.lt, matured.symbols, matured.symbols[1:])):
        raise BadParameter(f"{where}: symbols are not sorted, or one is there twice")
    if not (np.isfinite(matured.y).all() and np.isfinite(matured.quantiles).all()):
        raise BadParameter(f"{where}: a return or quantile is not finite")
    if (matured.quantiles[:, 1:] < matured.quantiles[:, :-1]).any():
        raise BadParameter(f"{where}: quantiles cross")
