"""kronos_simulated: bars drawn from the past of the same series. Replies say it is not Kronos."""

from dataclasses import dataclass

import numpy as np

from mlprojects.kronos import keys
from registry.forecast import bars, names, volatility
from registry.forecast.arrays import Floats
from registry.forecast.forecast import Forecast
from registry.forecast.history import MAX_ABS_RETURN, History
from registry.forecast.spec import ModelSpec, Request

NOTE = "simulated: filtered bootstrap of past bars, not Kronos"
MEDIAN = 20  # sessions whose median volume is the usual volume
PER_STEP = 1  # random numbers; each chooses a past bar


@dataclass(frozen=True)
class Simulator:
    """Filtered historical simulation of whole bars, for each series alone.

    Past returns are divided by the EWMA volatility before them. A path draws past sessions with
    replacement and multiplies them by its volatility, which each drawn return updates. Whole bars
    are drawn, so that the parts of a session stay together.

    Barone-Adesi, Giannopoulos and Vosper, Journal of Futures Markets 19, 1999.
    """

    spec: ModelSpec

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast of every series from `num_samples` paths.

        More paths or steps do not change the first ones.
        """
        values, filled = bars.complete(history.columns)
        samples, horizon = int(request.options["num_samples"]), request.horizon
        paths = np.empty((len(history.ids), samples, horizon, len(names.BAR)))
        for i, (name, cutoff) in enumerate(zip(history.ids, history.cutoffs, strict=True)):
            start, end = history.bounds[i], history.bounds[i + 1]
            context = slice(max(start, end - self.spec.max_context), end)
            key = keys.series_key(request.seed, name, cutoff)
            drawn = keys.uniforms(key, samples, horizon, PER_STEP)[..., 0]
            past = Past.of(history.columns[names.Y][context], values[context])
            paths[i] = simulate(past, drawn)
        notes = {"simulated": NOTE, **filled}
        return Forecast.of_price_paths(history, self.spec, paths, notes=notes, measured={})


@dataclass(frozen=True)
class Past:
    """The last W bars of a series in units that do not depend on their date, and its present state.

    Prices are log differences, in units of volatility: `close` and `open` from the close before,
    `above` from the higher of open and close up to the high, `below` from the lower of the two down
    to the low. `volume` is in units of the usual volume.
    """

    close: Floats  # [W], as the others
    open: Floats
    above: Floats
    below: Floats
    volume: Floats
    last_close: float
    last_volatility: float
    usual_volume: float

    @classmethod
    def of(cls, y: Floats, bar: Floats) -> "Past":
        """From returns [T] and bars [T, 6]; the W sessions are those of the residuals in `fhs`."""
        sigma = volatility.ewma_volatility(y[None])[0]
        close = volatility.residuals(y[None], sigma[None], 1)[0]
        first = len(y) - len(close)
        scale = sigma[first - 1 : -1]
        logs = np.log(bar[:, :4])
        previous_close = logs[first - 1 : -1, 3]
        opened, high, low, closed = logs[first:].T
        volume = bar[first - MEDIAN :, 4]
        windows = np.lib.stride_tricks.sliding_window_view(volume, MEDIAN)
        medians = np.median(windows, axis=1)  # [W + 1]
        usual = medians[:-1]  # over the sessions before each bar
        return cls(
            close=close,
            open=(opened - previous_close) / scale,
            above=(high - np.maximum(opened, closed)) / scale,
            below=(np.minimum(opened, closed) - low) / scale,
            volume=np.divide(volume[MEDIAN:], usual, out=np.zeros_like(usual), where=usual > 0),
            last_close=bar[-1, 3],
            last_volatility=sigma[-1],
            usual_volume=medians[-1],
        )


def simulate(past: Past, drawn: Floats) -> Floats:
    """Bars [S, H, 6] of paths made of past sessions.

    `drawn` [S, H] chooses the past session, from 0 (the oldest) to 1. Returns are clipped to
    MAX_ABS_RETURN, the limit of every history: a jump after a calm, drawn again while volatility is
    still high, would overflow.
    """
    session = (drawn * len(past.close)).astype(np.int64)
    z = past.close[session]
    y, scale = np.empty_like(drawn), np.empty_like(drawn)
    variance = np.full(len(drawn), past.last_volatility**2)
    for h in range(drawn.shape[1]):
        scale[:, h] = np.maximum(np.sqrt(variance), volatility.FLOOR)
        y[:, h] = np.clip(z[:, h] * scale[:, h], -MAX_ABS_RETURN, MAX_ABS_RETURN)
        variance = volatility.DECAY * variance + (1.0 - volatility.DECAY) * y[:, h] ** 2
    gap = np.clip(past.open[session] * scale, -MAX_ABS_RETURN, MAX_ABS_RETURN)
    above = np.clip(past.above[session] * scale, 0.0, MAX_ABS_RETURN)
    below = np.clip(past.below[session] * scale, 0.0, MAX_ABS_RETURN)
    level = np.cumsum(y, axis=1)
    closes = past.last_close * np.exp(level)
    opens = past.last_close * np.exp(level - y + gap)
    highs = np.maximum(opens, closes) * np.exp(above)
    lows = np.minimum(opens, closes) * np.exp(-below)
    volumes = past.volume[session] * past.usual_volume
    amounts = (opens + highs + lows + closes) / 4 * volumes
    return np.stack([opens, highs, lows, closes, volumes, amounts], axis=2)
