"""Split dates of a set: fitted up to the first, chosen up to the second, reported from there."""

from itertools import count, takewhile

import duckdb

from jobs.data.dataset import Splits
from jobs.data.own.findings import column
from jobs.data.own.options import Options
from registry.dates import check_date
from registry.errors import BadHistory, BadParameter

FIT, CHOOSE, REPORT = 60, 20, 20  # sessions that each part needs


def choose(connection: duckdb.DuckDBPyConnection, options: Options) -> Splits:
    """Split dates as given, else by the sessions of `market`.

    Of S sessions the last ceil(S / 4) are reported, the ceil(S / 10) before them chosen on.
    Raises BadParameter (BAD_TIME) and BadHistory (TOO_SHORT).
    """
    sessions = column(connection, "SELECT ds FROM market ORDER BY ds")
    total = len(sessions)
    _check_given(sessions, options)
    if not (options.fit_until or options.choose_until):
        _check_number(total)
    choose_until = options.choose_until or sessions[total - _reported(total) - 1]
    until_choice = sum(ds <= choose_until for ds in sessions)
    fit_until = options.fit_until or sessions[max(until_choice - _chosen(total) - 1, 0)]
    fitted = sum(ds <= fit_until for ds in sessions)
    splits = Splits(fit_until, choose_until)
    _check_part(splits, "fit", fitted, FIT)
    _check_part(splits, "choose on", until_choice - fitted, CHOOSE)
    _check_part(splits, "report", total - until_choice, REPORT)
    return splits


def needed() -> int:
    """The smallest number of sessions that can be split by default."""
    return 1 + sum(1 for _ in takewhile(lambda total: not _enough(total), count(1)))


def _reported(total: int) -> int:
    return -(-total // 4)


def _chosen(total: int) -> int:
    return -(-total // 10)


def _enough(total: int) -> bool:
    reported, chosen = _reported(total), _chosen(total)
    fitted = total - reported - chosen
    return fitted >= FIT and chosen >= CHOOSE and reported >= REPORT


def _check_number(total: int) -> None:
    if not _enough(total):
        raise BadHistory(
            f"there are {total} sessions with returns, {needed()} are needed to fit, choose and "
            f"report; add {needed() - total} sessions, or give --fit_until and --choose_until",
            code="TOO_SHORT",
        )


def _check_part(splits: Splits, part: str, found: int, least: int) -> None:
    if found < least:
        raise BadHistory(
            f"fit_until {splits.fit_until} and choose_until {splits.choose_until} leave "
            f"{max(found, 0)} sessions to {part}, at least {least} are needed; choose other dates",
            code="TOO_SHORT",
        )


def _check_given(sessions: list[str], options: Options) -> None:
    """Raise BadParameter (BAD_TIME) for a date that is none, or outside the data."""
    given = {"fit_until": options.fit_until, "choose_until": options.choose_until}
    for name, value in given.items():
        if value:
            check_date(value, name)
            if not sessions[0] <= value < sessions[-1]:
                raise BadParameter(
                    f"{name} is {value}, expected a date from {sessions[0]} to before "
                    f"{sessions[-1]}, the sessions of the data",
                    code="BAD_TIME",
                )
    if options.fit_until and options.choose_until and options.fit_until >= options.choose_until:
        raise BadParameter(
            f"fit_until is {options.fit_until}, expected a date before choose_until, "
            f"{options.choose_until}",
            code="BAD_TIME",
        )
