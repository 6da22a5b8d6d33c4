"""States of all keys and steps after a night, as they are published."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from registry.forecast.arrays import Floats, Places
from registry.scoring.calibration import calibrated
from registry.scoring.calibration_table import States, Table
from registry.scoring.learning.keys import Keys


@dataclass(frozen=True, eq=False)
class KeyStates:
    """Bias, scale and offsets of K keys at H steps."""

    keys: Keys
    bias: Floats  # [H, K]
    scale: Floats  # [H, K]
    offsets: Floats  # [H, K, Q]

    @classmethod
    def identity(cls, horizon: int, levels: int) -> "KeyStates":
        """States of the global key that change nothing."""
        one = (horizon, 1)
        return cls(Keys.none(), np.zeros(one), np.ones(one), np.zeros((*one, levels)))

    def for_keys(self, keys: Keys) -> "KeyStates":
        """The same states for more keys: a new one has the state that it falls back to."""
        if keys is self.keys:
            return self
        rows, _ = self.keys.rows_in(keys)
        return KeyStates(keys, self.bias[:, rows], self.scale[:, rows], self.offsets[:, rows])

    def calibrated(
        self, step: int, rows: Places, quantiles: Floats, levels: Sequence[float]
    ) -> Floats:
        """Calibrated quantiles [N, Q] of raw ones of `step`, by the states of these rows [N]."""
        place = step - 1
        states = States(
            levels=tuple(levels),
            bias=self.bias[place, rows, None],
            scale=self.scale[place, rows, None],
            offsets=self.offsets[place, rows, None],
            applied=np.zeros((len(rows), 1), dtype=np.int64),
        )
        return calibrated(quantiles[:, None], levels, states)[:, 0]

    def flat(self) -> tuple[list[tuple[str, str]], Places, Floats, Floats, Floats]:
        """Keys, steps, bias, scale [K * H] and offsets [K * H, Q], as ledger and Table hold them.

        The steps of a key follow each other.
        """
        horizon, count = self.bias.shape
        keys = [name for name in self.keys.names for _ in range(horizon)]
        steps = np.tile(np.arange(1, horizon + 1), count)
        offsets = np.ascontiguousarray(np.swapaxes(self.offsets, 0, 1))
        return (
            keys,
            steps,
            self.bias.T.ravel(),
            self.scale.T.ravel(),
            offsets.reshape(len(keys), -1),
        )

    def table(self, levels: Sequence[float]) -> Table:
        """The table that answers are calibrated by."""
        keys, steps, bias, scale, offsets = self.flat()
        return Table(tuple(levels), tuple(keys), steps, bias, scale, offsets)
