"""The body of a request to /invocations, read without changing a value.

MLflow's own reading casts to the signature's types first: true becomes 1.0, "0.5" becomes 0.5, and
a number in `ds` becomes nanoseconds since 1970. Here every value stays as it was sent, for our
checks.
"""

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pandas as pd
import pyarrow as pa
from pyarrow import csv, parquet

from registry.errors import BadHistory, BadParameter
from registry.forecast import names

FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
SPLIT = {"columns", "data", "index"}
# What pandas and Arrow raise for a body that holds no table.
UNREADABLE = (pa.ArrowException, OSError, TypeError, ValueError, KeyError, OverflowError)

Parts = tuple[Any, Any]  # table and parameters; our checks refuse what is neither


def from_json(body: bytes) -> Parts:
    """Table and parameters of one of MLflow's four forms of JSON."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        raise _no_table("the body is not JSON that can be read") from error
    forms = [form for form in FORMS if isinstance(content, dict) and form in content]
    if len(forms) != 1:
        raise _no_table(f"expected one of {', '.join(FORMS)} in a JSON object")
    if not set(content) <= {forms[0], "params"}:
        raise BadParameter(
            f"the request has keys beside {forms[0]} and params; a parameter belongs into params",
            code="UNKNOWN_PARAM",
        )
    data = content[forms[0]]
    parameters = content.get("params")
    if forms[0] == "dataframe_split":
        return _split(data), parameters
    return table(data), parameters


def _split(data: Any) -> pd.DataFrame:
    if not isinstance(data, dict) or not {"data"} <= set(data) <= SPLIT:
        raise _no_table("expected data and columns in dataframe_split")
    try:
        return pd.DataFrame(data["data"], columns=data.get("columns"))
    except UNREADABLE as error:
        raise _no_table("the rows of dataframe_split do not fit its columns") from error


def table(data: Any) -> pd.DataFrame:
    """Table of records, or of columns by name; a table as it is."""
    if isinstance(data, pd.DataFrame):
        return data
    if not isinstance(data, list | dict):
        raise _no_table(f"expected records or columns, found {type(data).__name__}")
    try:
        return pd.DataFrame(data)
    except UNREADABLE as error:
        raise _no_table("the columns differ in length, or a record is no object") from error


def from_csv(body: bytes) -> Parts:
    """Table of CSV with a header. Names and dates stay text, as 007 and NA; empty is missing."""
    text_columns = {names.UNIQUE_ID: pa.string(), names.DS: pa.string()}
    types = csv.ConvertOptions(column_types=text_columns, null_values=[""])
    one_block = csv.ReadOptions(block_size=len(body) + 1)  # each block would have its own types
    return _arrow_table(lambda: csv.read_csv(BytesIO(body), one_block, None, types), "CSV")


def from_parquet(body: bytes) -> Parts:
    """Table of a Parquet file."""
    return _arrow_table(lambda: parquet.read_table(BytesIO(body)), "Parquet")


def _arrow_table(read: Callable[[], pa.Table], kind: str) -> Parts:
    try:
        return read().to_pandas(), None
    except UNREADABLE as error:
        raise _no_table(f"the body is not {kind} that can be read") from error


def _no_table(reason: str) -> BadHistory:
    return BadHistory(f"the request holds no table: {reason}", code="NOT_A_TABLE")
