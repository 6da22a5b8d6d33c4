"""Regimes of a data set's sessions, such as calm or stressed. A changed label keeps its past."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime

import pandas as pd
import sqlalchemy as sa

from registry.ledger import checks, revisions
from registry.ledger.instants import Day
from registry.ledger.recording import Counts


@dataclass(frozen=True, kw_only=True)
class Regime:
    """The regime of a session. Raises BadParameter."""

    data: str  # data set
    name: str  # of what is labelled, such as volatility
    ds: date  # the session
    label: str

    def __post_init__(self) -> None:
        checks.check_name("data", self.data, 64)
        checks.check_name("name", self.name)
        checks.check_session("ds", self.ds)
        checks.check_name("label", self.label)


regimes = revisions.revised(
    "regimes",
    [
        sa.Column("data", sa.String(64), primary_key=True),
        sa.Column("name", sa.String(128), primary_key=True),
        sa.Column("ds", Day, primary_key=True),
    ],
    [sa.Column("label", sa.String(128), nullable=False)],
)


def record(engine: sa.Engine, rows: Sequence[Regime]) -> Counts:
    """Record regimes, known from now. The same ones again change nothing."""
    return revisions.record(engine, regimes, map(asdict, rows))


def known(engine: sa.Engine, data: str, name: str, as_of: datetime | None = None) -> pd.DataFrame:
    """Regimes of a data set as they were known at an instant (None: now), sorted by ds."""
    conditions = (regimes.c.data == data, regimes.c.name == name)
    return revisions.known(engine, regimes, *conditions, order=("ds",), as_of=as_of)
