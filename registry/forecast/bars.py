"""Daily bars: check their columns, fill missing ones, correct sampled bars."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np

from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.faults import Fault, in_rows
from registry.forecast.history import History

BASIS = 1e-4  # log return; y may differ this much from that of the closes: senders round returns
ROUNDING = 5e-7  # of a price; four units in the last place of float32, as products have
TICKS = tuple(10.0**-digits for digits in range(9))  # what senders round prices to
LARGEST = 1e18  # a larger price, volume or amount is a typing error, and its square overflows
FLOOR = 0.01  # of the last close of the history; the lowest price of a sampled path


def prices(history: History) -> Iterator[Fault]:
    """Prices must be positive, and not beyond LARGEST."""
    values = np.stack([history.columns[name] for name in names.OHLC])  # [4, rows]
    lowest, highest = values.min(axis=0), values.max(axis=0)
    yield from in_rows(history, lowest <= 0, "a price that is not positive", "BAD_PRICE")
    yield from in_rows(history, highest > LARGEST, f"a price beyond {LARGEST:g}", "BAD_PRICE")


def volumes(history: History) -> Iterator[Fault]:
    """Volume and amount must not be negative, nor beyond LARGEST."""
    for name in (names.VOLUME, names.AMOUNT):
        if name in history.columns:
            values = history.columns[name]
            yield from in_rows(history, values < 0, f"negative {name}", "BAD_VOLUME")
            yield from in_rows(
                history, values > LARGEST, f"{name} beyond {LARGEST:g}", "BAD_VOLUME"
            )


def order(history: History) -> Iterator[Fault]:
    """low <= open, close <= high, but for what rounding can do. Prices are positive."""
    open_, high, low, close = (history.columns[name] for name in names.OHLC)
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    if not ((top > high) | (bottom < low)).any():
        return
    allowed = ROUNDING * top + np.repeat(_coarsest_tick(history) / 2, history.lengths)
    outside = (top - high > allowed) | (low - bottom > allowed)
    yield from in_rows(history, low - high > allowed, "high below low", "BAD_BAR")
    yield from in_rows(history, outside, "open or close outside low..high", "BAD_BAR")


def basis(history: History) -> Iterator[Fault]:
    """y is the log return of close, but for what rounding can do. Prices are positive."""
    difference = np.abs(_from_closes(history))
    if not (difference > BASIS).any():
        return
    half_tick = np.repeat(ticks(history, names.OHLC[3]) / 2, history.lengths)
    rounding = -np.log1p(-half_tick / history.columns[names.OHLC[3]])  # of each log close
    allowed = BASIS + rounding
    allowed[1:] += rounding[:-1]
    advice = "; put the bars on one price basis: multiply them by adj_close / close"
    phrase = "y that is not the log return of close"
    beyond = difference > allowed
    yield from in_rows(history, beyond, phrase, "PRICE_BASIS", advice)
    each_fits = ~np.logical_or.reduceat(beyond, history.bounds[:-1])
    drifts = _drift(history) > _rounding_drift(history, rounding)
    for series in np.flatnonzero(each_fits & drifts):
        text = "has returns y that part from those of close over time, beyond rounding"
        yield Fault(int(series), "PRICE_BASIS", text + advice)


def _drift(history: History) -> Floats:
    """Range [N] of the sum of y less the log close over the sessions of each series."""
    total = np.cumsum(_from_closes(history))
    starts = history.bounds[:-1]
    drift: Floats = np.maximum.reduceat(total, starts) - np.minimum.reduceat(total, starts)
    return drift


def _rounding_drift(history: History, rounding: Floats) -> Floats:
    """What rounding can add to the drift [N]: errors of closes do not add up, those of y do."""
    of_closes = 2 * np.maximum.reduceat(rounding, history.bounds[:-1])
    return of_closes + BASIS * np.sqrt(history.lengths)


def _from_closes(history: History) -> Floats:
    """Difference [rows] of y and the return of the closes; 0 in first sessions."""
    difference = np.zeros(len(history.ds))
    returns = np.diff(np.log(history.columns[names.OHLC[3]]))
    difference[1:] = history.columns[names.Y][1:] - returns
    difference[history.bounds[:-1]] = 0.0
    return difference


def ticks(history: History, column: str) -> Floats:
    """Coarsest of TICKS [N] of which all prices of a series are multiples; 0 if there is none."""
    values = history.columns[column]
    coarsest = np.zeros(len(history.ids))
    for tick in TICKS:
        count = values / tick
        broken = np.abs(count - np.rint(count)) > ROUNDING * count
        whole = ~np.logical_or.reduceat(broken, history.bounds[:-1])
        coarsest = np.where(whole & (coarsest == 0), tick, coarsest)
    return coarsest


def _coarsest_tick(history: History) -> Floats:
    """Coarsest tick [N] of the four prices. Each may be rounded by itself."""
    coarsest: Floats = np.max([ticks(history, name) for name in names.OHLC], axis=0)
    return coarsest


def rounded(history: History) -> History:
    """Checked bars with high and low widened to include open and close.

    Notes say how many bars were widened, and how many y fit their closes only by the rounding of
    prices. Bars without a rounding error stay as they are.
    """
    open_, high, low, close = (history.columns[name] for name in names.OHLC)
    top = np.maximum(high, np.maximum(open_, close))
    bottom = np.minimum(low, np.minimum(open_, close))
    widened = np.count_nonzero((top != high) | (bottom != low))
    loose = np.count_nonzero(np.abs(_from_closes(history)) > BASIS)
    columns, notes = dict(history.columns), dict(history.notes)
    if widened:
        columns |= {"high": top, "low": bottom}
        notes["widened"] = f"high or low was widened by a rounding error in {widened} bars"
    if loose:
        notes["basis"] = f"y fits close only within the rounding of prices in {loose} sessions"
    return replace(history, columns=columns, notes=notes)


def complete(columns: Mapping[str, Floats]) -> tuple[Floats, dict[str, str]]:
    """Bars [rows, 6] in the order of names.BAR, and a note for each column that was filled in.

    Missing volume is 0, and so is amount then, even if it was sent: upstream does the same, and
    Kronos was trained on bars that lack both or neither. Missing amount alone is the mean of the
    four prices times volume.
    """
    notes = {}
    prices = [columns[name] for name in names.OHLC]
    volume, amount = columns.get(names.VOLUME), columns.get(names.AMOUNT)
    if volume is None:
        volume = np.zeros_like(prices[0])
        notes["volume"] = "volume was missing and taken as 0"
        if amount is not None:
            amount = volume
            notes["amount"] = "amount was sent without volume, so it was taken as 0"
    if amount is None:
        amount = np.mean(prices, axis=0) * volume
        notes["amount"] = "amount was missing and taken as mean price x volume"
    return np.stack([*prices, volume, amount], axis=1), notes


def correct(paths: Floats, last_close: Floats) -> tuple[Floats, Floats]:
    """Sampled bars [N, S, H, 6], corrected to possible ones, and the share [N] of changed bars.

    High and low are widened to include open and close. Prices are at least FLOOR of `last_close`
    [N], volume and amount at least 0.
    """
    floor = (FLOOR * last_close)[:, None, None, None]
    prices = np.maximum(paths[..., :4], floor)
    possible = np.empty_like(paths)
    possible[..., :4] = prices
    possible[..., 1] = prices.max(axis=3)
    possible[..., 2] = prices.min(axis=3)
    possible[..., 4:] = np.maximum(paths[..., 4:], 0.0)
    changed = (possible != paths).any(axis=3).mean(axis=(1, 2))
    return possible, changed


def path_returns(price_paths: Floats, last_close: Floats) -> Floats:
    """Single-session log returns [N, S, H] of the closes in price paths [N, S, H, 6]."""
    close = np.log(price_paths[..., 3])
    first = np.broadcast_to(np.log(last_close)[:, None, None], (*close.shape[:2], 1))
    return np.diff(np.concatenate([first, close], axis=2), axis=2)
