"""What a calibration learned from: nights that were live, or backfills."""

from dataclasses import dataclass
from datetime import date, datetime

import sqlalchemy as sa

from registry.ledger import database, observations
from registry.ledger.forecasts import forecasts
from registry.ledger.issue import NIGHTLY
from registry.ledger.maturing import SOURCES
from registry.ledger.states import Scope


@dataclass(frozen=True)
class LearnedFrom:
    """Nights with a forecast before a session. A night that has both kinds is live."""

    live: int
    backfill: int

    @classmethod
    def of(cls, engine: sa.Engine, scope: Scope, session: date, instant: datetime) -> "LearnedFrom":
        """The nights before a session, as the ledger knew them at an instant."""
        c = forecasts.c
        of_scope = [c[name] == value for name, value in vars(scope).items()]
        query = observations.as_of(forecasts, instant)
        query = query.where(*of_scope, c.source.in_(SOURCES), c.cutoff < session)
        with database.read(engine) as connection:
            rows = connection.execute(query.with_only_columns(c.cutoff, c.source)).all()
        nights = {row.cutoff for row in rows}
        live = {row.cutoff for row in rows if row.source == NIGHTLY}
        return cls(len(live), len(nights - live))

    def __str__(self) -> str:
        """As 2 live and 59 backfilled nights."""
        numbers = {"live": self.live, "backfilled": self.backfill}
        parts = [f"{number} {kind}" for kind, number in numbers.items() if number]
        last = self.backfill or self.live
        return f"{' and '.join(parts) or 'no'} night{'' if last == 1 else 's'}"
