"""Histories: returns of series by session, as arrays, and how a caller's table becomes one.

N series lie one after the other, sorted by name, then session. `checks.check_history` checks them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from registry.errors import BadHistory
from registry.forecast import names, reading
from registry.forecast.arrays import Dates, Floats, Places
from registry.forecast.spec import ModelSpec

MAX_ABS_RETURN = 1.0  # a larger log return is a split or a typing error
TEXT = pd.StringDtype(na_value=np.nan)  # pandas' own default for text


@dataclass(frozen=True)
class Refused:
    """A series of a caller's table that is not answered, and why."""

    series: int  # its place in the table, from 1
    unique_id: str
    code: str
    message: str  # does not repeat the table's data


@dataclass(frozen=True)
class History:
    """N series in arrays. Series i has the rows bounds[i] .. bounds[i + 1]."""

    ids: tuple[str, ...]  # [N]
    bounds: Places  # [N + 1]
    ds: Dates  # [rows] sessions, datetime64[D]
    columns: Mapping[str, Floats]  # y and the other columns of the model, each [rows]
    refused: tuple[Refused, ...] = ()  # other series of the table, which failed a check
    notes: Mapping[str, str] = field(default_factory=dict)  # remarks of the checks, for the reply

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

    def recent(self, sessions: int) -> "History":
        """The last `sessions` sessions of each series, or all where it has fewer."""
        if self.lengths.max(initial=0) <= sessions:
            return self
        starts = np.maximum(self.bounds[:-1], self.bounds[1:] - sessions)
        return self.part(np.arange(len(self.ids)), starts, self.bounds[1:])

    def only(self, series: Places) -> "History":
        """These series [n], in this order."""
        return self.part(series, self.bounds[series], self.bounds[series + 1])

    def part(self, series: Places, starts: Places, ends: Places) -> "History":
        """These series [n], each with its rows starts[i] .. ends[i]."""
        lengths = ends - starts
        bounds = np.concatenate([[0], np.cumsum(lengths)])
        rows = np.arange(bounds[-1]) + np.repeat(starts - bounds[:-1], lengths)
        columns = {name: values[rows] for name, values in self.columns.items()}
        ids = tuple(self.ids[i] for i in series)
        return replace(self, ids=ids, bounds=bounds, ds=self.ds[rows], columns=columns)

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


# --- reading ----------------------------------------------------------------------------------


def read_history(frame: Any, spec: ModelSpec) -> History:
    """Arrays of a caller's table. Raises BadHistory for a missing column or a wrong type."""
    if not isinstance(frame, pd.DataFrame):
        raise BadHistory(
            f"history must be a pandas table, found {type(frame).__name__}", code="NOT_A_TABLE"
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
    """The columns have plain names; no required one is missing, and no used one appears twice."""
    if columns.nlevels > 1:
        raise BadHistory(
            "the columns have names of several levels; flatten them to unique_id, ds, y",
            code="NOT_A_TABLE",
        )
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
