"""Fills of orders: what was bought and sold, with corrections and busts as revisions.

Money is exact: a float would lose cents, so that quantities, prices and fees are decimals, which
the ledger keeps as text.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict, NotFound
from registry.ledger import checks, revisions
from registry.ledger.claims import now
from registry.ledger.instants import Instant
from registry.ledger.recording import Counts

SIDES = ("buy", "sell")
_DIGITS = 18  # at most, before the decimal point and after it


class Exact(sa.TypeDecorator[Decimal]):
    """A decimal, stored as text without zeros at its end."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        if value is None:
            return None
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> Decimal | None:  # noqa: ARG002
        return None if value is None else Decimal(value)


@dataclass(frozen=True, kw_only=True)
class Fill:
    """A fill of an order. Raises BadParameter."""

    strategy: str  # or account
    fill_id: str  # unique within the strategy
    data: str  # data set that has the symbol
    symbol: str
    side: str  # one of SIDES
    quantity: Decimal  # more than 0
    price: Decimal
    fee: Decimal  # negative: a rebate
    filled_at: datetime
    sequence: int  # order of fills of one instant

    def __post_init__(self) -> None:
        for name in ("strategy", "fill_id", "symbol"):
            checks.check_name(name, getattr(self, name))
        checks.check_name("data", self.data, 64)
        checks.check_choice("side", self.side, SIDES)
        for name in ("quantity", "price", "fee"):
            _check_exact(name, getattr(self, name))
        if self.quantity <= 0:
            raise BadParameter("quantity of a fill is not more than 0; its side says the direction")
        checks.check_instant("filled_at", self.filled_at)
        checks.check_whole("sequence", self.sequence, 0)


fills = revisions.revised(
    "fills",
    [
        sa.Column("strategy", sa.String(128), primary_key=True),
        sa.Column("fill_id", sa.String(128), primary_key=True),
    ],
    [
        sa.Column("data", sa.String(64), nullable=False),
        sa.Column("symbol", sa.String(128), nullable=False),
        sa.Column("side", sa.String(4), nullable=False),
        sa.Column("quantity", Exact, nullable=False),
        sa.Column("price", Exact, nullable=False),
        sa.Column("fee", Exact, nullable=False),
        sa.Column("filled_at", Instant, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
    ],
)


def record(engine: sa.Engine, rows: Sequence[Fill]) -> Counts:
    """Add fills. One that was ever recorded with these values changes nothing.

    So a broker's message that comes again after a correction or a bust does not undo it. Raises
    Conflict if a fill of this id has other values: a correction is `correct`.
    """
    given = revisions.by_key(fills, map(asdict, rows))
    with revisions.alone(engine, fills) as connection:
        past = _past(connection, list(given))
        for key, versions in past.items():
            if all(revisions.differs(version, given[key]) for version in versions):
                raise Conflict(
                    f"fill {key[1]} of {key[0]} was recorded with other values; "
                    "if they were wrong, correct it"
                )
        new = [row for key, row in given.items() if key not in past]
        return revisions.revise(connection, fills, new, now())


def correct(engine: sa.Engine, rows: Sequence[Fill]) -> Counts:
    """Give fills other values from now on; one that was busted holds again. Raises NotFound."""
    given = revisions.by_key(fills, map(asdict, rows))
    with revisions.alone(engine, fills) as connection:
        _check_recorded(list(given), _past(connection, list(given)))
        return revisions.revise(connection, fills, given.values(), now())


def bust(engine: sa.Engine, strategy: str, fill_ids: Sequence[str]) -> Counts:
    """Let fills no longer hold from now on, as if they had not happened. Raises NotFound."""
    keys = [(strategy, fill_id) for fill_id in dict.fromkeys(fill_ids)]
    with revisions.alone(engine, fills) as connection:
        past = _past(connection, keys)
        _check_recorded(keys, past)
        newest = [versions[-1] for versions in past.values()]
        current = [row for row in newest if row["known_until"] is None]
        revisions.end(connection, fills, current, now())
    return Counts(withdrawn=len(current))


def known(engine: sa.Engine, strategy: str, as_of: datetime | None = None) -> pd.DataFrame:
    """Fills of a strategy as they were known at an instant (None: now).

    Sorted by (filled_at, sequence). Quantity, price and fee are Decimal.
    """
    order = ("filled_at", "sequence", "fill_id")
    of_strategy = fills.c.strategy == strategy
    return revisions.known(engine, fills, of_strategy, order=order, as_of=as_of)


def _past(
    connection: sa.Connection, keys: Sequence[tuple[Any, ...]]
) -> dict[tuple[Any, ...], list[revisions.Row]]:
    """All rows of each fill that was ever recorded, oldest first."""
    past: dict[tuple[Any, ...], list[revisions.Row]] = {}
    for row in revisions.stored(connection, fills, keys):
        past.setdefault((row["strategy"], row["fill_id"]), []).append(row)
    return past


def _check_recorded(
    keys: Sequence[tuple[Any, ...]], past: dict[tuple[Any, ...], list[revisions.Row]]
) -> None:
    for strategy, fill_id in keys:
        if (strategy, fill_id) not in past:
            raise NotFound(f"{strategy} has no fill {fill_id}; record it first")


def _check_exact(name: str, value: Decimal) -> None:
    if not isinstance(value, Decimal):
        raise BadParameter(f"{name} is {type(value).__name__}, expected a Decimal, which is exact")
    if not value.is_finite():
        raise BadParameter(f"{name} is no finite number")
    decimals = max(0, -int(value.as_tuple().exponent))
    if value.adjusted() >= _DIGITS or decimals > _DIGITS:
        raise BadParameter(f"{name} has more than {_DIGITS} digits before or after its point")
