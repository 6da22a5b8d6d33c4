"""A bias and a scale from exponential averages, shrunk from a symbol to its sector to all series.

z is the outcome's distance from the raw median, in widths of the forecast. The bias is the average
of z, the scale that of |z| over what it is for a normal forecast. Both are shrunk by empirical
Bayes, the scale in logarithms: a key keeps n / (n + kappa) of its own number, and takes the rest
from the next wider key. For a scale, n counts outcomes. For a bias it counts sessions, because the
symbols rise and fall together. Older ones count less. An outcome far outside the scale is rejected.
"""

from dataclasses import dataclass

import numpy as np

from registry.forecast.arrays import Floats
from registry.scoring.learning.keys import Keys
from registry.scoring.learning.method import Parts
from registry.scoring.learning.pooling import key_means, shrunk
from registry.scoring.learning.rows import Rows

# Mean |z| of a normal forecast: sqrt(2 / pi) over the distance of its 0.05 and 0.95 quantiles.
NORMAL = 0.797885 / 3.289707
SCALES = (0.25, 4.0)
BIASES = (-0.25, 0.25)  # widths


@dataclass(frozen=True)
class Ewma:
    """Half-lives in sessions.

    Chosen a priori: 30 sessions follow a doubled volatility within 100. The kappa of the scale is
    (kurtosis - 1) / 4 = 2 of Student's t with 5 degrees of freedom, over the variance between
    symbols, 0.025 in logarithms.
    """

    levels: tuple[float, ...]  # [Q]
    scale_half_life: float = 30.0
    bias_half_life: float = 250.0
    scale_kappa: float = 80.0  # outcomes
    bias_kappa: float = 500.0  # sessions
    outlier: float = 3.0  # widths, times the scale as issued: ten standard deviations

    name = "ewma"
    shared = ()

    def start(self, horizon: int, levels: int) -> Parts:  # noqa: ARG002
        names = ("size", "size_weight", "lean", "lean_weight")
        return {name: np.zeros((horizon, 1)) for name in names}

    def update(self, parts: Parts, rows: Rows) -> int:
        distance = np.abs(rows.z - rows.bias)
        kept = distance <= self.outlier * rows.scale
        rows = rows.part(kept)
        if rows.z.size:
            self._average(parts, "size", distance[kept] / NORMAL, rows, self.scale_half_life)
            self._average(parts, "lean", rows.z, rows, self.bias_half_life)
        return int((~kept).sum())

    def _average(
        self, parts: Parts, name: str, values: Floats, rows: Rows, half_life: float
    ) -> None:
        """Sums and weights of an exponential average; those of a key without a row stay."""
        means, count = key_means(values, rows)
        present = count > 0
        weight = count if name == "size" else present
        decay = np.where(present, 0.5 ** (1 / half_life), 1.0)
        step = rows.step - 1
        parts[name][step] = decay * parts[name][step] + weight * means
        parts[f"{name}_weight"][step] = decay * parts[f"{name}_weight"][step] + weight

    def end(self, parts: Parts) -> None:
        pass

    def states(self, parts: Parts, keys: Keys) -> tuple[Floats, Floats, Floats]:
        size, n = parts["size"], parts["size_weight"]
        log_scale = np.log(np.where(size > 0, size, 1.0) / np.where(size > 0, n, 1.0))
        scale = np.exp(shrunk(log_scale, n / (n + self.scale_kappa), keys))
        lean, m = parts["lean"], parts["lean_weight"]
        average = lean / np.where(m > 0, m, 1.0)
        bias = shrunk(average, m / (m + self.bias_kappa), keys)
        offsets = np.zeros((*scale.shape, len(self.levels)))
        return np.clip(bias, *BIASES), np.clip(scale, *SCALES), offsets
