"""What a calibration learned from: nights that were live, or backfills."""

from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from registry.ledger import maturing
from registry.ledger.states import Scope


@dataclass(frozen=True)
class LearnedFrom:
    """Nights with a forecast before a session. A night that has both kinds is live."""

    live: int
    backfill: int

    @classmethod
    def of(cls, engine: sa.Engine, scope: Scope, session: date, instant: datetime) -> "LearnedFrom":
        """The nights before a session, as the ledger knew them at an instant."""
        return cls(*maturing.nights_before(engine, scope, session, as_of=instant))

    def __str__(self) -> str:
        """As 2 live and 59 backfilled nights."""
        numbers = {"live": self.live, "backfilled": self.backfill}
        parts = [f"{number} {kind}" for kind, number in numbers.items() if number]
        last = self.backfill or self.live
        return f"{' and '.join(parts) or 'no'} night{'' if last == 1 else 's'}"
