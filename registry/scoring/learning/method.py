"""What a method of learning is."""

from typing import Protocol

from registry.forecast.arrays import Floats
from registry.scoring.learning.keys import Keys
from registry.scoring.learning.rows import Rows

Parts = dict[str, Floats]  # [H, K, ...] by name; those that are shared are [H, 1, ...]


class Method(Protocol):
    """Turns outcomes into parts, and parts into the states of all keys."""

    name: str

    @property
    def shared(self) -> tuple[str, ...]:
        """Names of parts of the global key alone."""
        ...

    def start(self, horizon: int, levels: int) -> Parts:
        """Parts of the global key alone; a new key starts with the same numbers."""
        ...

    def update(self, parts: Parts, rows: Rows) -> int:
        """Learn from outcomes of one step, in place; how many were rejected as outliers."""
        ...

    def end(self, parts: Parts) -> None:
        """Called once a night, after the last step."""
        ...

    def states(self, parts: Parts, keys: Keys) -> tuple[Floats, Floats, Floats]:
        """Bias and scale [H, K] and offsets [H, K, Q], before the nightly change is limited."""
        ...
