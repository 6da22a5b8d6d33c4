"""Quantile tracking by loops over rows: its offsets and scores, without a common scale and bias.

Tests and benchmark compare with it. It shares only the weights of the levels with the learner.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from registry.forecast.arrays import Floats
from registry.scoring.learning.nights import Night
from registry.scoring.learning.tracking import Tracking

RATES = {"global": 0.002, "sector": 0.0003, "symbol": 0.0003}
BANDS = ((0.25, 0.75), (0.1, 0.9), (0.05, 0.95))
Offsets = dict[tuple[str, int], Floats]  # [Q] by name (of all series: "") and step


class Loop:
    """Learns night by night. A symbol without a sector has "" in `sectors`."""

    def __init__(self, levels: Sequence[float], horizon: int, sectors: Mapping[str, str]) -> None:
        self._levels = np.array(levels)
        self._weights = Tracking(tuple(levels))._level_weights()
        self._zero = np.zeros(len(levels))
        self._horizon = horizon
        self._sectors = sectors
        self._parts: dict[tuple[str, str, int], Floats] = {}  # by kind, name and step
        self._nights: list[Offsets] = []  # after each night
        self._known: set[str] = set()
        self.scores: dict[tuple[int, int], Floats] = {}  # of the last night, by step and kind

    def learn(self, night: Night) -> Offsets:
        """The offsets of all keys after a night."""
        moves: dict[tuple[str, str, int], list[Floats]] = {}
        self.scores = {}
        for matured in night.matured:
            for row, symbol in enumerate(matured.symbols):
                raw, y = matured.quantiles[row], matured.y[row]
                issued = raw + self._issued(symbol, matured.step) * (raw[-1] - raw[0])
                for kind_of_score, quantiles in enumerate((raw, np.sort(issued))):
                    key = (matured.step, kind_of_score)
                    self.scores[key] = self.scores.get(key, 0.0) + self._scored(y, quantiles)
                move = self._weights * (self._levels - (y <= issued))
                for kind, name in self._keys(symbol):
                    moves.setdefault((kind, name, matured.step), []).append(move)
            self._known |= set(matured.symbols)
        for key, of_key in moves.items():
            before = self._parts.get(key, self._zero)
            self._parts[key] = before + RATES[key[0]] * np.mean(of_key, axis=0)
        self._nights.append(self._offsets())
        return self._nights[-1]

    def _keys(self, symbol: str) -> list[tuple[str, str]]:
        sector = self._sectors[symbol]
        wider = [("global", ""), ("sector", sector)] if sector else [("global", "")]
        return [*wider, ("symbol", symbol)]

    def _scored(self, y: float, quantiles: Floats) -> Floats:
        """CRPS, whether the outcome was in each of BANDS, and whether at or below each quantile."""
        error = y - quantiles
        crps = 2 * np.mean(np.maximum(self._levels * error, (self._levels - 1) * error))
        covered = []
        for band in BANDS:
            lower, upper = np.interp(band, self._levels, quantiles)
            covered.append(lower <= y <= upper)
        return np.array([crps, *covered, *(y <= quantiles)], dtype=np.float64)

    def _issued(self, symbol: str, step: int) -> Floats:
        """Offsets that were known when the forecast was issued."""
        if len(self._nights) <= step:
            return self._zero
        then = self._nights[-1 - step]
        for name in (symbol, self._sectors[symbol] or "?", ""):
            if (name, step) in then:
                return then[name, step]
        return self._zero

    def _offsets(self) -> Offsets:
        offsets: Offsets = {}
        for step in range(1, self._horizon + 1):
            offsets["", step] = self._sum([("global", "")], step)
            for symbol in self._known:
                keys = self._keys(symbol)
                offsets[symbol, step] = self._sum(keys, step)
                if len(keys) == 3:
                    offsets[self._sectors[symbol], step] = self._sum(keys[:2], step)
        return offsets

    def _sum(self, keys: Sequence[tuple[str, str]], step: int) -> Floats:
        total = self._zero
        for kind, name in keys:
            total = total + self._parts.get((kind, name, step), self._zero)
        return total
