"""The front door: every check of a history, and which of its series pass.

A caller's table passes through `check_history`: a frame, a worker's message or an HTTP request. An
evaluation passes what a model gets at an origin through `screened`, with the same checks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import BadHistory
from registry.forecast import bars, calendars, names
from registry.forecast.arrays import Places
from registry.forecast.faults import Fault, in_rows
from registry.forecast.history import MAX_ABS_RETURN, History, Refused, read_history
from registry.forecast.spec import ModelSpec

TAIL = 20  # sessions at the end of a series that must move
STILL = 1e-7  # mean |y| of the tail; below, a series moves in name only
COLLAPSED = 0.01  # of the mean |y| before the tail; built-in prices never fell below 0.15 of it
MAX_HOLE = 5  # sessions in a row that may be missing
MAX_MISSING = 0.05  # of the sessions from first to last that may be missing
LISTED = 3  # refused series that a note names
DATES = 5  # dates that a text names

Check = Callable[[History], Iterator[Fault]]


def check_history(frame: Any, spec: ModelSpec) -> History:
    """The checked history of a caller's table: what the model looks at, of the series that pass.

    A model looks at the last `spec.max_context` sessions of a series. Older ones are cut off, and
    only their order is checked. `refused` names the series that failed a check, `notes` says what
    was tolerated.

    Types whose conversion cannot change a value are accepted: whole and nullable numbers, Arrow
    columns, categories of text, dates as objects or ISO text. Raises BadHistory for a missing
    column, rows out of order, a session twice, another universe; and if no series passes, or not
    all of a model that forecasts its series together.
    """
    history = screened(_ordered(frame, spec).recent(spec.max_context), spec)
    if not history.ids:
        raise refusal(history)
    return history


def check_training(frame: Any, spec: ModelSpec) -> History:
    """The whole history of a training. Raises BadHistory unless each series passes each check."""
    history = screened(_ordered(frame, spec), spec)
    if history.refused:
        raise refusal(history)
    return history


def screened(history: History, spec: ModelSpec) -> History:
    """The series that pass, with remarks; `refused` has the others.

    No series passes if one fails and the model needs its whole universe.
    """
    passing, places = history, np.arange(len(history.ids))
    refused: list[Refused] = []
    for check in _checks(spec):
        # Of several faults of a series, the first is said.
        faults = {fault.series: fault for fault in reversed([*check(passing)])}
        for series, fault in faults.items():
            refused.append(_refused(history, int(places[series]), fault))
        if faults:
            kept = np.setdiff1d(np.arange(len(places)), [*faults])
            passing, places = passing.only(kept), places[kept]
        if not len(places):
            break
    if refused and spec.joint and not spec.subset:
        passing = passing.only(places[:0])
    if passing.ids:
        passing = _remarked(passing, spec)
    if refused:
        refused.sort(key=lambda one: one.series)
        notes = {**passing.notes, "refused": _listed(refused, len(history.ids))}
        passing = replace(passing, refused=tuple(refused), notes=notes)
    return passing


def refusal(history: History) -> BadHistory:
    """The error that says why no series of a screened history passed."""
    first, *others = history.refused
    more = f"; {len(history.refused)} series were refused" if others else ""
    return BadHistory(first.message + more, code=first.code)


def _refused(history: History, series: int, fault: Fault) -> Refused:
    message = f"{history.named(series)} {fault.text}"
    return Refused(series + 1, history.ids[series], fault.code, message)


def _listed(refused: Sequence[Refused], count: int) -> str:
    """The first refused series with their codes, and how many there are."""
    shown = ", ".join(f"series {one.series} {one.code}" for one in refused[:LISTED])
    more = f" and {len(refused) - LISTED} more" if len(refused) > LISTED else ""
    return f"{len(refused)} of {count} series were refused: {shown}{more}"


def _remarked(history: History, spec: ModelSpec) -> History:
    """The passing series with bars widened by rounding, and a note for each thing tolerated."""
    notes = dict(history.notes)
    missing = _missing(history, spec.calendar)
    if missing.any():
        series = np.count_nonzero(missing)
        notes["gaps"] = f"{missing.sum()} sessions are missing in {series} series"
    still = _ends_still_run(history)
    if still.any():
        series = np.count_nonzero(np.logical_or.reduceat(still, history.bounds[:-1]))
        notes["still"] = f"{TAIL} or more returns of 0 follow each other in {series} series"
    history = replace(history, notes=notes)
    return bars.rounded(history) if _has_bars(spec) else history


def _has_bars(spec: ModelSpec) -> bool:
    return set(names.OHLC) <= set(spec.columns)


# --- of the whole table -------------------------------------------------------------------------


def _ordered(frame: Any, spec: ModelSpec) -> History:
    """The history of a table in order, of the model's universe. Raises BadHistory."""
    history = read_history(frame, spec)
    _check_order(history)
    if spec.universe is not None:
        _check_universe(history, spec, spec.universe)
    if spec.joint and len(np.unique(history.cutoffs)) > 1:
        raise BadHistory(
            f"{spec.name} needs one common last session for all series", code="CUTOFFS_DIFFER"
        )
    return history


def _check_order(history: History) -> None:
    """Series are sorted by name; within a series, sessions ascend without repeats."""
    if any(name >= next_name for name, next_name in pairwise(history.ids)):
        raise BadHistory("history must be sorted by unique_id, then ds", code="UNSORTED")
    step = np.diff(history.ds.view(np.int64))
    step[history.bounds[1:-1] - 1] = 1  # the step from a series to the next one is free
    if not len(step) or step.min() > 0:
        return
    row = int(np.flatnonzero(step <= 0)[0])
    index = int(np.searchsorted(history.bounds, row, side="right")) - 1
    series = history.named(index)
    repeats = step[row] == 0
    raise BadHistory(
        f"{series} has {'the same session twice' if repeats else 'sessions out of order'} "
        f"(row {row + 1}); sort by unique_id, ds and send each session once",
        code="DUPLICATE_SESSION" if repeats else "UNSORTED",
    )


def _check_universe(history: History, spec: ModelSpec, universe: tuple[str, ...]) -> None:
    """Only series of the universe, and all of them unless the model accepts a part (`subset`)."""
    members = set(universe)
    unknown = [i for i, name in enumerate(history.ids) if name not in members]
    if unknown:
        others = f", nor are {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise BadHistory(
            f"{history.named(unknown[0])} is none of the {len(universe)} that {spec.name} knows"
            f"{others}; the version's tag `symbols` lists them",
            code="UNIVERSE",
        )
    missing = sorted(members - set(history.ids))
    if missing and not spec.subset:
        raise BadHistory(
            f"{spec.name} forecasts its {len(universe)} series together; "
            f"the history lacks {', '.join(missing)}",
            code="UNIVERSE",
        )


# --- of each series -----------------------------------------------------------------------------


def _checks(spec: ModelSpec) -> tuple[Check, ...]:
    """The checks in their order; each gets the series that passed those before it."""
    of_bars = (bars.prices, bars.volumes, bars.order, bars.basis) if _has_bars(spec) else ()
    return (
        partial(_lengths, spec),
        _numbers,
        partial(_returns, spec),
        _market,
        _counts,
        partial(_dates, spec.calendar),
        partial(_sessions, spec.calendar),
        partial(_holes, spec.calendar),
        *of_bars,
        partial(_movement, spec),
    )


def _lengths(spec: ModelSpec, history: History) -> Iterator[Fault]:
    lengths = history.lengths
    for series in np.flatnonzero(lengths < spec.min_context):
        text = f"has {lengths[series]} sessions, {spec.name} needs {spec.min_context}"
        yield Fault(int(series), "TOO_SHORT", text)


def _numbers(history: History) -> Iterator[Fault]:
    for name, values in history.columns.items():
        phrase = f"{name} that is not finite"
        yield from in_rows(history, ~np.isfinite(values), phrase, "NON_FINITE")


def _returns(spec: ModelSpec, history: History) -> Iterator[Fault]:
    fall, rise = 1 - np.exp(-MAX_ABS_RETURN), np.exp(MAX_ABS_RETURN) - 1
    phrase = f"|y| beyond {MAX_ABS_RETURN:g} (a fall of {fall:.0%}, a rise of {rise:.0%})"
    advice = "; y is a log return: mend splits, percentages and typing errors"
    if history.lengths.max() <= spec.max_context:
        advice += (
            ". A genuine move passes "
            f"once it is older than the {spec.max_context} sessions that {spec.name} looks at"
        )
    wrong = np.abs(history.columns[names.Y]) > MAX_ABS_RETURN
    yield from in_rows(history, wrong, phrase, "BAD_RETURN", advice)


def _market(history: History) -> Iterator[Fault]:
    """Columns of the market are log returns and their sizes, too."""
    for name in names.MARKET:
        if name in history.columns:
            least = 0.0 if name == names.MARKET_ABS_RETURN else -MAX_ABS_RETURN
            values = history.columns[name]
            wrong = (values < least) | (values > MAX_ABS_RETURN)
            phrase = f"{name} outside {least:g}..{MAX_ABS_RETURN:g}"
            yield from in_rows(history, wrong, phrase, "BAD_RETURN")


def _counts(history: History) -> Iterator[Fault]:
    for name in names.COUNTS:
        if name in history.columns:
            yield from in_rows(history, history.columns[name] < 0, f"negative {name}", "BAD_COUNT")


def _dates(calendar: str, history: History) -> Iterator[Fault]:
    """Dates within the calendar, so that it can be asked about them."""
    first, last = calendars.span(calendar)
    wrong = (history.ds < first) | (history.ds > last)
    phrase = f"a date outside {calendar}, which is known from {first} to {last},"
    yield from in_rows(history, wrong, phrase, "OUTSIDE_CALENDAR")


def _sessions(calendar: str, history: History) -> Iterator[Fault]:
    """Dates on which the exchange was open."""
    closed = calendars.numbers(calendar, history.ds) < 0
    if not closed.any():
        return
    for series, (start, end) in enumerate(pairwise(history.bounds)):
        dates = history.ds[start:end][closed[start:end]]
        if dates.size:
            listed = ", ".join(str(date) for date in dates[:DATES])
            more = f" and {dates.size - DATES} more" if dates.size > DATES else ""
            text = f"has dates on which {calendar} was closed: {listed}{more}; leave them out"
            yield Fault(series, "NOT_A_SESSION", text)


def _missing(history: History, calendar: str) -> Places:
    """Sessions [N] of the calendar that a series lacks between its first and its last."""
    first, last = history.ds[history.bounds[:-1]], history.cutoffs
    span = calendars.numbers(calendar, last) - calendars.numbers(calendar, first) + 1
    missing: Places = span - history.lengths
    return missing


def _holes(calendar: str, history: History) -> Iterator[Fault]:
    """Few sessions are missing, and few in a row. All dates are sessions."""
    missing = _missing(history, calendar)
    if not missing.any():
        return
    numbers = calendars.numbers(calendar, history.ds)
    holes = np.diff(numbers, prepend=numbers[0]) - 1  # sessions missing before each row
    holes[history.bounds[:-1]] = 0
    longest = np.maximum.reduceat(holes, history.bounds[:-1])
    total = history.lengths + missing
    for series in np.flatnonzero((longest > MAX_HOLE) | (missing > MAX_MISSING * total)):
        start, end = history.bounds[series], history.bounds[series + 1]
        too_long = longest[series] > MAX_HOLE
        after = start + np.argmax(holes[start:end] > (MAX_HOLE if too_long else 0))
        hole = np.array([numbers[after - 1] + 1, numbers[after] - 1])
        first, last = calendars.dates(calendar, hole)
        text = (
            f"has {missing[series]} of {total[series]} sessions of {calendar} missing, the first "
            f"{'long hole ' if too_long else ''}from {first} to {last}; at most {MAX_HOLE} in a "
            f"row and {MAX_MISSING:.0%} may be: send each session, or only those after such holes"
        )
        yield Fault(int(series), "GAP", text)


def _movement(spec: ModelSpec, history: History) -> Iterator[Fault]:
    """The last TAIL returns of a series have a scale, and one like before; its close changes."""
    starts, ends = history.bounds[:-1], history.bounds[1:]
    tails = np.maximum(starts, ends - TAIL)
    edges = np.stack([starts, tails], axis=1).reshape(-1)  # before the tail, tail, before, ...
    sums = np.add.reduceat(np.abs(history.columns[names.Y]), edges)
    earlier = tails - starts  # without earlier sessions, the sum of them is a single return
    before = np.where(earlier > 0, sums[::2] / np.maximum(earlier, 1), 0.0)
    scale = sums[1::2] / (ends - tails)
    texts = {
        "a return of 0 throughout": scale == 0,
        f"returns below {STILL:g} on average in": scale < STILL,
        f"returns below {COLLAPSED:.0%} of those before in": scale < COLLAPSED * before,
    }
    if _has_bars(spec):
        close = history.columns[names.OHLC[3]]
        lowest = np.minimum.reduceat(close, edges)[1::2]
        highest = np.maximum.reduceat(close, edges)[1::2]
        texts["the same close throughout"] = (lowest == highest) & (ends - tails > 1)
    still = _ends_still_run(history)
    if still.any():
        last_run = np.maximum.reduceat(np.where(still, np.arange(len(still)), -1), starts)
        phrase = f"{TAIL} or more returns of 0 in a row, and fewer than {TAIL} returns since, in"
        texts[phrase] = (last_run >= 0) & (ends - 1 - last_run < TAIL)
    for phrase, halted in texts.items():
        for series in np.flatnonzero(halted):
            text = f"has {phrase} its last {ends[series] - tails[series]} sessions"
            advice = "; it is halted or its prices are stale: leave it out until it moves"
            yield Fault(int(series), "HALTED", text + advice)


def _ends_still_run(history: History) -> NDArray[np.bool_]:
    """Whether each row [rows] is the last of TAIL or more returns of 0 in a row of its series."""
    zero = history.columns[names.Y] == 0
    ends = np.zeros(len(zero), dtype=bool)
    if np.count_nonzero(zero) < TAIL:
        return ends
    zeros = np.concatenate([[0], np.cumsum(zero)])  # before each row
    ends[TAIL - 1 :] = zeros[TAIL:] - zeros[:-TAIL] == TAIL
    place = np.arange(len(zero)) - np.repeat(history.bounds[:-1], history.lengths)
    return ends & (place >= TAIL - 1)
