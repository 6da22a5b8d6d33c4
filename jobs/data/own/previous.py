"""What an append knows of the set that it adds to."""

from dataclasses import dataclass

from jobs.data.dataset import Splits
from jobs.data.market import Universe


@dataclass(frozen=True)
class Previous:
    """The set before an append.

    `table` has the last row of each symbol before the staged ones: unique_id, ds and, where the set
    has prices, the adjusted close. All staged rows of a symbol are later than its row there.
    """

    table: str
    universe: Universe
    splits: Splits
