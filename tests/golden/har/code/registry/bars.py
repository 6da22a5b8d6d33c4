"""What a daily bar is: its columns, what must hold between them, what may be missing and how that is filled."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from registry import wire
from registry.errors import BadHistory

Floats = npt.NDArray[np.float64]

BASIS = 1e-4  # log return; how far y may lie from the return of the closes, which a sender may have rounded
LARGEST = 1e18  # of a price, volume or amount: beyond it is a typing error, and squares overflow
FLOOR = 0.01  # of the last known close: no price of a sampled path may fall below it


def check(columns: Mapping[str, Floats], ids: Sequence[str], bounds: npt.NDArray[np.int64]) -> None:
    """Raise BadHistory unless the bars [rows] of series `bounds[i]` .. `bounds[i + 1]` are possible ones.

    Prices positive, low <= open, close <= high, volume and amount not negative, y the return of the closes (else the
    bars are not on one price basis), and more than one close in a series. Numbers are finite already.
    """
    prices = np.stack([columns[name] for name in wire.OHLC])  # [4, rows]
    open_, high, low, close = prices
    _refuse(np.any(prices <= 0, axis=0), "a price that is not positive", "BAD_PRICE")
    _refuse(np.any(prices > LARGEST, axis=0), f"a price beyond {LARGEST:g}", "BAD_PRICE")
    _refuse(high < low, "high below low", "BAD_BAR")
    outside = (np.minimum(open_, close) < low) | (np.maximum(open_, close) > high)
    _refuse(outside, "open or close outside low..high", "BAD_BAR")
    for name in (wire.VOLUME, wire.AMOUNT):
        if name in columns:
            _refuse(columns[name] < 0, f"negative {name}", "BAD_VOLUME")
            _refuse(columns[name] > LARGEST, f"{name} beyond {LARGEST:g}", "BAD_VOLUME")
    of_closes = np.diff(np.log(close))
    within = np.ones(len(of_closes), dtype=bool)
    within[bounds[1:-1] - 1] = False  # from one series to the next
    off = within & (np.abs(columns[wire.Y][1:] - of_closes) > BASIS)
    _refuse(
        np.concatenate([[False], off]),
        "y that is not the log return of close; put the bars on one price basis: multiply them by adj_close / close",
        "PRICE_BASIS",
    )
    for number, (start, end) in enumerate(pairwise(bounds), 1):
        if end - start > 1 and close[start:end].min() == close[start:end].max():
            raise BadHistory(
                f"series {number} of {len(ids)} has one and the same close in all {end - start} sessions; "
                "there is nothing to forecast it by",
                code="CONSTANT",
            )


def _refuse(wrong: Any, what: str, code: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise BadHistory(f"{rows.size} rows have {what}, first row {rows[0]}", code=code)


def complete(columns: Mapping[str, Floats]) -> tuple[Floats, dict[str, str]]:
    """Bars [rows, 6] in the order of wire.BAR, and what was filled in, to be said to the caller.

    Missing volume is 0; missing amount is the mean of the four prices times volume.
    """
    notes = {}
    ohlc = [columns[name] for name in wire.OHLC]
    volume = columns.get(wire.VOLUME)
    if volume is None:
        volume = np.zeros_like(ohlc[0])
        notes["volume"] = "volume was missing and taken as 0"
    amount = columns.get(wire.AMOUNT)
    if amount is None:
        amount = np.mean(ohlc, axis=0) * volume
        notes["amount"] = "amount was missing and taken as mean price x volume"
    return np.stack([*ohlc, volume, amount], axis=1), notes


def correct(paths: Floats, last_close: Floats) -> tuple[Floats, Floats]:
    """Possible bars next to sampled ones [N, S, H, 6], and the share [N] of bars that had to be changed.

    High and low are widened to hold open and close, prices floored at FLOOR of the last known close [N], volume and
    amount at 0.
    """
    floor = (FLOOR * last_close)[:, None, None, None]
    prices = np.maximum(paths[..., :4], floor)
    high = prices.max(axis=3)
    low = prices.min(axis=3)
    volumes = np.maximum(paths[..., 4:], 0.0)
    fixed = np.concatenate([np.stack([prices[..., 0], high, low, prices[..., 3]], axis=3), volumes], axis=3)
    changed = (fixed != paths).any(axis=3).mean(axis=(1, 2))
    return fixed, changed


def path_returns(price_paths: Floats, last_close: Floats) -> Floats:
    """Single-session log returns [N, S, H] of the closes of price paths [N, S, H, 6]."""
    close = np.log(price_paths[..., 3])
    before = np.concatenate([np.broadcast_to(np.log(last_close)[:, None, None], (*close.shape[:2], 1)), close], axis=2)
    return np.diff(before, axis=2)
