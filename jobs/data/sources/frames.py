"""A frame of pandas, taken over by Arrow."""

import duckdb
import pandas as pd
import pyarrow as pa

from jobs.data.sources.table import Column, Table, as_text, numbered
from registry.errors import BadHistory
from registry.forecast import names

PLACE = "the frame"
FIRST_ROW = 1


def tables(connection: duckdb.DuckDBPyConnection, frame: pd.DataFrame) -> list[Table]:
    """The table of a frame. Its index is a column if it has a name or holds dates.

    Raises BadHistory for columns in several levels or with one name.
    """
    if isinstance(frame.columns, pd.MultiIndex):
        raise BadHistory(
            f"{PLACE} has columns in {frame.columns.nlevels} levels, expected one; flatten them",
            code="MISSING_COLUMN",
        )
    frame = _with_index(frame)
    if frame.columns.empty:
        raise BadHistory(f"{PLACE} has no columns", code="MISSING_COLUMN")
    labels = ["" if label is None else str(label).strip() for label in frame.columns]
    _check_labels(labels)
    arrays = [_array(frame.iloc[:, number]) for number in range(len(labels))]
    cells = pa.table(arrays, names=[f"c{number}" for number in range(len(labels))])
    connection.register("frame_cells", cells)
    relation = f"(SELECT *, '{PLACE}' FROM frame_cells) AS cells({numbered(len(labels))}, file)"
    types = connection.execute("DESCRIBE frame_cells").fetchall()
    columns = [Column(label, row[1], PLACE) for label, row in zip(labels, types, strict=True)]
    return [Table(relation, tuple(columns), (PLACE,))]


def _with_index(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with its index as columns, unless that only counts rows."""
    index = frame.index
    if isinstance(index, pd.DatetimeIndex) and index.name is None:
        return frame.rename_axis(index=names.DS).reset_index()
    if any(label is not None for label in index.names):
        return frame.reset_index()
    return frame


def _check_labels(labels: list[str]) -> None:
    for label in labels:
        if label and labels.count(label) > 1:
            raise BadHistory(
                f"{PLACE} has the column {label[:64]!r} twice; rename one", code="DUPLICATE_COLUMN"
            )


def _array(series: "pd.Series") -> pa.Array:
    """The column for DuckDB: numbers and stamps as they are, the rest as text."""
    if isinstance(series.dtype, pd.CategoricalDtype):
        series = series.astype(series.cat.categories.dtype)
    if isinstance(series.dtype, pd.DatetimeTZDtype):
        series = series.dt.tz_localize(None)  # the local time as written
    kept = pd.api.types.is_numeric_dtype(series) or pd.api.types.is_datetime64_dtype(series)
    if kept:
        return pa.array(series, from_pandas=True)
    if isinstance(series.dtype, pd.StringDtype):
        return pa.array(series, pa.string(), from_pandas=True)
    empty = series.isna()
    texts = []
    for value, is_empty in zip(series, empty, strict=True):
        texts.append(None if is_empty else as_text(value))
    return pa.array(texts, pa.string())
