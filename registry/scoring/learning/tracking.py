"""Quantile tracking with a common scale and bias that are trusted as far as they have paid.

1. Offsets. Angelopoulos, Candes and Tibshirani, Conformal PID control, arXiv 2307.16895, the P of
   PID: after an outcome, the offset of level u moves by rate x (u - 1{y <= q}), where q is the
   quantile as issued, before sorting. Whatever the outcomes, they fall below q in a share u of
   sessions in the long run.
2. Scale. Offsets alone need years to follow a doubled volatility. So the logarithm of a scale
   descends the CRPS: its gradient is that of the pinball loss. It is bounded, so one absurd
   outcome moves it no further than any other one beyond the outer quantiles.
3. Trust. A scale and a bias follow noise, too. Each is tried in the shadow, on raw forecasts of all
   series. Its share of CRPS saved, discounted over the sessions, says how much of it is used.
   Where nothing is gained it is not used; after a break it is, within days.

Everything is in widths of the forecast, so no rate has a unit. A symbol's numbers are the sum of a
global part, a part of its sector and a part of its own. Each part moves by the mean over its
symbols.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, ndtri

from registry.forecast.arrays import Floats
from registry.scoring.learning.keys import GLOBAL, Keys
from registry.scoring.learning.method import Parts
from registry.scoring.learning.pooling import move, pooled_mean, summed
from registry.scoring.learning.rows import Rows
from registry.scoring.metrics import pinball

MEDIAN_RATE = 0.02  # of the outer rate: a moving median costs more CRPS than it corrects
LOG_SCALES = (-1.5, 2.0)  # a scale of 0.22 to 7.4
BIASES = (-1.0, 1.0)
FARTHEST = 3.0  # widths that an outcome counts as evidence: one absurd one must not decide for all
# Log odds that a shadow is used. Beyond them it would take a break too long to turn them.
EVIDENCE = (-6.0, 6.0)


@dataclass(frozen=True)
class Tracking:
    """Rates of the global, sector and symbol parts.

    Chosen on forecasts of `fhs` and `har` for the 20 stocks of skfolio's sp500, fitted to 1996 and
    issued every session of 1997 to 2012: the fastest scale that costs no CRPS there, and the
    slowest offsets that hold every symbol within a point.
    """

    levels: tuple[float, ...]  # [Q]
    offset_rates: tuple[float, float, float] = (0.002, 0.0003, 0.0003)  # of the outer levels
    scale_rates: tuple[float, float, float] = (0.5, 0.01, 0.005)
    bias_rate: float = 0.02
    evidence_weight: float = 5.0  # of a share of CRPS saved
    evidence_half_life: float = 500.0  # sessions
    evidence_limit: float = 0.1  # share of CRPS that one session may count
    bias_doubt: float = 2.0  # log odds against a bias at the start: returns hardly have one

    name = "tracking"
    shared = ("bias", "scale_past", "bias_past", "scale_evidence", "bias_evidence")

    def start(self, horizon: int, levels: int) -> Parts:
        def zeros() -> Floats:
            return np.zeros((horizon, 1))

        past = np.zeros((horizon, 1, horizon + 1))  # after the last nights, oldest first
        return {
            "offsets": np.zeros((horizon, 1, levels)),
            "log_scale": zeros(),  # of the global key: the shadow's
            "bias": zeros(),
            "scale_past": past,
            "bias_past": past.copy(),
            "scale_evidence": zeros(),
            "bias_evidence": zeros(),
        }

    def update(self, parts: Parts, rows: Rows) -> int:
        """No outcome is rejected: none can move a part by more than its rate."""
        step = rows.step - 1
        issued = rows.quantiles()
        gaps = self._gaps(rows, issued)
        move(parts["offsets"][step], gaps * self._level_weights(), self.offset_rates, rows)
        slopes = (gaps * rows.scale[:, None] * rows.shape).mean(axis=1)
        move(parts["log_scale"][step], slopes, (0.0, *self.scale_rates[1:]), rows)
        raw = self._loss(rows, rows.shape)
        self._try_scale(parts, rows, raw)
        self._try_bias(parts, rows, raw)
        return 0

    def states(self, parts: Parts, keys: Keys) -> tuple[Floats, Floats, Floats]:
        trust = expit(parts["scale_evidence"][:, GLOBAL])
        log_scale = parts["log_scale"].copy()
        log_scale[:, GLOBAL] *= trust
        scale = np.exp(np.clip(summed(log_scale, keys), *LOG_SCALES))
        bias_trust = expit(parts["bias_evidence"][:, GLOBAL] - self.bias_doubt)
        bias = (bias_trust * parts["bias"][:, GLOBAL])[:, None]
        offsets = summed(parts["offsets"], keys)
        return np.broadcast_to(bias, scale.shape).copy(), scale, offsets

    def _level_weights(self) -> Floats:
        """Weights [Q] of the offsets' rate: 1 at 0.05 and 0.95, little at the median."""
        squares = (ndtri(np.asarray(self.levels)) / ndtri(0.95)) ** 2
        weights: Floats = MEDIAN_RATE + (1 - MEDIAN_RATE) * squares
        return weights

    def _gaps(self, rows: Rows, quantiles: Floats) -> Floats:
        """Level minus 1{y <= quantile} [N, Q]."""
        gaps: Floats = np.asarray(self.levels) - (rows.z[:, None] <= quantiles)
        return gaps

    # --- shadows: raw forecasts with a scale, and raw forecasts with a bias ----------------------

    def _try_scale(self, parts: Parts, rows: Rows, raw: Floats) -> None:
        """Try the scale that was known when the forecasts were issued, and learn the next one.

        `raw` is the loss of the raw forecasts.
        """
        step = rows.step - 1
        scaled = np.exp(parts["scale_past"][step, GLOBAL, -1 - rows.step]) * rows.shape
        slope = pooled_mean((self._gaps(rows, scaled) * scaled).mean(axis=1))
        self._weigh(parts["scale_evidence"][step], raw, self._loss(rows, scaled))
        log_scale = parts["log_scale"][step]
        log_scale[GLOBAL] = np.clip(log_scale[GLOBAL] + self.scale_rates[0] * slope, *LOG_SCALES)

    def _try_bias(self, parts: Parts, rows: Rows, raw: Floats) -> None:
        step = rows.step - 1
        moved = parts["bias_past"][step, GLOBAL, -1 - rows.step] + rows.shape
        slope = pooled_mean(self._gaps(rows, moved).mean(axis=1))
        self._weigh(parts["bias_evidence"][step], raw, self._loss(rows, moved))
        bias = parts["bias"][step]
        bias[GLOBAL] = np.clip(bias[GLOBAL] + self.bias_rate * slope, *BIASES)

    def _loss(self, rows: Rows, quantiles: Floats) -> Floats:
        """Mean pinball loss, a scalar: half the CRPS of these quantiles [N, Q]."""
        z = np.clip(rows.z, -FARTHEST, FARTHEST)
        return pooled_mean(pinball(z, quantiles, self.levels).mean(axis=1))

    def _weigh(self, evidence: Floats, raw: Floats, tried: Floats) -> None:
        """Add the share that was saved of the raw forecasts' loss to the evidence for the tried."""
        saved = (raw - tried) / raw if raw > 0 else 0.0
        kept = 0.5 ** (1 / self.evidence_half_life)
        limited = np.clip(saved, -self.evidence_limit, self.evidence_limit)
        added = kept * evidence[GLOBAL] + self.evidence_weight * limited
        evidence[GLOBAL] = np.clip(added, *EVIDENCE)

    def end(self, parts: Parts) -> None:
        """Keep tonight's scale and bias for the forecasts that will be issued with them."""
        for name, past in (("log_scale", "scale_past"), ("bias", "bias_past")):
            newest = parts[name][:, :1, None]
            parts[past] = np.concatenate([parts[past][..., 1:], newest], axis=-1)
