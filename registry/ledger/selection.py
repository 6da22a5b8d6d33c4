"""Which forecasts a question is about, and from when it is asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from numbers import Integral
from typing import Any

import sqlalchemy as sa

from registry.errors import BadParameter, NotFound
from registry.ledger import checks, instants, observations
from registry.ledger.forecasts import forecasts
from registry.ledger.instants import When
from registry.ledger.issue import SOURCES
from registry.ledger.observations import symbols


@dataclass(frozen=True)
class Selection:
    """Conditions that forecasts fulfil; an empty one is no condition."""

    model: str = ""
    version: int | None = None
    data: str = ""
    source: str = ""
    symbols: Sequence[str] = ()
    since: str | date = ""  # first and last cutoff, as 2022-06-30
    until: str | date = ""
    registry: str = ""  # id of the registry

    def __post_init__(self) -> None:
        if isinstance(self.symbols, str):
            raise BadParameter(f"symbols is {self.symbols[:64]!r}, expected several, as ['AAPL']")
        object.__setattr__(self, "symbols", tuple(self.symbols))
        for symbol in self.symbols:
            checks.check_name("a symbol", symbol)
        for name, value in self._texts.items():
            if value:
                checks.check_name(name, value)
        if self.source:
            checks.check_choice("source", self.source, SOURCES)
        if self.version is not None:
            if isinstance(self.version, Integral):  # NumPy's too, as a frame has it
                object.__setattr__(self, "version", int(self.version))
            checks.check_whole("version", self.version, 1)

    @property
    def _texts(self) -> dict[str, str]:
        return {
            "model": self.model,
            "data": self.data,
            "source": self.source,
            "registry": self.registry,
        }

    @property
    def conditions(self) -> "list[sa.ColumnElement[bool]]":
        """On columns of `forecasts`."""
        c = forecasts.c
        conditions = [c[name] == value for name, value in self._texts.items() if value]
        if self.version is not None:
            conditions.append(c.version == self.version)
        if self.since:
            conditions.append(c.cutoff >= day("since", self.since))
        if self.until:
            conditions.append(c.cutoff <= day("until", self.until))
        return conditions

    def of_symbols(self, symbol_id: "sa.ColumnElement[int]") -> "list[sa.ColumnElement[bool]]":
        """On the column of another table with the id of a symbol."""
        if not self.symbols:
            return []
        named = sa.select(symbols.c.id).where(symbols.c.symbol.in_(self.symbols))
        return [symbol_id.in_(named)]

    def known(self, connection: sa.Connection, as_of: When) -> "Known":
        """The forecasts that were issued by an instant.

        Raises NotFound for a symbol that the ledger lacks. Raises BadParameter for a date if the
        forecasts have several calendars, because then it is no single instant.
        """
        self._check_symbols(connection)
        query = sa.select(forecasts.c.calendar).where(*self.conditions).distinct()
        calendars = sorted(connection.scalars(query))
        if len(calendars) > 1 and instants.is_date(as_of):
            raise BadParameter(
                f"the forecasts have several calendars ({', '.join(calendars)}), and {as_of} may "
                "be another instant on each: name a data set, or give a time with a zone"
            )
        instant = instants.as_of(as_of, calendars[0] if calendars else "XNYS")
        return Known(self, instant)

    def _check_symbols(self, connection: sa.Connection) -> None:
        if not self.symbols:
            return
        c = symbols.c
        query = sa.select(c.symbol).where(c.symbol.in_(self.symbols))
        if self.data:
            query = query.where(c.data == self.data)
        missing = sorted(set(self.symbols) - set(connection.scalars(query)))
        if missing:
            raise NotFound(f"{self.data or 'no data set'} in the ledger has no symbol {missing[0]}")


@dataclass(frozen=True)
class Known:
    """Forecasts of a selection that were known at an instant."""

    selection: Selection
    instant: datetime

    @property
    def forecasts(self) -> sa.Select[Any]:
        query = observations.as_of(forecasts, self.instant)
        return query.where(*self.selection.conditions)


def day(name: str, text: str | date) -> date:
    """A date that a user gave under a name. Raises BadParameter."""
    if not isinstance(text, str):
        checks.check_session(name, text)
        return text
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadParameter(f"{name} is {text[:64]!r}, expected a date like 2022-06-30") from error
