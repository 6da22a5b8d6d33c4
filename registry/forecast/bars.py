"""Daily bars: check their columns, fill missing ones, correct sampled bars."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.arrays import Floats, Places

BASIS = 1e-4  # log return; y may differ this much from that of the closes: senders round prices
LARGEST = 1e18  # a larger price, volume or amount is a typing error, and its square overflows
FLOOR = 0.01  # of the last close of the history; the lowest price of a sampled path


def check(columns: Mapping[str, Floats], ids: Sequence[str], bounds: Places) -> None:
    """Raise BadHistory unless the bars [rows] are possible. Series i: bounds[i] .. bounds[i + 1].

    Prices must be positive with low <= open, close <= high. Volume and amount must not be negative.
    y must be the log return of the closes; otherwise the bars are not on one price basis. A series
    of two or more sessions must have two different closes. The caller has checked that all numbers
    are finite.
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
    differs = np.zeros(len(close), dtype=bool)
    differs[1:] = np.abs(y[1:] - np.diff(np.log(close))) > BASIS
    differs[bounds[:-1]] = False
    fault = (
        "y that is not the log return of close; "
        "put the bars on one price basis: multiply them by adj_close / close"
    )
    _refuse(differs, fault, "PRICE_BASIS")


def _check_closes(close: Floats, ids: Sequence[str], bounds: Places) -> None:
    """A series of two or more sessions has two or more different closes."""
    lowest = np.minimum.reduceat(close, bounds[:-1])
    highest = np.maximum.reduceat(close, bounds[:-1])
    sessions = np.diff(bounds)
    constant = np.flatnonzero((lowest == highest) & (sessions > 1))
    if constant.size:
        first = constant[0]
        raise BadHistory(
            f"series {first + 1} of {len(ids)} has the same close in all "
            f"{sessions[first]} sessions; such a series has no scale to forecast",
            code="CONSTANT",
        )


def _refuse(wrong: Any, fault: str, code: str) -> None:
    rows = np.flatnonzero(wrong)
    if rows.size:
        raise BadHistory(f"{rows.size} rows have {fault}, first row {rows[0]}", code=code)


def complete(columns: Mapping[str, Floats]) -> tuple[Floats, dict[str, str]]:
    """Bars [rows, 6] in the order of names.BAR, and a note for each column that was filled in.

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
