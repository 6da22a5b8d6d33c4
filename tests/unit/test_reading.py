"""Columns of a caller's table: types that hold the same values, and types that are refused."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pyarrow as pa
import pytest

from registry.errors import BadHistory
from registry.forecast import calendars, names
from registry.forecast.checks import check_history
from registry.forecast.spec import ModelSpec

SPEC = ModelSpec("model", "family", 3, 5, 2, optional=(names.VOLUME,))
Change = Callable[[pd.DataFrame], dict[str, Any]]


def history() -> pd.DataFrame:
    """Two series with names that programs like to take for a number and for a missing value."""
    days = calendars.sessions("XNYS", "2022-12-20", "2022-12-28")
    rows = 2 * len(days)
    return pd.DataFrame(
        {
            names.UNIQUE_ID: np.repeat(["007", "NA"], len(days)),
            names.DS: np.tile(days, 2),
            names.Y: np.linspace(-0.01, 0.02, rows),
            names.VOLUME: np.arange(float(rows)),
        }
    )


def objects(values: Iterable[Any]) -> pd.Series:
    return pd.Series(list(values), dtype=object)


def arrow(values: Iterable[Any], kind: pa.DataType, *, dictionary: bool = False) -> pd.Series:
    array = pa.array(list(values)).cast(kind)
    return pd.Series(
        pd.arrays.ArrowExtensionArray(array.dictionary_encode() if dictionary else array)
    )


def iso(frame: pd.DataFrame) -> pd.Series:
    return frame["ds"].dt.strftime("%Y-%m-%d")


def milliseconds(frame: pd.DataFrame) -> pd.Series:
    """Epoch numbers, as pandas' `to_json` writes dates."""
    return frame["ds"].astype("datetime64[ms]").astype("int64")


SAME: dict[str, Change] = {
    "names as ordered categories": lambda f: {
        "unique_id": pd.Categorical(f["unique_id"], ordered=True)
    },
    "names as nullable text": lambda f: {"unique_id": f["unique_id"].astype("string")},
    "names as NumPy's text": lambda f: {"unique_id": objects(map(np.str_, f["unique_id"]))},
    "names as a view of Arrow": lambda f: {"unique_id": arrow(f["unique_id"], pa.string_view())},
    "volume as whole numbers": lambda f: {"volume": f["volume"].astype("int64")},
    "volume as small whole numbers": lambda f: {"volume": f["volume"].astype("uint8")},
    "volume as nullable whole numbers": lambda f: {"volume": f["volume"].astype("Int64")},
    "volume as Arrow's whole numbers": lambda f: {
        "volume": arrow(f["volume"].astype(int), pa.int32())
    },
    "volume as objects of NumPy": lambda f: {"volume": objects(f["volume"].to_numpy("float32"))},
    "dates as categories": lambda f: {"ds": f["ds"].astype("category")},
    "dates as a dictionary": lambda f: {"ds": arrow(f["ds"].dt.date, pa.date32(), dictionary=True)},
    "dates as Arrow's milliseconds": lambda f: {"ds": arrow(f["ds"].dt.date, pa.date64())},
    "dates as objects of NumPy": lambda f: {"ds": objects(map(np.datetime64, iso(f)))},
    "ISO text as categories": lambda f: {"ds": iso(f).astype("category")},
    "ISO text as a dictionary": lambda f: {"ds": arrow(iso(f), pa.string(), dictionary=True)},
    "ISO text of Arrow": lambda f: {"ds": arrow(iso(f), pa.large_string())},
    "ISO text with midnight": lambda f: {"ds": iso(f) + "T00:00:00.000"},
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_a_type_that_holds_the_same_values_gives_the_same_history(change: Change) -> None:
    frame = history()
    expected = check_history(frame, SPEC)
    checked = check_history(frame.assign(**change(frame)), SPEC)
    assert checked.ids == expected.ids == ("007", "NA")
    npt.assert_array_equal(checked.bounds, expected.bounds)
    npt.assert_array_equal(checked.ds, expected.ds)
    for name, values in expected.columns.items():
        npt.assert_array_equal(checked.columns[name], values)


NUMBERS = "ds holds numbers, and a number is read as nanoseconds; send dates as in 2022-12-28"
NANOSECONDS = (
    "ds lies within 1970-01-01: a number was read as nanoseconds; send dates as in 2022-12-28"
)
NO_DATES = "ds must be tz-naive session dates; send dates as in 2022-12-28"
NO_ISO = "ds holds text that is not an ISO date without a time zone; send dates as in 2022-12-28"
NO_DATE = "ds is missing in some row"
NO_NAME = "unique_id must be text"
REFUSED: dict[str, tuple[Change, str, str]] = {
    "epoch numbers": (lambda f: {"ds": milliseconds(f)}, "BAD_TIMESTAMP", NUMBERS),
    "nullable epoch numbers": (
        lambda f: {"ds": milliseconds(f).astype("Int64")}, "BAD_TIMESTAMP", NUMBERS,
    ),
    "epoch numbers of Arrow": (
        lambda f: {"ds": arrow(milliseconds(f), pa.int64())}, "BAD_TIMESTAMP", NUMBERS,
    ),
    "epoch numbers as objects": (
        lambda f: {"ds": objects(milliseconds(f))}, "BAD_TIMESTAMP", NUMBERS,
    ),
    "epoch numbers as categories": (
        lambda f: {"ds": milliseconds(f).astype("category")}, "BAD_TIMESTAMP", NUMBERS,
    ),
    "epoch numbers as text": (
        lambda f: {"ds": milliseconds(f).astype(str)}, "BAD_TIMESTAMP", NUMBERS,
    ),
    "an epoch number among dates": (
        lambda f: {"ds": objects([*milliseconds(f)[:1], *iso(f)[1:]])}, "BAD_TIMESTAMP", NUMBERS,
    ),
    "epoch numbers that pandas has read": (
        lambda f: {"ds": pd.to_datetime(milliseconds(f))}, "BAD_TIMESTAMP", NANOSECONDS,
    ),
    "Arrow's time zone": (
        lambda f: {"ds": arrow(f["ds"], pa.timestamp("us", "UTC"))}, "BAD_TIMESTAMP", NO_DATES,
    ),
    "ISO text with a time zone": (
        lambda f: {"ds": iso(f) + "T00:00:00Z"}, "BAD_TIMESTAMP", NO_ISO,
    ),
    "truth values as dates": (lambda _: {"ds": True}, "BAD_TIMESTAMP", NO_DATES),
    "periods as dates": (
        lambda f: {"ds": f["ds"].dt.to_period("D")}, "BAD_TIMESTAMP", NO_DATES,
    ),
    "a missing category": (
        lambda f: {"ds": iso(f).where(f.index > 0).astype("category")}, "BAD_TIMESTAMP", NO_DATE,
    ),
    "a missing date object": (
        lambda f: {"ds": objects([None, *f["ds"].dt.date[1:]])}, "BAD_TIMESTAMP", NO_DATE,
    ),
    "names as bytes": (
        lambda f: {"unique_id": objects(map(str.encode, f["unique_id"]))}, "BAD_SYMBOL", NO_NAME,
    ),
    "names as lists": (lambda f: {"unique_id": objects([["A"]] * len(f))}, "BAD_SYMBOL", NO_NAME),
    "categories of numbers": (
        lambda f: {"unique_id": pd.Categorical([7] * len(f))}, "BAD_SYMBOL", NO_NAME,
    ),
    "a missing name as a category": (
        lambda f: {"unique_id": f["unique_id"].where(f.index > 0).astype("category")},
        "BAD_SYMBOL", "unique_id is missing in some row",
    ),
    "truth values": (lambda _: {"y": True}, "NOT_A_NUMBER", "y must be numbers, found bool"),
    "nullable truth values": (
        lambda f: {"y": pd.array([True] * len(f), dtype="boolean")},
        "NOT_A_NUMBER", "y must be numbers, found boolean",
    ),
    "truth values of Arrow": (
        lambda f: {"y": arrow([True] * len(f), pa.bool_())},
        "NOT_A_NUMBER", "y must be numbers, found bool[pyarrow]",
    ),
    "a truth value among numbers": (
        lambda f: {"y": objects([True, *f["y"][1:]])},
        "NOT_A_NUMBER", "y must be numbers, found object",
    ),
    "a truth value of NumPy among numbers": (
        lambda f: {"volume": objects([np.True_, *f["volume"][1:]])},
        "NOT_A_NUMBER", "volume must be numbers, found object",
    ),
    "decimals": (
        lambda f: {"y": objects([Decimal("0.01")] * len(f))},
        "NOT_A_NUMBER", "y must be numbers, found object",
    ),
    "a missing number as an object": (
        lambda f: {"y": objects([None, 0.01] * (len(f) // 2))},
        "NON_FINITE",
        "series 1 of 2 has y that is not finite in 2 of 5 sessions, first on 2022-12-22; "
        "2 series were refused",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "code", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_type_that_holds_something_else_is_refused_with_what_to_send(
    change: Change, code: str, message: str
) -> None:
    frame = history()
    with pytest.raises(BadHistory) as caught:
        check_history(frame.assign(**change(frame)), SPEC)
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize(
    ("closed", "listed"),
    [
        (["2022-12-26"], "2022-12-26"),
        (
            ["2022-12-24", "2022-12-25", "2022-12-26"],
            "2022-12-24, 2022-12-25, 2022-12-26",
        ),
        (
            ["2022-12-10", "2022-12-11", "2022-12-17", "2022-12-18", "2022-12-24", "2022-12-25"],
            "2022-12-10, 2022-12-11, 2022-12-17, 2022-12-18, 2022-12-24 and 1 more",
        ),
    ],
    ids=["one", "three", "six"],
)
def test_dates_that_are_no_sessions_are_listed_with_their_calendar(
    closed: list[str], listed: str
) -> None:
    message = f"series 1 of 1 has dates on which XNYS was closed: {listed}; leave them out"
    days = pd.DatetimeIndex(closed).append(pd.DatetimeIndex(["2022-12-27", "2022-12-28"]))
    frame = pd.DataFrame({"unique_id": "A", "ds": days, "y": 0.01})
    with pytest.raises(BadHistory) as caught:
        check_history(frame, replace(SPEC, max_context=8))
    assert (caught.value.code, caught.value.message) == ("NOT_A_SESSION", message)
