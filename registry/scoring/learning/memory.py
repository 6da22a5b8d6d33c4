"""What was learned up to a session, as plain arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import BadParameter
from registry.forecast.arrays import Floats
from registry.scoring.learning.keys import Keys
from registry.scoring.learning.states import KeyStates
from registry.scoring.learning.trail import Trail

Arrays = dict[str, npt.NDArray[Any]]

_NUMBERS = ("bias", "scale", "offsets")
_TRAIL = "trail_"
_PART = "part_"


@dataclass(frozen=True, eq=False)
class Memory:
    """What a method knows after a night. It is never changed; a later night makes another one."""

    method: str
    settings: str  # of the method, and limits; another setting learns from the first night
    levels: tuple[float, ...]  # [Q]
    keys: Keys
    parts: Mapping[str, Floats]  # of the method; [H, K, ...]
    issued: tuple[KeyStates, ...]  # [H + 1] published after each of the last nights, oldest first
    trail: Trail
    learned_until: date | None  # None: no night yet
    learned: int  # outcomes

    @property
    def horizon(self) -> int:
        return len(self.issued) - 1

    def to_arrays(self) -> Arrays:
        """All of it, bit by bit; text is fixed-width unicode."""
        until = "" if self.learned_until is None else self.learned_until.isoformat()
        arrays: Arrays = {
            "method": np.array(self.method),
            "settings": np.array(self.settings),
            "levels": np.array(self.levels),
            "learned_until": np.array(until),
            "learned": np.array(self.learned),
            "symbols": np.array(self.keys.symbols, dtype=np.str_),
            "sectors": np.array(self.keys.sectors, dtype=np.str_),
            "sector_of": self.keys.sector_of,
            "trail_sectors": np.array(self.trail.sectors, dtype=np.str_),
        }
        for name, part in self.parts.items():
            arrays[_PART + name] = part
        for name in _NUMBERS:
            nights = [getattr(states.for_keys(self.keys), name) for states in self.issued]
            arrays[name] = np.stack(nights)
        for field in fields(Trail):
            if field.name not in ("levels", "sectors"):
                arrays[_TRAIL + field.name] = getattr(self.trail, field.name)
        return arrays

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> "Memory":
        """The memory of `to_arrays`. Raises BadParameter if an array is missing."""
        try:
            return _memory(arrays)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            raise BadParameter(f"arrays are not those of a memory: {error!r}") from error


def _memory(arrays: Mapping[str, npt.NDArray[Any]]) -> Memory:
    levels = tuple(arrays["levels"].tolist())
    keys = Keys(
        sectors=tuple(arrays["sectors"].tolist()),
        symbols=tuple(arrays["symbols"].tolist()),
        sector_of=arrays["sector_of"],
    )
    issued = []
    for numbers in zip(*(arrays[name] for name in _NUMBERS), strict=True):
        issued.append(KeyStates(keys, *numbers))
    plain = {}
    for field in fields(Trail):
        if field.name not in ("levels", "sectors"):
            plain[field.name] = arrays[_TRAIL + field.name]
    until = str(arrays["learned_until"])
    return Memory(
        method=str(arrays["method"]),
        settings=str(arrays["settings"]),
        levels=levels,
        keys=keys,
        parts={
            name.removeprefix(_PART): array
            for name, array in arrays.items()
            if name.startswith(_PART)
        },
        issued=tuple(issued),
        trail=Trail(levels=levels, sectors=tuple(arrays["trail_sectors"].tolist()), **plain),
        learned_until=date.fromisoformat(until) if until else None,
        learned=int(arrays["learned"]),
    )
