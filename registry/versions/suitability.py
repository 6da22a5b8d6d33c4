"""Whether a version can forecast a data set, and which of its sessions and symbols it takes."""

import math
from collections.abc import Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import pandas as pd

from registry.errors import BadHistory, BadParameter
from registry.forecast import calendars, names
from registry.forecast.arrays import Dates
from registry.forecast.checks import MAX_HOLE, MAX_MISSING
from registry.forecast.history import Refused
from registry.forecast.spec import ModelSpec

LATE = 5  # sessions by which a series may end before its data set
LISTED = 5  # symbols that a message names
DATES = 3  # dates that a message names


def other_calendar(
    reference: str, of_version: str, data: str, of_data: str, first: str, last: str
) -> BadHistory:
    """The error (CALENDAR) for a data set of another calendar than the version's.

    `first` and `last` are sessions of the data set. It names the first dates that differ.
    """
    known = _sessions(of_version, of_data, first, last)
    days = _sessions(of_data, of_version, first, last)
    closed, lacking = np.setdiff1d(days, known), np.setdiff1d(known, days)
    dates = ""
    if closed.size:
        dates = f": {data} has dates on which {of_version} was closed: {_dates(closed)}"
    elif lacking.size:
        dates = f": {data} lacks sessions of {of_version}: {_dates(lacking)}"
    return BadHistory(
        f"{reference} forecasts sessions of {of_version}, those of {data} are of {of_data}{dates}; "
        f"{_remedy(reference, data)}",
        code="CALENDAR",
    )


def _sessions(calendar: str, other: str, first: str, last: str) -> Dates:
    """Sessions of a calendar from `first` to `last`, as far as the other calendar is known, too."""
    start, end = pd.Timestamp(first), pd.Timestamp(last)
    for name in (calendar, other):
        known_from, known_until = calendars.span(name)
        start = max(start, pd.Timestamp(known_from))
        end = min(end, pd.Timestamp(known_until))
    days: Dates = calendars.sessions(calendar, start, end).to_numpy().astype("datetime64[D]")
    return days


def _remedy(reference: str, data: str) -> str:
    model = reference.partition("/")[0]
    return (
        f"train it on {data}, or name a version that was trained on it: "
        f"`python -m registry show {model}` lists them"
    )


def _dates(days: Dates) -> str:
    shown = ", ".join(str(day) for day in days[:DATES])
    return shown if len(days) <= DATES else f"{shown} and {len(days) - DATES} more"


def check_universe(
    reference: str, facts: Mapping[str, str], spec: ModelSpec, data: str, universe: str
) -> None:
    """Raise BadHistory (UNIVERSE) if the market columns have another universe than in training.

    `facts` are those of the version, `universe` is the tag of the data set's. The mean |return| of
    the same members is the same under any name. The index return is not: its index may differ.
    """
    trained_on = facts.get("universe", universe)
    if not set(names.MARKET) & set(spec.columns) or trained_on == universe:
        return
    same_members = trained_on.split("@")[-1] == universe.split("@")[-1]
    if same_members and names.INDEX_RETURN not in spec.columns:
        return
    raise BadHistory(
        f"{reference} was trained on market columns over {trained_on}, "
        f"those of {data} are over {universe}; {_remedy(reference, data)}",
        code="UNIVERSE",
    )


def since(spec: ModelSpec, last: pd.Timestamp) -> pd.Timestamp:
    """First session that a forecast can need of a data set that ends with the session `last`.

    A series may end LATE sessions earlier and lack as many sessions as the checks tolerate.
    """
    needed = math.ceil((spec.max_context + LATE) / (1 - MAX_MISSING)) + MAX_HOLE
    day = np.array([last], dtype="datetime64[D]")
    number = calendars.numbers(spec.calendar, day)
    first = calendars.dates(spec.calendar, np.maximum(number - needed, 0))[0]
    return pd.Timestamp(first)


def symbols_of(
    spec: ModelSpec, data: str, known: Sequence[str], asked: Sequence[str]
) -> tuple[str, ...]:
    """The symbols to forecast, sorted: those asked for (none: all).

    A model with a universe gets all of it that is known, whichever symbols are asked for. Raises
    BadParameter for a symbol that the data set lacks, and BadHistory (UNIVERSE) for one that the
    version does not know.
    """
    _check_known(data, known, asked)
    if spec.universe is None:
        return tuple(sorted(set(asked or known)))
    others = sorted(set(asked) - set(spec.universe))
    if others:
        raise BadHistory(
            f"{spec.name} does not know {listed(others)}; it was trained on "
            f"{listed(spec.universe)}",
            code="UNIVERSE",
        )
    needed = [name for name in spec.universe if not spec.subset or name in known]
    lacking = sorted(set(needed) - set(known))
    if lacking or not needed:
        raise BadHistory(
            f"{spec.name} forecasts {listed(spec.universe)}; {data} lacks "
            f"{listed(lacking or spec.universe)}",
            code="UNIVERSE",
        )
    return tuple(sorted(needed))


def stale(
    spec: ModelSpec, frame: pd.DataFrame, symbols: Sequence[str], last: pd.Timestamp
) -> list[Refused]:
    """The symbols whose last session is more than LATE sessions before `last`, that of the set."""
    sessions = frame.groupby(names.UNIQUE_ID, observed=True)[names.DS].max()
    first = frame[names.DS].min() if len(frame) else since(spec, last)
    return ended(spec, sessions.to_dict(), symbols, first, last)


def ended(
    spec: ModelSpec,
    sessions: Mapping[Any, pd.Timestamp],
    symbols: Sequence[str],
    first: pd.Timestamp,
    last: pd.Timestamp,
    late: int = LATE,
) -> list[Refused]:
    """The symbols whose last session is more than `late` sessions before that of the data set.

    `sessions` has the last one of each symbol that has any since `first`.
    """
    refused = []
    end = _number(spec, last)
    for place, symbol in enumerate(symbols, start=1):
        session = sessions.get(symbol)
        if session is None:
            phrase = f"ended before {first:%Y-%m-%d}"
        elif session < last and end - _number(spec, session) > late:
            phrase = f"has its last session on {session:%Y-%m-%d}"
        else:
            continue
        message = f"{symbol} {phrase}; the last one of the data set is {last:%Y-%m-%d}"
        refused.append(Refused(place, symbol, "STALE", message))
    return refused


def check_fresh(refused: Sequence[Refused]) -> None:
    """Raise BadHistory (STALE) if a symbol is stale."""
    if refused:
        raise BadHistory(refused[0].message, code="STALE")


def up_to_common(spec: ModelSpec, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows up to the last session that all series have, for a joint model; else all rows."""
    if not spec.joint:
        return frame
    common = frame.groupby(names.UNIQUE_ID, observed=True)[names.DS].max().min()
    until: pd.DataFrame = frame[frame[names.DS] <= common]
    return until


def _number(spec: ModelSpec, session: pd.Timestamp) -> int:
    day = np.array([session], dtype="datetime64[D]")
    return int(calendars.numbers(spec.calendar, day)[0])


def _check_known(data: str, known: Collection[str], asked: Sequence[str]) -> None:
    unknown = sorted(set(asked) - set(known))
    if not unknown:
        return
    capitals = {name.upper(): name for name in known}
    near = get_close_matches(unknown[0].upper(), capitals, n=3)
    nearest = ", ".join(capitals[name] for name in near)
    advice = f"; did you mean {nearest}?" if near else ""
    raise BadParameter(f"{data} has no symbol {listed(unknown)}{advice}")


def listed(symbols: Sequence[str]) -> str:
    """The first symbols, and how many more there are."""
    shown = ", ".join(symbols[:LISTED])
    return shown if len(symbols) <= LISTED else f"{shown} and {len(symbols) - LISTED} more"
