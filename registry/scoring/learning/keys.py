"""What has a state: all series together, each sector, and each symbol.

Arrays over keys have K = 1 + G + S rows: the global key, then G sectors, then S symbols, both in
order of their names.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from registry.forecast.arrays import Floats, Places

GLOBAL = 0  # row of the global key

# Sums over symbols are of multiples of this number, so they are exact in any order of symbols.
GRAIN = 2.0**-34


@dataclass(frozen=True, eq=False)
class Keys:
    """Known sectors and symbols. A symbol without a sector has -1 in `sector_of`."""

    sectors: tuple[str, ...]  # [G] sorted
    symbols: tuple[str, ...]  # [S] sorted
    sector_of: Places  # [S] places in `sectors`

    @classmethod
    def none(cls) -> "Keys":
        """The global key alone."""
        return cls((), (), np.zeros(0, dtype=np.int64))

    @property
    def first_symbol(self) -> int:
        return 1 + len(self.sectors)

    def __len__(self) -> int:
        return self.first_symbol + len(self.symbols)

    @cached_property
    def names(self) -> tuple[tuple[str, str], ...]:
        """Kind and name [K] of each key, as the ledger has them."""
        sectors = [("sector", name) for name in self.sectors]
        symbols = [("symbol", name) for name in self.symbols]
        return (("global", ""), *sectors, *symbols)

    @cached_property
    def parents(self) -> Places:
        """Row [K] of the next wider key: a symbol's sector if it has one, else the global key."""
        above = np.zeros(len(self), dtype=np.int64)
        above[self.first_symbol :] = self.sector_of + 1
        return above

    @cached_property
    def _places(self) -> dict[str, int]:
        return {symbol: place for place, symbol in enumerate(self.symbols)}

    def places(self, symbols: Sequence[str]) -> Places:
        """Places [N] of known symbols."""
        if tuple(symbols) == self.symbols:
            return np.arange(len(self.symbols))
        return np.array([self._places[symbol] for symbol in symbols], dtype=np.int64)

    def with_symbols(self, symbols: Iterable[str], sectors: Mapping[str, str]) -> "Keys":
        """These keys and those of new symbols; itself if there is none."""
        new = set(symbols) - self._places.keys()
        if not new:
            return self
        every = sorted({*self.symbols, *new})
        names = dict(zip(self.symbols, self._sector_names(), strict=True))
        for symbol in new:
            names[symbol] = sectors.get(symbol, "")
        of_symbols = [names[symbol] for symbol in every]
        known = sorted(set(of_symbols) - {""})
        place = {name: row for row, name in enumerate(known)}
        sector_of = np.array([place.get(name, -1) for name in of_symbols], dtype=np.int64)
        return Keys(tuple(known), tuple(every), sector_of)

    def _sector_names(self) -> list[str]:
        padded = (*self.sectors, "")  # -1 is the last one
        return [padded[place] for place in self.sector_of.tolist()]

    def rows_in(self, narrower: "Keys") -> tuple[Places, npt.NDArray[np.bool_]]:
        """Row of each key of this object that serves a key of `narrower`, which holds more keys.

        A key that is new there is served by the wider one that it would have fallen back to. The
        second array [K] says which keys are new.
        """
        row_of = {name: row for row, name in enumerate(self.names)}
        rows = np.array([row_of.get(name, -1) for name in narrower.names], dtype=np.int64)
        new = rows < 0
        rows[: narrower.first_symbol][new[: narrower.first_symbol]] = GLOBAL
        return np.where(new, rows[narrower.parents], rows), new


def exact(values: Floats) -> Floats:
    """Values rounded to multiples of GRAIN; sums of some thousand of them have no rounding."""
    rounded: Floats = np.round(values / GRAIN) * GRAIN
    return rounded


def sums(values: Floats, groups: Places, count: int) -> Floats:
    """Sums [count, ...] of the exact values [N, ...] of each group [N]; a group -1 is left out."""
    totals = np.zeros((count + 1, *values.shape[1:]))
    if count:
        bins = groups + 1
        columns = exact(values).reshape(len(values), -1)
        flat = totals.reshape(count + 1, -1)
        for column in range(columns.shape[1]):
            flat[:, column] = np.bincount(bins, columns[:, column], minlength=count + 1)
    return totals[1:]


def total(values: Floats) -> Floats:
    """Sum [...] of the exact values [N, ...]."""
    whole: Floats = exact(values).sum(axis=0)
    return whole
