"""Prices of a database and of a frame: text, numbers and dates of every type."""

import sqlite3
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa

from jobs.data.sources.source import LONG, ONE, WIDE, Source
from registry.errors import BadConfig, BadHistory, BadInput, KronosError, NotFound

DAY, NEXT = date(2021, 1, 4), date(2021, 1, 5)


@pytest.fixture
def database(in_folder: Path) -> str:
    """An SQLite database with the table `prices`."""
    with sqlite3.connect(in_folder / "x.db") as connection:
        connection.execute("create table prices (day text, code, close, note)")
        rows = [
            ("2021-01-04", 700, 1.5, "%"),
            ("2021-01-04", "NA", "NA", None),
            ("2021-01-05", "B", 2, b"x"),
        ]
        connection.executemany("insert into prices values (?, ?, ?, ?)", rows)
        connection.execute("create view recent as select * from prices where day > '2021-01-04'")
    connection.close()
    return "sqlite:///x.db"


def test_a_table_of_sqlite_is_read_as_text_and_numbers(database, read):
    staged, rows = read(
        "unique_id, ds, close, file, row", kind="sql", location=database, query="prices"
    )
    assert rows == [
        ("700", DAY, 1.5, database, 1),
        ("NA", DAY, None, database, 2),
        ("B", NEXT, 2.0, database, 3),
    ]
    assert staged.layout == LONG
    assert staged.files == (database,)
    assert staged.ignored == ("note",)
    assert staged.missing == {"close": 1}


@pytest.mark.parametrize(
    ("query", "symbols"),
    [
        ("recent", ["B"]),
        ("select * from prices where note = '%' or note like '%:x'", ["700"]),
        ("select 'a:b' || code as symbol, day, y from (select *, 1 as y from prices)",
         ["a:b700", "a:bNA", "a:bB"]),
    ],
)  # fmt: skip
def test_views_and_queries_are_read(query, symbols, database, read):
    _, rows = read("unique_id", kind="sql", location=database, query=query)
    assert [symbol for (symbol,) in rows] == symbols


def test_floats_of_a_database_keep_every_bit(in_folder, read):
    rng = np.random.default_rng(1)
    values = (rng.normal(size=500) * 10.0 ** rng.integers(-300, 300, 500)).tolist()
    with sqlite3.connect(in_folder / "f.db") as connection:
        connection.execute("create table f (ds, y)")
        connection.executemany("insert into f values ('2021-01-04', ?)", [[y] for y in values])
    connection.close()
    _, rows = read("y", kind="sql", location="sqlite:///f.db", query="f", symbol="A")
    assert [y for (y,) in rows] == values


@pytest.mark.parametrize(
    ("location", "query", "kind", "message"),
    [
        ("sqlite:///x.db", "prcies", NotFound,
         "sqlite:///x.db has no table 'prcies'; it has 'prices', 'recent'"),
        ("sqlite:///y.db", "prices", NotFound,
         "sqlite:///y.db does not exist; --from is the URI of a database"),
        ("sqlite:///x.db", "", BadInput,
         "no --query; say what to read: SQL, or the name of a table"),
        ("sqlite:///x.db", "select * form prices", BadConfig,
         "sqlite:///x.db cannot be read: near \"form\": syntax error"),
        ("sqlite:///x.db", "drop table prices", BadConfig,
         "sqlite:///x.db cannot be read: attempt to write a readonly database"),
        ("sqlite:///x.db", "pragma query_only = off", BadInput,
         "--query returns no rows; say a SELECT or the name of a table"),
        ("sqlite:///x.db", "select day, code, close, close from prices", BadHistory,
         "sqlite:///x.db: the query gives the column 'close' twice; name one otherwise"),
        ("sqlite:///x.db", "select * from prices where 1 = 0", BadHistory,
         "sqlite:///x.db has no rows"),
        ("sqlite:///x.db", "select day, code, 'x' as close from prices", BadHistory,
         "sqlite:///x.db, row 1, column 'close': 'x' is no number; "
         "correct it, or leave the cell empty"),
        ("sqlite:///text.db", "prices", BadConfig,
         "sqlite:///text.db cannot be read: file is not a database"),
        ("prices.csv", "prices", BadConfig,
         "--from is not a database URI like sqlite:////srv/kronos/data.db"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("database")
def test_bad_queries_are_refused_in_one_line(location, query, kind, message, read):
    Path("text.db").write_text("no database\n" * 1_000)
    with pytest.raises(kind) as refused:
        read("*", kind="sql", location=location, query=query)
    assert refused.value.message == message
    assert not Path("y.db").exists()


def test_types_of_postgresql_and_its_errors(postgres, read):
    uri = postgres.get_uri()
    engine = sa.create_engine(uri.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.exec_driver_sql(
            'create table "Prices" (day date, at timestamptz, symbol text, '
            "close numeric(10, 3), volume bigint, adj_close real)"
        )
        connection.exec_driver_sql(
            'insert into "Prices" values '
            "('2021-01-04', '2021-01-04 16:00-05', 'A', 1.125, 7, 0.5), "
            "('2021-01-05', '2021-01-05 16:00-05', 'A', null, 9, 'NaN')"
        )
        connection.exec_driver_sql("create sequence counter")
    engine.dispose()
    columns = "unique_id, ds, close, volume, adj_close"
    source = {"kind": "sql", "location": uri, "query": "Prices"}
    try:
        staged, rows = read(columns, **source, mapping={"ds": "at"})
        assert rows == [("A", DAY, 1.125, 7.0, 0.5), ("A", NEXT, None, 9.0, None)]
        assert staged.missing == {"close": 1, "adj_close": 1}
        with pytest.raises(BadConfig, match="read-only transaction"):
            read(columns, kind="sql", location=uri, query="select nextval('counter')")
    finally:
        with engine.begin() as connection:
            connection.exec_driver_sql('drop table "Prices"')
            connection.exec_driver_sql("drop sequence counter")
        engine.dispose()


def test_a_server_that_is_down_is_said_without_its_password(read):
    uri = "postgresql://me:se?cret@127.0.0.1:1/x"
    with pytest.raises(KronosError) as refused:
        read("*", kind="sql", location=uri, query="prices")
    assert refused.value.message.startswith("postgresql://***@127.0.0.1:1/x cannot be read: ")
    assert "cret" not in refused.value.message
    assert "\n" not in refused.value.message
    assert "cret" not in repr(Source(kind="sql", location=uri))


# --- frames


def bars(**columns: Any) -> pd.DataFrame:
    return pd.DataFrame({"Date": [DAY, NEXT], "Close": [1.5, 2.0], **columns})


@pytest.mark.parametrize(
    ("symbols", "expected"),
    [
        (["A", "NA"], ["A", "NA"]),
        ([700, 5], ["700", "5"]),
        ([700, "null"], ["700", "null"]),
        (pd.Categorical(["A", "nan"]), ["A", "nan"]),
        (pd.Categorical([700, 5]), ["700", "5"]),
        (pd.array([700, 5], dtype="Int64"), ["700", "5"]),
    ],
)
def test_symbols_of_a_frame_are_text(symbols, expected, read):
    staged, rows = read("unique_id, ds, row", kind="frame", frame=bars(ticker=symbols))
    assert rows == [(expected[0], DAY, 1), (expected[1], NEXT, 2)]
    assert staged.files == ("the frame",)


@pytest.mark.parametrize(
    "days",
    [
        [DAY, NEXT],
        ["2021-01-04", "2021-01-05"],
        [20210104, 20210105],
        pd.to_datetime(["2021-01-04", "2021-01-05"]),
        pd.to_datetime(["2021-01-04", "2021-01-05"]).tz_localize("Asia/Tokyo"),
        [datetime(2021, 1, 4, 16, tzinfo=UTC), datetime(2021, 1, 5, 16, tzinfo=UTC)],
    ],
)
def test_dates_of_a_frame(days, read):
    _, rows = read("ds", kind="frame", frame=bars(Date=days), symbol="A")
    assert rows == [(DAY,), (NEXT,)]


@pytest.mark.parametrize(
    "closes",
    [
        [1.5, np.nan],
        [Decimal("1.5"), None],
        ["1.5", "NA"],
        pd.array([1.5, None], dtype="Float64"),
        np.array([1.5, np.nan], dtype="float32"),
    ],
)
def test_numbers_of_a_frame(closes, read):
    staged, rows = read("close", kind="frame", frame=bars(Close=closes), symbol="A")
    assert rows == [(1.5,), (None,)]
    assert (staged.layout, staged.missing) == (ONE, {"close": 1})


def test_an_index_of_dates_is_a_column_and_a_count_of_rows_is_none(read):
    days = pd.to_datetime(["2021-01-04", "2021-01-05"])
    wide = pd.DataFrame({"A": [1.0, 2.0], 700: [3.0, np.nan]}, index=days)
    staged, rows = read("unique_id, ds, close", kind="frame", frame=wide)
    assert rows == [("700", DAY, 3.0), ("A", DAY, 1.0), ("A", NEXT, 2.0)]
    assert staged.layout == WIDE


def test_named_levels_of_an_index_are_columns(read):
    frame = bars(ticker=["A", "B"]).set_index(["ticker", "Date"])
    _, rows = read("unique_id, ds, close", kind="frame", frame=frame)
    assert rows == [("A", DAY, 1.5), ("B", NEXT, 2.0)]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (bars(), "the frame: no symbol column and one file: say --symbol"),
        (bars(code=[1.5, 2.5]),
         "the frame: the column 'code' holds DOUBLE, expected text or whole numbers"),
        (bars(code=["A", None]), "the frame, row 2: no symbol"),
        (bars(code=["A", "B"], Close=[True, False]),
         "the frame: the column 'Close' holds BOOLEAN, expected numbers"),
        (bars(code=["A", "B"])[["Date", "Close", "code", "code"]],
         "the frame has the column 'code' twice; rename one"),
        (bars(code=["A", "B"])[:0], "the frame has no rows"),
        (pd.concat({"x": bars()}, axis=1),
         "the frame has columns in 2 levels, expected one; flatten them"),
        (pd.DataFrame(), "the frame has no columns"),
    ],
)  # fmt: skip
def test_bad_frames_are_refused_in_one_line(frame, message, read):
    with pytest.raises(BadHistory) as refused:
        read("*", kind="frame", frame=frame)
    assert refused.value.message == message
