"""Histories: returns of series by session, as arrays, and every check of them.

N series lie one after the other, sorted by name, then session. Each caller's table passes through
`check_history`: a frame, a worker's message or an HTTP request.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from registry.errors import BadHistory
from registry.forecast import bars, calendars, names, reading
from registry.forecast.arrays import Dates, Floats, Places
from registry.forecast.spec import ModelSpec

MAX_ABS_RETURN = 1.0  # a larger log return is a split or a typing error
TEXT = pd.StringDtype(na_value=np.nan)  # pandas' own default for text


@dataclass(frozen=True)
class History:
    """N series in arrays. Series i has the rows bounds[i] .. bounds[i + 1]."""

    ids: tuple[str, ...]  # [N]
    bounds: Places  # [N + 1]
    ds: Dates  # [rows] sessions, datetime64[D]
    columns: Mapping[str, Floats]  # y and the other columns of the model, each [rows]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[str] = (names.Y,)) -> "History":
        """History of a frame. Nothing is checked: it must be sorted, and no name may be missing."""
        ds = frame[names.DS].array.to_numpy().astype("datetime64[D]")
        values = {name: frame[name].to_numpy(dtype=np.float64) for name in columns}
        return cls._of_runs(reading.text(frame[names.UNIQUE_ID]), ds, values)

    @classmethod
    def _of_runs(cls, symbols: pa.Array, ds: Dates, values: Mapping[str, Floats]) -> "History":
        """History in which each run of rows with the same name is a series."""
        runs = pc.run_end_encode(symbols, run_end_type=pa.int64())
        bounds = np.zeros(len(runs.values) + 1, dtype=np.int64)
        bounds[1:] = runs.run_ends.to_numpy()
        return cls(tuple(runs.values.to_pylist()), bounds, ds, values)

    def frame(self) -> pd.DataFrame:
        """The history as a frame."""
        keys = {
            names.UNIQUE_ID: repeated(self.ids, self.lengths),
            names.DS: self.ds.astype("datetime64[ns]"),
        }
        return pd.DataFrame(keys | dict(self.columns))

    def sessions(self, series: Places, length: int) -> Dates:
        """The last `length` sessions [n, length] of these series [n]."""
        rows = self.bounds[1:][series, None] - length + np.arange(length)
        sessions: Dates = self.ds[rows]
        return sessions

    @property
    def lengths(self) -> Places:
        """Sessions [N] of each series."""
        return np.diff(self.bounds)

    @property
    def cutoffs(self) -> Dates:
        """Last session [N] of each series."""
        return self.ds[self.bounds[1:] - 1]

    def last(self, column: str) -> Floats:
        """Value [N] of a column in each series' last session."""
        return self.columns[column][self.bounds[1:] - 1]

    def blocks(
        self, max_context: int, columns: Sequence[str] = (names.Y,)
    ) -> Iterator[tuple[Places, Floats]]:
        """Blocks of series of equal length: numbers [n], the last `max_context` rows [n, T, C]."""
        lengths = self.lengths
        count = len(lengths)
        longest = int(lengths.max(initial=0))
        if count and lengths.min() == longest:  # as in most requests; this needs no row numbers
            context = min(longest, max_context)
            parts = [self.columns[name].reshape(count, longest)[:, -context:] for name in columns]
            yield np.arange(count), np.stack(parts, axis=2)
            return
        lengths = np.minimum(lengths, max_context)
        for length in np.unique(lengths):
            series = np.flatnonzero(lengths == length)
            rows = self.bounds[1:][series, None] - length + np.arange(length)
            yield series, np.stack([self.columns[name][rows] for name in columns], axis=2)

    def named(self, index: int) -> str:
        """Position of a series for a message. Its name is the caller's data and is not repeated."""
        return f"series {index + 1} of {len(self.ids)}"


def repeated(symbols: Sequence[str], times: Places | int) -> Any:
    """Each name repeated `times`, as pandas' text. Arrow makes it in a quarter of the time."""
    rows = np.repeat(np.arange(len(symbols)), times)
    if len(symbols) == 1:
        array = pa.array([*symbols] * len(rows), pa.large_string())
    else:
        array = pa.array(symbols, pa.large_string()).take(pa.array(rows))
    return pd.arrays.ArrowStringArray(array, dtype=TEXT)  # type: ignore[call-arg]


def numeric_columns(frame: pd.DataFrame, spec: ModelSpec) -> list[str]:
    """Numeric columns of a frame that the model uses: required ones, and optional ones present."""
    optional = [name for name in spec.optional if name in frame.columns]
    return [*spec.columns[2:], *optional]


# --- the front door ---------------------------------------------------------------------------


def check_history(frame: Any, spec: ModelSpec) -> History:
    """The checked history of a caller's table.

    Types whose conversion cannot change a value are accepted: whole and nullable numbers, Arrow
    columns, categories of text, dates as objects or ISO text. Raises BadHistory for everything
    else: a missing column, rows out of order, a session twice or on a holiday, numbers that are not
    finite, |y| > 1, too few sessions, only returns of 0, another universe, impossible bars.
    """
    history = _read(frame, spec)
    _check_order(history)
    _check_numbers(history)
    _check_lengths(history, spec)
    _check_moves(history, spec)
    if spec.universe is not None:
        _check_universe(history, spec, spec.universe)
    if spec.joint and len(np.unique(history.cutoffs)) > 1:
        raise BadHistory(
            f"{spec.name} needs one common last session for all series", code="CUTOFFS_DIFFER"
        )
    if set(names.OHLC) <= set(spec.columns):
        bars.check(history.columns, history.ids, history.bounds)
    closed = calendars.not_sessions(spec.calendar, history.ds)
    if closed.size:
        raise BadHistory(calendars.closed_message(spec.calendar, closed), code="NOT_A_SESSION")
    return history


def _read(frame: Any, spec: ModelSpec) -> History:
    """Arrays of a caller's table. Raises BadHistory for a missing column or a wrong type."""
    if not isinstance(frame, pd.DataFrame):
        raise BadHistory(
            f"history must be a table, found {type(frame).__name__}", code="NOT_A_TABLE"
        )
    _check_columns(frame.columns, spec)
    if not len(frame):
        raise BadHistory(
            f"history has no rows; {spec.name} needs {spec.min_context} sessions a series",
            code="EMPTY",
        )
    values = {name: reading.numbers(frame[name]) for name in numeric_columns(frame, spec)}
    symbols = reading.symbols(frame[names.UNIQUE_ID])
    return History._of_runs(symbols, reading.dates(frame[names.DS]), values)


def _check_columns(columns: "pd.Index[str]", spec: ModelSpec) -> None:
    """No required column is missing, and no used column appears twice."""
    missing = [name for name in spec.columns if name not in columns]
    if missing:
        raise BadHistory(
            f"history lacks {', '.join(missing)}; {spec.name} needs {', '.join(spec.columns)}",
            code="MISSING_COLUMN",
        )
    if columns.is_unique:
        return
    used = {*spec.columns, *spec.optional}
    twice = [name for name in columns[columns.duplicated()].unique() if name in used]
    if twice:
        raise BadHistory(f"history has {', '.join(twice)} more than once", code="DUPLICATE_COLUMN")


# --- checks -----------------------------------------------------------------------------------


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


def _check_numbers(history: History) -> None:
    for name, values in history.columns.items():
        finite = np.isfinite(values)
        if not finite.all():
            rows = np.flatnonzero(~finite)
            raise BadHistory(
                f"{name} is not finite in {rows.size} rows, first in row {rows[0]}",
                code="NON_FINITE",
            )
    size = np.abs(history.columns[names.Y])
    if size.max() > MAX_ABS_RETURN:
        rows = np.flatnonzero(size > MAX_ABS_RETURN)
        raise BadHistory(
            f"|y| exceeds {MAX_ABS_RETURN:g} in {rows.size} rows, first in row {rows[0]}; "
            "y is a log return",
            code="BAD_RETURN",
        )


def _check_lengths(history: History, spec: ModelSpec) -> None:
    lengths = history.lengths
    if lengths.min() >= spec.min_context:
        return
    short = np.flatnonzero(lengths < spec.min_context)
    more = f"; {short.size} series are too short" if short.size > 1 else ""
    raise BadHistory(
        f"{history.named(short[0])} has {lengths[short[0]]} sessions, "
        f"{spec.name} needs {spec.min_context}{more}",
        code="TOO_SHORT",
    )


def _check_moves(history: History, spec: ModelSpec) -> None:
    """Each series has a return other than 0 in its last `max_context` sessions."""
    if (history.last(names.Y) != 0).all():
        return
    moves = np.concatenate([[0], np.cumsum(history.columns[names.Y] != 0)])  # moves before each row
    ends = history.bounds[1:]
    starts = np.maximum(history.bounds[:-1], ends - spec.max_context)
    still = np.flatnonzero(moves[ends] == moves[starts])
    if still.size:
        sessions = min(history.lengths[still[0]], spec.max_context)
        raise BadHistory(
            f"{history.named(still[0])} has a return of 0 in each of its last {sessions} sessions; "
            "such a series has no scale to forecast",
            code="CONSTANT",
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
