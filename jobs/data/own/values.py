"""Values that no price, volume or return can have. Nothing is repaired: the first is refused."""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb

from jobs.data.own.basis import ADJ_CLOSE, Basis
from jobs.data.own.findings import one
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.bars import LARGEST, ROUNDING
from registry.forecast.history import MAX_ABS_RETURN

PER_CENT = 0.2  # a median |y| above it is no daily log return


@dataclass(frozen=True)
class Rule:
    """What a value must not be."""

    column: str  # as said in the message
    broken: str  # SQL
    expected: str
    value: str  # SQL, the value of the message

    def refused(self, connection: duckdb.DuckDBPyConnection, count: int) -> BadHistory:
        """The error of the first row that breaks the rule."""
        file, row, symbol, ds, value = one(
            connection,
            f"SELECT file, row, unique_id, ds, {self.value} FROM staged WHERE {self.broken} "
            "ORDER BY unique_id, ds, file, row LIMIT 1",
        )
        more = f" ({count} such rows)" if count > 1 else ""
        return BadHistory(
            f"{file} row {row}: {self.column} of {symbol} on {ds} is {value}, "
            f"expected {self.expected}{more}; correct or remove the row",
            code="BAD_SOURCE",
        )


def check(connection: duckdb.DuckDBPyConnection, basis: Basis) -> None:
    """Raise BadHistory (BAD_SOURCE) for the first value of a used column that cannot be."""
    rules = list(_rules(basis))
    counts = ", ".join(f"count(*) FILTER ({rule.broken})" for rule in rules)
    for rule, count in zip(rules, one(connection, f"SELECT {counts} FROM staged"), strict=True):
        if count:
            raise rule.refused(connection, count)
    if basis.kind == "returns":
        _check_returns(connection)


def _rules(basis: Basis) -> Iterator[Rule]:
    for name in basis.needed:
        if name in (*names.OHLC, ADJ_CLOSE):
            yield _number(name, f"{name} <= 0", "a price above 0")
        elif name == names.Y:
            yield Rule(name, f"NOT isfinite({name})", "a finite number", name)
        else:
            yield _number(name, f"{name} < 0", "at least 0")
    lacking = " OR ".join(f"{name} IS NULL" for name in basis.needed)
    for name in basis.events:
        yield _number(name, f"{name} < 0", "at least 0")
        lost = f"{name} > 0 AND ({lacking})"  # the row is dropped, and its event with it
        yield Rule(name, lost, f"{', '.join(basis.needed)} in the same row", name)
    if basis.kind == "bars":
        yield from _order()


def _number(name: str, broken: str, expected: str) -> Rule:
    broken = f"({broken} OR NOT isfinite({name}) OR {name} > {LARGEST})"
    return Rule(name, broken, f"{expected} and at most {LARGEST:g}", name)


def _order() -> Iterator[Rule]:
    """low <= open, close <= high, but for rounding, as in a request."""
    for name in ("open", "close"):
        above = f"{name} > high * (1 + {ROUNDING})"
        yield Rule(name, above, "at most high", f"{name} || ' with high ' || high")
        below = f"{name} < low * (1 - {ROUNDING})"
        yield Rule(name, below, "at least low", f"{name} || ' with low ' || low")


def _check_returns(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise BadHistory (BAD_RETURN) unless y can be log returns of a day."""
    size, median = one(connection, "SELECT max(abs(y)), median(abs(y)) FROM staged")
    if size is None:
        return
    if median > PER_CENT:
        raise BadHistory(
            f"the median |y| is {median:.3g}: these look like returns in per cent; "
            "divide them by 100 and give log returns",
            code="BAD_RETURN",
        )
    if size > MAX_ABS_RETURN:
        file, row, symbol, ds, y = one(
            connection,
            "SELECT file, row, unique_id, ds, y FROM staged "
            "ORDER BY abs(y) DESC NULLS LAST, unique_id, ds, file, row LIMIT 1",
        )
        raise BadHistory(
            f"{file} row {row}: y of {symbol} on {ds} is {y}, expected a log return of -1..1; "
            "are these per cent or simple returns? Give log returns, or prices",
            code="BAD_RETURN",
        )
