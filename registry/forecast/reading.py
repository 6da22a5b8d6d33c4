"""Columns of a caller's table as arrays. Types that hold the values exactly are taken."""

from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from registry.errors import BadHistory
from registry.forecast.arrays import Dates, Floats

# Units in a day.
DAYS = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
NUMBERS = (int, float, np.integer, np.floating)  # NumPy's bool is none of them, Python's is an int
# pandas' names of contents with numbers.
NUMERIC = ("integer", "floating", "mixed-integer-float", "mixed-integer", "decimal")
# What pandas and Arrow raise for a column that they cannot convert.
UNREADABLE = (pa.ArrowException, TypeError, ValueError, NotImplementedError)


# --- names ------------------------------------------------------------------------------------


def symbols(column: pd.Series) -> pa.Array:
    """Names [rows] as Arrow text. Raises BadHistory if one is missing, empty or not text."""
    try:
        array = text(column)
        array.validate(full=True)
    except UNREADABLE as error:  # mixed types, half a character
        raise BadHistory("unique_id must be text", code="BAD_SYMBOL") from error
    if array.null_count:
        raise BadHistory("unique_id is missing in some row", code="BAD_SYMBOL")
    if not (pa.types.is_string(array.type) or pa.types.is_large_string(array.type)):
        raise BadHistory("unique_id must be text", code="BAD_SYMBOL")
    if pc.min(pc.binary_length(array)).as_py() == 0:
        raise BadHistory("unique_id is empty in some row", code="BAD_SYMBOL")
    return array


def text(column: pd.Series) -> pa.Array:
    """Names in one Arrow array. Categories become their names."""
    array = _combined(column)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.large_string()) if pa.types.is_string_view(array.type) else array


def _combined(column: pd.Series) -> pa.Array:
    array = pa.array(column.array)
    return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array


# --- sessions ---------------------------------------------------------------------------------


def dates(column: pd.Series) -> Dates:
    """Sessions [rows] as datetime64[D], from dates in any unambiguous form."""
    if column.array.isna().any():
        raise BadHistory("ds is missing in some row", code="BAD_TIMESTAMP")
    values = _decoded(column)
    try:
        stamps = _stamps(values)
    except UNREADABLE as error:
        raise _no_dates(values) from error
    if stamps.dtype.kind != "M":
        raise _no_dates(values)
    unit, _ = np.datetime_data(stamps.dtype)
    ticks = stamps.view(np.int64)
    days = ticks // DAYS[unit]  # NumPy's casts between units take five times as long
    within_day = days * DAYS[unit] != ticks
    if within_day.any():
        raise _no_midnight(days[within_day])
    return days.view("datetime64[D]")


def _decoded(column: pd.Series) -> pd.Series:
    """Categories become their values."""
    kind = column.dtype
    if isinstance(kind, pd.CategoricalDtype):
        return column.astype(kind.categories.dtype)
    if isinstance(kind, pd.ArrowDtype) and pa.types.is_dictionary(kind.pyarrow_dtype):
        return column.astype(pd.ArrowDtype(kind.pyarrow_dtype.value_type))
    return column


def _stamps(column: pd.Series) -> npt.NDArray[Any]:
    """Arrow dates, date objects and ISO text as datetime64; other columns as they are."""
    kind = column.dtype
    if isinstance(kind, np.dtype) and kind.kind == "M":
        return np.asarray(column.array)
    if isinstance(kind, pd.ArrowDtype) and _is_arrow_date(kind.pyarrow_dtype):
        arrow_dates = _combined(column)
        if pa.types.is_date(arrow_dates.type):  # nanoseconds cannot hold the year 9999
            arrow_dates = arrow_dates.cast(pa.timestamp("s"))
        stamps: npt.NDArray[Any] = arrow_dates.to_numpy(zero_copy_only=False)
        return stamps
    if _holds(column, str, date, np.datetime64) or _is_text(kind):
        return _parsed(column)
    return np.asarray(column.array)


def _is_arrow_date(kind: pa.DataType) -> bool:
    return pa.types.is_date(kind) or (pa.types.is_timestamp(kind) and kind.tz is None)


def _is_text(kind: Any) -> bool:
    return isinstance(kind, pd.StringDtype | pd.ArrowDtype) and kind.type is str


def _parsed(column: pd.Series) -> npt.NDArray[Any]:
    """Dates of ISO text or date objects. The day is required: 2022-12 would be a guess."""
    if column.astype(str).str.len().min() < len("2022-12-28"):
        raise _no_dates(column)
    return pd.to_datetime(column, format="ISO8601").to_numpy()


def _no_dates(column: pd.Series) -> BadHistory:
    """Error for a column that holds no dates."""
    contents = pd.api.types.infer_dtype(column)
    if contents in NUMERIC or column.astype(str).str.isdecimal().all():
        reason = "holds numbers, and a number is read as nanoseconds"
    elif contents == "string":
        reason = "holds text that is not an ISO date without a time zone"
    else:
        reason = "must be tz-naive session dates"
    return BadHistory(f"ds {reason}; send dates as in 2022-12-28", code="BAD_TIMESTAMP")


def _no_midnight(days: npt.NDArray[np.int64]) -> BadHistory:
    """Error for stamps with a time of day; `days` since 1970."""
    message = "ds must be the date of a session at midnight, found a time of day"
    if (days == 0).all():
        message = (
            "ds lies within 1970-01-01: a number was read as nanoseconds; "
            "send dates as in 2022-12-28"
        )
    return BadHistory(message, code="BAD_TIMESTAMP")


# --- numbers ----------------------------------------------------------------------------------


def numbers(column: pd.Series) -> Floats:
    """Numbers [rows] as float64. A missing one becomes NaN, which a later check refuses."""
    if column.dtype.kind not in "iuf" and not _all_numbers(column):
        raise _no_numbers(column)
    try:
        floats: Floats = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except OverflowError as error:  # Python's integers have no limit
        raise BadHistory(
            f"{column.name} holds a number beyond float64", code="NON_FINITE"
        ) from error
    except UNREADABLE as error:
        raise _no_numbers(column) from error
    return floats


def _all_numbers(column: pd.Series) -> bool:
    """Whether an object column holds only numbers and missing ones. True is not a number."""
    present = column.dropna()
    return _holds(present, *NUMBERS) and not any(isinstance(value, bool) for value in present)


def _holds(column: pd.Series, *kinds: type) -> bool:
    """Whether an object column holds only values of these types."""
    return column.dtype == object and all(isinstance(value, kinds) for value in column)


def _no_numbers(column: pd.Series) -> BadHistory:
    return BadHistory(f"{column.name} must be numbers, found {column.dtype}", code="NOT_A_NUMBER")
