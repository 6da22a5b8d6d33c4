"""What cannot be read as the type it must be: each named with file, row and column."""

import math
import re
from collections.abc import Mapping
from typing import Any

import duckdb

from jobs.data.sources.cells import FORMS
from jobs.data.sources.layouts import SEPARATOR
from jobs.data.sources.source import WIDE
from registry.errors import BadHistory
from registry.text import printable

LONGEST_SYMBOL = 64

Place = dict[str, Any]  # file and row


def check_files(connection: duckdb.DuckDBPyConnection, files: tuple[str, ...]) -> None:
    """Raise BadHistory (EMPTY) for a file without rows."""
    filled = {file for (file,) in connection.execute("SELECT file FROM staged_files").fetchall()}
    for file in files:
        if file not in filled:
            raise BadHistory(f"{printable(file)} has no rows", code="EMPTY")


def check_cells(
    connection: duckdb.DuckDBPyConnection, columns: Mapping[str, str], layout: str
) -> None:
    """Raise BadHistory (BAD_TIMESTAMP, NOT_A_NUMBER) for the first cell that was refused."""
    first = connection.execute(
        "SELECT file, row, unique_id, refused FROM staged_rows WHERE refused IS NOT NULL "
        "ORDER BY file, row LIMIT 1"
    ).fetchone()
    if first is None:
        return
    file, row, symbol, refused = first
    key, _, text = refused.partition(SEPARATOR)
    name = symbol if layout == WIDE and key != "ds" else columns[key]
    place = f"{printable(file)}, row {row}, column {name[:64]!r}"
    if key == "ds":
        raise BadHistory(f"{place}: {_wrong_date(text)}", code="BAD_TIMESTAMP")
    raise BadHistory(f"{place}: {_wrong_number(text)}", code="NOT_A_NUMBER")


def _wrong_date(text: str) -> str:
    if not text:
        return "no date"
    if re.fullmatch(r"\d{1,2}[/.-]\d{1,2}[/.-](\d{4}|\d{2})( .*)?", text):
        return f"{text!r} may begin with the day or the month; write ISO dates, as in 2021-03-31"
    return f"{text!r} is no date; write ISO dates, as in 2021-03-31"


def _wrong_number(text: str) -> str:
    if re.search(r"\d[,' _]\d", text):
        return f"{text!r} is no plain number; write numbers with a point, as in 1234.56"
    if _is_infinite(text):
        return f"{text!r} is not finite; correct it, or leave the cell empty"
    return f"{text!r} is no number; correct it, or leave the cell empty"


def _is_infinite(text: str) -> bool:
    try:
        return math.isinf(float(text))
    except ValueError:
        return False


def check_dates(connection: duckdb.DuckDBPyConnection) -> str:
    """The form of the dates. Raises BadHistory (BAD_TIMESTAMP) for several, or for intraday."""
    forms = connection.execute(
        "SELECT form, min({'file': file, 'row': row}) AS first FROM staged_rows "
        "GROUP BY form ORDER BY first"
    ).fetchall()
    if len(forms) > 1:
        (form, first), (other_form, other) = forms[:2]
        raise BadHistory(
            f"{_place(first)} has a date as {FORMS[form]}, {_place(other)} as "
            f"{FORMS[other_form]}; write all dates in one form",
            code="BAD_TIMESTAMP",
        )
    _check_daily(connection)
    return FORMS[forms[0][0]]


def _check_daily(connection: duckdb.DuckDBPyConnection) -> None:
    """A stamp at midnight, or one at the close, is a session; several a day are intraday."""
    timed = connection.execute(
        "SELECT 1 FROM staged_cells WHERE stamp <> stamp::DATE LIMIT 1"
    ).fetchone()
    if timed is None:
        return
    day = connection.execute(
        "SELECT unique_id, stamp::DATE, min(stamp), max(stamp) FROM staged_cells "
        "GROUP BY ALL HAVING min(stamp) <> max(stamp) ORDER BY 1, 2 LIMIT 1"
    ).fetchone()
    if day is None:
        return
    symbol, date, *stamps = day
    places = [_place(_first(connection, symbol, stamp)) for stamp in stamps]
    times = " and ".join(f"{stamp:%H:%M:%S}" for stamp in stamps)
    raise BadHistory(
        f"{places[0]} and {places[1]}: {symbol!r} has bars at {times} on {date}; this is "
        "intraday: aggregate to daily bars first",
        code="BAD_TIMESTAMP",
    )


def check_symbols(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise BadHistory (BAD_SYMBOL) for symbols that cannot be names, or differ by case only."""
    rows = connection.execute("SELECT DISTINCT unique_id FROM staged_cells ORDER BY 1").fetchall()
    symbols = [symbol for (symbol,) in rows]
    by_folded: dict[str, str] = {}
    for symbol in symbols:
        reason = _wrong_symbol(symbol)
        if reason:
            place = _place(_first(connection, symbol))
            raise BadHistory(f"{place}: {reason}", code="BAD_SYMBOL")
        other = by_folded.setdefault(symbol.casefold(), symbol)
        if other != symbol:
            places = [_place(_first(connection, each)) for each in (other, symbol)]
            raise BadHistory(
                f"{places[0]} and {places[1]}: symbols {other!r} and {symbol!r} differ by case "
                "only; write one symbol one way, or rename one",
                code="BAD_SYMBOL",
            )


def _wrong_symbol(symbol: str | None) -> str:
    """What is wrong with a symbol; empty if nothing is."""
    if not symbol:
        return "no symbol"
    shown = symbol[:LONGEST_SYMBOL]
    if not symbol.strip():
        return f"symbol {shown!r} is blank; write a name"
    if symbol != symbol.strip():
        return f"symbol {shown!r} has blanks around it; remove them"
    if len(symbol) > LONGEST_SYMBOL:
        return (
            f"a symbol has {len(symbol)} characters, at most {LONGEST_SYMBOL} are possible; "
            f"it begins with {symbol[:20]!r}"
        )
    if not symbol.isprintable():
        return f"symbol {shown!r} holds a control character; remove it"
    return ""


def _first(
    connection: duckdb.DuckDBPyConnection, symbol: str | None, stamp: object = None
) -> Place:
    """File and row of the first row of a symbol, with this stamp if one is given."""
    row: tuple[Place] | None = connection.execute(
        "SELECT min({'file': file, 'row': row}) FROM staged_rows "
        "WHERE unique_id IS NOT DISTINCT FROM $1 AND stamp = coalesce($2, stamp)",
        [symbol, stamp],
    ).fetchone()
    return row[0] if row else {}


def _place(first: Place) -> str:
    return f"{printable(first['file'])}, row {first['row']}"
