"""What strategies recommended, session by session. A recommendation that changes keeps its past."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime

import pandas as pd
import sqlalchemy as sa

from registry.ledger import checks, revisions
from registry.ledger.instants import Day
from registry.ledger.recording import Counts

SIDES = ("buy", "sell", "hold")


@dataclass(frozen=True, kw_only=True)
class Recommendation:
    """What a strategy recommends for a symbol after the close of a session. Raises BadParameter."""

    strategy: str
    data: str  # data set that has the symbol
    symbol: str
    ds: date  # the session
    horizon: int  # sessions that it is meant for
    side: str  # one of SIDES
    weight: float  # share of the portfolio
    forecast_id: str | None = None  # that it follows from

    def __post_init__(self) -> None:
        for name in ("strategy", "symbol"):
            checks.check_name(name, getattr(self, name))
        checks.check_name("data", self.data, 64)
        checks.check_session("ds", self.ds)
        checks.check_whole("horizon", self.horizon, 1)
        checks.check_choice("side", self.side, SIDES)
        checks.check_finite("weight", self.weight)
        if self.forecast_id is not None:
            checks.check_name("forecast_id", self.forecast_id, 64)


recommendations = revisions.revised(
    "recommendations",
    [
        sa.Column("strategy", sa.String(128), primary_key=True),
        sa.Column("data", sa.String(64), primary_key=True),
        sa.Column("symbol", sa.String(128), primary_key=True),
        sa.Column("ds", Day, primary_key=True),
        sa.Column("horizon", sa.Integer, primary_key=True),
    ],
    [
        sa.Column("side", sa.String(4), nullable=False),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("forecast_id", sa.String(64)),
    ],
)


def record(engine: sa.Engine, rows: Sequence[Recommendation]) -> Counts:
    """Record recommendations, known from now. The same ones again change nothing."""
    return revisions.record(engine, recommendations, map(asdict, rows))


def known(engine: sa.Engine, strategy: str, as_of: datetime | None = None) -> pd.DataFrame:
    """Recommendations of a strategy as they were known at an instant (None: now).

    Sorted by (ds, data, symbol, horizon).
    """
    order = ("ds", "data", "symbol", "horizon")
    of_strategy = recommendations.c.strategy == strategy
    return revisions.known(engine, recommendations, of_strategy, order=order, as_of=as_of)
