"""Parquet files of a user: types of columns, bits of numbers, files that are broken."""

from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from registry.errors import BadHistory

pytestmark = pytest.mark.usefixtures("in_folder")

DAY, NEXT = date(2021, 1, 4), date(2021, 1, 5)
TEXT_FORM = b"date,ticker,close\n2021-01-04,A,1.5\n"


def parquet(name: str, **columns: Any) -> str:
    pq.write_table(pa.table(columns), name)
    return name


def prices(**columns: Any) -> str:
    """A file of two sessions of A."""
    return parquet("p.parquet", **{"date": [DAY, NEXT], "code": ["A", "A"], "y": [1, 2], **columns})


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        (pa.array(["A", "NA"]), ["A", "NA"]),
        (pa.array(["A", "NA"]).dictionary_encode(), ["A", "NA"]),
        (pa.array([700, 5], pa.int32()), ["700", "5"]),
        (pa.array([700, 5], pa.uint64()), ["700", "5"]),
    ],
)
def test_symbols_of_parquet_are_text(symbols, expected, read):
    staged, rows = read("unique_id, row", kind="parquet", location=prices(code=symbols))
    assert rows == [(expected[0], 1), (expected[1], 2)]
    assert staged.delimiters == ()


@pytest.mark.parametrize(
    "days",
    [
        pa.array([DAY, NEXT]),
        pa.array(["2021-01-04", "2021-01-05"]),
        pa.array([20210104, 20210105]),
        pa.array(pd.to_datetime(["2021-01-04", "2021-01-05"])),
        pa.array(pd.to_datetime(["2021-01-04 16:00", "2021-01-05 13:00"])).cast("timestamp[ms]"),
        # Midnight in Tokyo is the day before in UTC.
        pa.array(pd.to_datetime(["2021-01-04", "2021-01-05"]).tz_localize("Asia/Tokyo")),
        pa.array(pd.to_datetime(["2021-01-04", "2021-01-05"]).tz_localize("+09:00")),
        pa.array(pd.to_datetime(["2021-01-04", "2021-01-05"]).tz_localize("-02:30")),
        pa.array(pd.to_datetime(["2021-01-04 16:00", "2021-01-05 16:00"]).tz_localize("UTC")),
    ],
)
def test_dates_of_parquet_are_local_days(days, read):
    _, rows = read("ds", kind="parquet", location=prices(date=days))
    assert rows == [(DAY,), (NEXT,)]


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1.5, float("nan")]),
        pa.array([1.5, None], pa.float32()),
        pa.array(["1.5", "NA"]),
        pa.array([Decimal("1.5"), None], pa.decimal128(10, 1)),
    ],
)
def test_numbers_of_parquet(values, read):
    staged, rows = read("y", kind="parquet", location=prices(y=values))
    assert rows == [(1.5,), (None,)]
    assert staged.missing == {"y": 1}


def test_columns_of_parquet_that_differ_by_case_are_told_apart(read):
    location = parquet("p.parquet", ds=[DAY], code=["A"], close=[1.0], Close=[2.0])
    _, rows = read("close", kind="parquet", location=location, mapping={"close": "Close"})
    assert rows == [(2.0,)]


def test_wide_parquet_keeps_every_bit(read):
    values = np.random.default_rng(1).normal(size=50)
    single = np.float32(values)
    days = pd.date_range("2020-01-01", periods=50)
    location = parquet("p.parquet", ds=days, A=values, B=single)
    _, rows = read("close", kind="parquet", location=location)
    expected = np.column_stack([values, single.astype(float)]).ravel()
    assert [close for (close,) in rows] == expected.tolist()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"code": [1.0]},
         "p.parquet: the column 'code' holds DOUBLE, expected text or whole numbers"),
        ({"close": [True]}, "p.parquet: the column 'close' holds BOOLEAN, expected numbers"),
        ({"ds": [1.5]}, "p.parquet: the column 'ds' holds DOUBLE, expected dates"),
        ({"close": [float("inf")]}, "p.parquet, row 1, column 'close': 'inf' is not finite; "
         "correct it, or leave the cell empty"),
        ({"ds": pa.array([None], pa.date32())}, "p.parquet, row 1, column 'ds': no date"),
    ],
)  # fmt: skip
def test_parquet_columns_of_a_wrong_type_are_refused(columns, message, read):
    location = parquet("p.parquet", **{"ds": [DAY], "code": ["A"], "close": [1.0], **columns})
    with pytest.raises(BadHistory) as refused:
        read(kind="parquet", location=location)
    assert refused.value.message == message


def test_broken_parquet_files_are_refused(read):
    days = pd.date_range("2000-01-01", periods=5_000).repeat(10)
    closes = np.random.default_rng(1).normal(size=50_000)
    content = Path(
        parquet("whole.parquet", ds=days, code=["A"] * 50_000, close=closes)
    ).read_bytes()
    Path("cut.parquet").write_bytes(content[:-20])
    Path("holed.parquet").write_bytes(content[:1_000] + bytes(200_000) + content[201_000:])
    Path("text.parquet").write_bytes(TEXT_FORM)
    for name, reason in {
        "cut": "is no whole Parquet file, its end cannot be read; write it again",
        "text": "is no Parquet file: it begins with b'date'; write it again, or say --source csv",
    }.items():
        with pytest.raises(BadHistory) as refused:
            read(kind="parquet", location=f"{name}.parquet")
        assert refused.value.message == f"{name}.parquet {reason}"
    with pytest.raises(BadHistory) as refused:
        read(kind="parquet", location="holed.parquet")
    assert refused.value.message.startswith("holed.parquet cannot be read: ")
    assert "\n" not in refused.value.message
    assert refused.value.code == "BAD_FILE"
