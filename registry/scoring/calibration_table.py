"""The states of a calibration, looked up by symbol, sector and step. NumPy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from registry.errors import BadParameter
from registry.forecast.arrays import Floats, Places

KINDS = ("symbol", "sector", "global")  # of a key, from the narrowest; the ledger has the same
OLDEST = 5  # sessions without an outcome after which a calibration is stale
APPLIED = (*KINDS, "identity")  # a series falls back in this order at each step
ANCHORS = (0.05, 0.5, 0.95)  # levels that bias, scale and offsets are relative to


@dataclass(frozen=True, eq=False)
class States:
    """States of N series at H steps."""

    levels: tuple[float, ...]  # [Q]; () if there is no calibration
    bias: Floats  # [N, H]
    scale: Floats  # [N, H]
    offsets: Floats  # [N, H, Q]
    applied: Places  # [N, H] places in APPLIED

    def check_levels(self, levels: Sequence[float]) -> None:
        """Raise BadParameter (code BAD_LEVELS) unless the states are of these levels."""
        _check_same(self.levels, levels)

    def identity(self) -> npt.NDArray[np.bool_]:
        """Which states [N, H] change nothing."""
        moved = (self.bias != 0.0) | (self.scale != 1.0)
        changed: npt.NDArray[np.bool_] = moved | self.offsets.any(axis=-1)
        return ~changed


@dataclass(frozen=True, eq=False)
class Table:
    """K states of a version, each of one key and step, with a fast look-up. Raises BadParameter.

    A key is a kind of KINDS and a name, which is "" for the global key.
    """

    levels: tuple[float, ...]  # [Q]
    keys: tuple[tuple[str, str], ...]  # [K]
    steps: Places  # [K] 1, 2, ...
    bias: Floats  # [K]
    scale: Floats  # [K] more than 0
    offsets: Floats  # [K, Q]
    _rows: dict[tuple[str, str], int] = field(init=False, repr=False)  # row of each key
    _places: Places = field(init=False, repr=False)  # [rows + 2, steps + 1] places in _numbers
    _numbers: Floats = field(init=False, repr=False)  # [K + 1, 2 + Q] bias, scale, offsets

    def __post_init__(self) -> None:
        _check_table(self)
        rows = {key: row for row, key in enumerate(dict.fromkeys(self.keys))}
        object.__setattr__(self, "_rows", rows)
        object.__setattr__(self, "_places", _table_of_places(self.keys, self.steps, rows))
        states = np.column_stack([self.bias, self.scale, self.offsets])
        identity = np.array([[0.0, 1.0] + [0.0] * len(self.levels)])
        object.__setattr__(self, "_numbers", np.concatenate([states, identity]))

    @classmethod
    def of_lists(
        cls,
        *,
        levels: Sequence[float],
        keys: Sequence[tuple[str, str]],
        steps: Sequence[int],
        bias: Sequence[float],
        scale: Sequence[float],
        offsets: Sequence[Sequence[float]],
    ) -> "Table":
        """Table of plain lists, as a message holds them. Lists without a state: the identity."""
        if not keys:
            return cls.identity()
        try:
            return cls(
                levels=tuple(levels),
                keys=tuple((kind, name) for kind, name in keys),
                steps=np.asarray(steps, dtype=np.int64),
                bias=np.asarray(bias, dtype=np.float64),
                scale=np.asarray(scale, dtype=np.float64),
                offsets=np.asarray(offsets, dtype=np.float64),
            )
        except (TypeError, ValueError) as error:
            raise BadParameter("the lists of a calibration are no arrays of numbers") from error

    @classmethod
    def identity(cls) -> "Table":
        """Table without states: it fits all levels and changes nothing."""
        none = np.zeros(0)
        return cls((), (), none.astype(np.int64), none, none, none.reshape(0, 0))

    def check_levels(self, levels: Sequence[float]) -> None:
        """Raise BadParameter (code BAD_LEVELS) unless the states are of these levels."""
        _check_same(self.levels, levels)

    def states(self, symbols: Sequence[str], sectors: Mapping[str, str], horizon: int) -> States:
        """States of `symbols` [N] at steps 1 .. horizon.

        Each step of a series falls back by itself: to the state of its sector, then to the global
        one, then to the identity. `sectors` need not hold every symbol.
        """
        rows = np.array([self._candidates(symbol, sectors) for symbol in symbols], dtype=np.int64)
        steps = np.minimum(np.arange(horizon), self._places.shape[1] - 1)
        candidates = self._places[rows.reshape(-1, len(APPLIED), 1), steps]  # [N, 4, H]
        applied = (candidates >= 0).argmax(axis=1)
        places = np.take_along_axis(candidates, applied[:, None, :], axis=1)[:, 0]
        numbers = self._numbers[places]  # [N, H, 2 + Q]
        return States(self.levels, numbers[..., 0], numbers[..., 1], numbers[..., 2:], applied)

    def _candidates(self, symbol: str, sectors: Mapping[str, str]) -> tuple[int, int, int, int]:
        """Rows of `_places` in the order of APPLIED."""
        rows = self._rows
        missing = len(rows)
        return (
            rows.get(("symbol", symbol), missing),
            rows.get(("sector", sectors.get(symbol, "")), missing),
            rows.get(("global", ""), missing),
            missing + 1,
        )


# --- checks -----------------------------------------------------------------------------------


def _check_same(calibration: tuple[float, ...], levels: Sequence[float]) -> None:
    if calibration and calibration != tuple(levels):
        raise BadParameter(
            f"the calibration has {_range(calibration)}, the forecast {_range(levels)}; "
            "a calibration is applied at the levels that it was learned at",
            code="BAD_LEVELS",
        )


def _range(levels: Sequence[float]) -> str:
    if len(levels) == 0:
        return "no levels"
    return f"{len(levels)} levels {levels[0]:g}..{levels[-1]:g}"


def _check_table(table: Table) -> None:
    count = len(table.keys)
    if not count:
        return
    check_grid(table.levels)
    shapes = {
        "steps": (table.steps, (count,)),
        "bias": (table.bias, (count,)),
        "scale": (table.scale, (count,)),
        "offsets": (table.offsets, (count, len(table.levels))),
    }
    for name, (values, shape) in shapes.items():
        if values.shape != shape:
            raise BadParameter(f"{name} have shape {values.shape}, expected {shape}")
        if not np.isfinite(values).all():
            raise BadParameter(f"{name} have a number that is not finite")
    if (table.scale <= 0).any():
        raise BadParameter("a scale is not more than 0")
    if (table.steps < 1).any():
        raise BadParameter("a step is less than 1")
    for kind, name in table.keys:
        if kind not in KINDS or (kind == "global") != (name == ""):
            raise BadParameter(f"a key is one of {', '.join(KINDS)} and a name, empty if global")


def check_grid(levels: tuple[float, ...]) -> None:
    """Raise BadParameter (code BAD_LEVELS) for levels that no calibration has."""
    if not levels or not (np.diff([0.0, *levels, 1.0]) > 0).all():
        raise BadParameter(
            "levels of a calibration do not ascend within 0 and 1", code="BAD_LEVELS"
        )
    if levels[0] > ANCHORS[0] or levels[-1] < ANCHORS[-1]:
        raise BadParameter(
            f"a calibration's levels reach from 0.05 to 0.95 at least, found {_range(levels)}",
            code="BAD_LEVELS",
        )


def _table_of_places(
    keys: Sequence[tuple[str, str]], steps: Places, rows: Mapping[tuple[str, str], int]
) -> Places:
    """Place of each row's state at each step, -1 without one; the last column is always -1.

    Two more rows: one without states, and one of the identity, whose place is K.
    """
    longest = int(steps.max(initial=0))
    places = np.full((len(rows) + 2, longest + 1), -1)
    key_rows = np.array([rows[key] for key in keys], dtype=np.int64)
    places[key_rows, steps - 1] = np.arange(len(keys))
    if (places >= 0).sum() < len(keys):
        raise BadParameter("a key and step has two states")
    places[-1] = len(keys)
    return places
