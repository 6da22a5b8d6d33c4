"""Means over the symbols of a key, and numbers of a symbol that lean on those of wider keys."""

import numpy as np

from registry.forecast.arrays import Floats
from registry.scoring.learning.keys import GLOBAL, Keys, sums, total
from registry.scoring.learning.rows import Rows


def pooled_mean(values: Floats) -> Floats:
    """Mean over the rows [N, ...]: the same bits in any order of rows."""
    return total(values) / len(values)


def key_means(values: Floats, rows: Rows) -> tuple[Floats, Floats]:
    """Means [K, ...] over the rows [N, ...] of each key, and how many rows a key [K] has.

    Keys without a row have a mean of 0.
    """
    sectors = len(rows.keys.sectors)
    counts = np.bincount(rows.sectors + 1, minlength=sectors + 1)[1:]
    totals = sums(values, rows.sectors, sectors)
    means = np.zeros((len(rows.keys), *values.shape[1:]))
    count = np.zeros(len(rows.keys))
    means[GLOBAL] = pooled_mean(values)
    means[1 : 1 + sectors] = (totals.T / np.maximum(counts, 1)).T
    means[rows.symbol_rows] = values
    count[GLOBAL] = len(values)
    count[1 : 1 + sectors] = counts
    count[rows.symbol_rows] = 1.0
    return means, count


def move(part: Floats, moves: Floats, rates: tuple[float, float, float], rows: Rows) -> None:
    """Move a part [K, ...] of one step by rate x the mean of the moves [N, ...] of a key.

    The rates are those of the global key, of sectors and of symbols.
    """
    means, _ = key_means(moves, rows)
    first = rows.keys.first_symbol
    part[GLOBAL] += rates[0] * means[GLOBAL]
    part[1:first] += rates[1] * means[1:first]
    part[first:] += rates[2] * means[first:]


def summed(part: Floats, keys: Keys) -> Floats:
    """A part [H, K, ...] plus the parts of the wider keys."""
    first = keys.first_symbol
    total = part.copy()
    total[:, 1:first] += part[:, :1]
    total[:, first:] += total[:, keys.parents[first:]]
    return total


def shrunk(values: Floats, weights: Floats, keys: Keys) -> Floats:
    """Values [H, K, ...], each moved towards that of the next wider key.

    A key keeps its weight [H, K] of itself, and takes the rest from the wider key, which was moved
    before. The global key takes the rest from 0.
    """
    first = keys.first_symbol
    share = weights.reshape(weights.shape + (1,) * (values.ndim - 2))
    pooled = share * values
    pooled[:, 1:first] += (1 - share[:, 1:first]) * pooled[:, :1]
    pooled[:, first:] += (1 - share[:, first:]) * pooled[:, keys.parents[first:]]
    return pooled
