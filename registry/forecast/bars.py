"""Daily bars: columns, what must hold between them, how missing ones are filled, sampled ones mended."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.arrays import Floats, Places

BASIS = 1e-4  # log return; y may differ so much from that of the closes: senders round prices
LARGEST = 1e18  # a price, volume or amount beyond it is a typing error, and its square overflows
FLOOR = 0.01  # of the last known close; no price of a sampled path may fall below it


def check(columns: Mapping[str, Floats], ids: Sequence[str], bounds: Places) -> None:
    """Raise BadHistory unless the bars [rows] of series bounds[i] .. bounds[i + 1] are possible.

    Prices are positive, low <= open, close <= high, volume and amount are not negative. y is the
    return of the closes; if it is not, the bars are not on one price basis. A series has more than
    one close. Numbers are finite already.
    """
    prices = np.stack([columns[name] for name in names.OHLC])  # [4, rows]
    open_, high, low, close = prices
    _refuse(np.any(prices <= 0, axis=0), "a price that is not positive", "BAD_PRICE")
    _refuse(np.any(prices > LARGEST, axis=0), f"a price beyond {LARGEST:g}", "BAD_PRICE")
    _refuse(high < low, "high below low", "BAD_BAR")
    outside = (np.minimum(open_, close) < low) | (np.maximum(open_, close) > high)
    _refuse(outside, "open or close outside low..high", "BAD_BAR")
    for name in (names.VOLUME, names.AMOUNT):
        if name in columns:
            _refuse(columns[name] < 0, f"negative {name}", "BAD_VOLUME")
            _refuse(columns[name] > LARGEST, f"{name} beyond {LARGEST:g}", "BAD_VOLUME")
    _check_basis(columns[names.Y], close, bounds)
    _check_closes(close, ids, bounds)


def _check_basis(y: Floats, close: Floats, bounds: Places) -> None:
    """y is the log return of close, except in the first row of a series."""
    off = np.zeros(len(close), dtype=bool)
    off[1:] = np.abs(y[1:] - np.diff(np.log(close))) > BASIS
    off[bounds[:-1]] = False
    basis = "y that is not the log return of close; put the bars on one price basis: multiply them by adj_close / close"
    _refuse(off, basis, "PRICE_BASIS")


def _check_closes(close: Floats, ids: Sequence[str], bounds: Places) -> None:
    """More than one close in a series of more than one session."""
    lowest = np.minimum.reduceat(close, bounds[:-1])
    highest = np.maximum.reduceat(close, bounds[:-1])
    sessions = np.diff(bounds)
    still = np.flatnonzero((lowest == highest) & (sessions > 1))
    if still.size:
        raise BadHistory(
            f"series {still[0] + 1} of {len(ids)} has one and the same close in all "
            f"{sessions[still[0]]} sessions; there is nothing to forecast it by",
            code="CONSTANT",
        )


def _refuse(wrong: Any, what: str, code: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise BadHistory(f"{rows.size} rows have {what}, first row {rows[0]}", code=code)


def complete(columns: Mapping[str, Floats]) -> tuple[Floats, dict[str, str]]:
    """Bars [rows, 6] in the order of names.BAR, and notes that say what was filled in.

    Missing volume is 0; missing amount is the mean of the four prices times volume.
    """
    notes = {}
    prices = [columns[name] for name in names.OHLC]
    volume = columns.get(names.VOLUME)
    if volume is None:
        volume = np.zeros_like(prices[0])
        notes["volume"] = "volume was missing and taken as 0"
    amount = columns.get(names.AMOUNT)
    if amount is None:
        amount = np.mean(prices, axis=0) * volume
        notes["amount"] = "amount was missing and taken as mean price x volume"
    return np.stack([*prices, volume, amount], axis=1), notes


def correct(paths: Floats, last_close: Floats) -> tuple[Floats, Floats]:
    """Possible bars next to sampled ones [N, S, H, 6], and the share [N] of bars that changed.

    High and low are widened to hold open and close. Prices are at least FLOOR of the last known
    close [N], volume and amount at least 0.
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
    """Single-session log returns [N, S, H] of the closes of price paths [N, S, H, 6]."""
    close = np.log(price_paths[..., 3])
    first = np.broadcast_to(np.log(last_close)[:, None, None], (*close.shape[:2], 1))
    return np.diff(np.concatenate([first, close], axis=2), axis=2)
