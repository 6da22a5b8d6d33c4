"""Which calibration a forecast of a cutoff gets, and the forecast after it."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import date

import sqlalchemy as sa

from registry.forecast.forecast import Forecast
from registry.ledger import calibrations
from registry.ledger.states import Calibration, Scope
from registry.scoring.calibration import calibrated, calibrated_mean
from registry.scoring.calibration_table import Table


class Calibrations:
    """The calibrations of a scope, as they are when this is made."""

    def __init__(self, engine: sa.Engine, scope: Scope, sectors: Mapping[str, str]) -> None:
        self._engine = engine
        self._scope = scope
        self._sectors = sectors
        self._current = calibrations.current(engine, scope)
        self._versions = calibrations.versions(engine, scope)
        self._tables: dict[int, Table] = {}

    def number(self, cutoff: date) -> int | None:
        """The calibration of a cutoff; None: the forecast stays raw.

        A calibration must have learned before the cutoff: the current one, or else the newest.
        """
        if self._current is not None and self._current.learned_until < cutoff:
            return self._current.number
        earlier = [one.number for one in self._versions if one.learned_until < cutoff]
        return max(earlier, default=None)

    def applied(self, raw: Forecast, number: int) -> Forecast:
        """The calibrated forecast. Raises BadParameter (BAD_LEVELS) for one at other levels."""
        table = self._table(number)
        states = table.states(raw.unique_id, self._sectors, raw.horizon)
        after = calibrated(raw.quantiles, raw.levels, states)
        mean = calibrated_mean(raw.mean, raw.quantiles, after, raw.levels)
        return replace(raw, quantiles=after, mean=mean)

    def _table(self, number: int) -> Table:
        if number not in self._tables:
            if self._current is not None and self._current.number == number:
                self._tables[number] = _table(self._current)
            else:
                self._tables[number] = _table(
                    calibrations.numbered(self._engine, self._scope, number)
                )
        return self._tables[number]


def _table(calibration: Calibration) -> Table:
    if not calibration.keys:
        return Table.identity()
    return Table(
        levels=calibration.levels,
        keys=tuple(calibration.keys),
        steps=calibration.steps,
        bias=calibration.bias,
        scale=calibration.scale,
        offsets=calibration.offsets,
    )
