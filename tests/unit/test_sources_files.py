"""A user's files become rows: layouts, names of columns, files that cannot be read."""

import gzip
from datetime import date
from pathlib import Path

import pytest

from jobs.data.sources.files import stem
from jobs.data.sources.source import BY_FILE, LONG, ONE, WIDE, Staged
from registry.errors import BadHistory, BadInput, BadParameter, NotFound

pytestmark = pytest.mark.usefixtures("in_folder")

DAY, NEXT = date(2021, 1, 4), date(2021, 1, 5)


def write(name: str, text: str | bytes) -> str:
    content = text if isinstance(text, bytes) else text.encode()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)
    return name


LONG_FORM = "date,ticker,close\n2021-01-04,A,1.5\n2021-01-04,B,2\n2021-01-05,A,1.25\n"


def test_long_form_with_guessed_names(read):
    staged, rows = read("unique_id, ds, close, file, row", location=write("p.csv", LONG_FORM))
    assert rows == [
        ("A", DAY, 1.5, "p.csv", 2),
        ("B", DAY, 2.0, "p.csv", 3),
        ("A", NEXT, 1.25, "p.csv", 4),
    ]
    assert staged == Staged(
        columns=("close",),
        files=("p.csv",),
        rows=3,
        mapping={"symbol": "ticker", "ds": "date", "close": "close"},
        guessed=("symbol", "ds", "close"),
        ignored=(),
        layout=LONG,
        missing={},
        dates="YYYY-MM-DD",
        delimiters=(",",),
    )


def test_bars_of_one_stock_with_capitalised_names(read):
    text = (
        ",Date,Open,High,Low,Close,Adj Close,Volume,Dividends,Stock Splits,open_interest\n"
        "0,1986-03-13,1,3,0.5,2,1.9,1000,0,0,7\n"
    )
    columns = "unique_id, ds, open, high, low, close, adj_close, volume, dividend, split"
    staged, rows = read(columns, location=write("msft.csv", text), symbol="MSFT")
    assert rows == [("MSFT", date(1986, 3, 13), 1.0, 3.0, 0.5, 2.0, 1.9, 1000.0, 0.0, 0.0)]
    assert staged.layout == ONE
    assert staged.ignored == ("(no name)", "open_interest")
    assert staged.columns == (
        "open", "high", "low", "close", "adj_close", "volume", "split", "dividend"
    )  # fmt: skip


def test_wide_form_has_one_column_a_symbol(read):
    text = "Date,,VOD.L,700,XYZ\n2021-01-04,0,1.5,,\n2021-01-05,1,1.6,9,\n"
    staged, rows = read("unique_id, ds, close, row", location=write("wide.csv", text))
    assert rows == [("VOD.L", DAY, 1.5, 2), ("700", NEXT, 9.0, 3), ("VOD.L", NEXT, 1.6, 3)]
    assert (staged.layout, staged.rows, staged.missing) == (WIDE, 3, {"close": 3})
    assert staged.ignored == ("(no name)", "XYZ")
    assert staged.mapping == {"ds": "Date"}


def test_cells_of_a_wide_form_can_be_returns(read):
    _, rows = read("y", location=write("wide.csv", "ds,A\n2021-01-04,0.01\n"), cells="y")
    assert rows == [(0.01,)]


def test_wide_form_of_more_symbols_than_one_block(read):
    symbols = [f"S{number}" for number in range(1_100)]
    lines = [",".join(["ds", *symbols])]
    for day in (DAY, NEXT):
        lines.append(",".join([f"{day}", *(f"{number}.5" for number in range(1_100))]))
    staged, rows = read(location=write("wide.csv", "\n".join(lines)))
    assert staged.rows == len(rows) == 2_200
    assert all(close == float(symbol[1:]) + 0.5 for symbol, _, close in rows)


def test_one_file_a_symbol(read):
    write("prices/BRK.B.csv", "Date,Close\n2021-01-04,1\n2021-01-05,2\n")
    write("prices/A.csv.gz", gzip.compress(b"Date,Close\n2021-01-04,3\n"))
    write("prices/.hidden.csv", "nothing")
    write("prices/README.md", "nothing")
    for location in ("prices", "prices/*.csv*"):
        staged, rows = read("unique_id, close, file, row", location=location)
        assert staged.layout == BY_FILE
        assert staged.files == ("prices/A.csv.gz", "prices/BRK.B.csv")
        assert rows == [
            ("A", 3.0, "prices/A.csv.gz", 2),
            ("BRK.B", 1.0, "prices/BRK.B.csv", 2),
            ("BRK.B", 2.0, "prices/BRK.B.csv", 3),
        ]


@pytest.mark.parametrize("name", ["A.csv", "A.CSV.gz", "A.tsv", "A.parquet", "A", "A.gz"])
def test_the_stem_of_a_file_is_its_name_without_suffixes(name):
    assert stem(f"prices.csv/{name}") == "A"


def test_files_may_differ_in_the_order_of_columns_and_in_the_delimiter(read):
    write("a.csv", "date,ticker,close\n2021-01-04,A,1\n")
    write("b.csv", "close;note;ticker;date\n2;x;B;2021-01-04\n")
    write("c.csv", "\ufeffticker\tdate\tclose\nC\t2021-01-04\t3\n")
    staged, rows = read(location=("a.csv", "b.csv", "c.csv"))
    assert rows == [("A", DAY, 1.0), ("B", DAY, 2.0), ("C", DAY, 3.0)]
    assert staged.delimiters == (",", ";", "\t")
    assert staged.ignored == ("note",)


def test_rows_are_numbered_in_every_file_of_a_large_folder(read):
    lines = "".join(f"{number},2021-01-04\n" for number in range(30_000))
    for name in ("B", "A", "C"):
        write(f"many/{name}.csv", f"close,ds\n{lines}")
    _, rows = read("close - row", location="many")
    assert len(rows) == 90_000
    assert set(rows) == {(-2.0,)}


def test_files_whose_last_line_has_no_end_are_named(read):
    write("f/a.csv", LONG_FORM)
    write("f/b.csv", LONG_FORM.rstrip())
    write("f/c.csv.gz", gzip.compress(LONG_FORM[:-2].encode()))
    write("f/d.csv.gz", gzip.compress(LONG_FORM.encode()))
    staged, _ = read(location="f")
    assert staged.unended == ("f/b.csv", "f/c.csv.gz")


KAGGLE = "date,open,close,Name\n2021-01-04,1,2,A\n2021-01-05,2,3,A\n2021-01-04,4,5,B\n"


def test_a_name_is_the_symbol_where_dates_repeat_and_nothing_is_better(read):
    staged, rows = read(location=write("all.csv", KAGGLE))
    assert rows == [("A", DAY, 2.0), ("A", NEXT, 3.0), ("B", DAY, 5.0)]
    assert (staged.layout, staged.guessed[0], staged.ignored) == (LONG, "symbol", ())
    one = write("one/A.csv", KAGGLE.rpartition("2021-01-04")[0])
    write("one/B.csv", KAGGLE.rpartition("2021-01-04")[0])
    assert read(location="one")[0].layout == BY_FILE
    assert read(location=one, symbol="X")[0].ignored == ("Name",)
    with pytest.raises(BadHistory, match="no symbol column and one file: say --symbol"):
        read(location=one)


def test_bulk_files_of_stooq_are_read_as_they_are(read):
    text = (
        "<TICKER>,<PER>,<DATE>,<TIME>,<OPEN>,<HIGH>,<LOW>,<CLOSE>,<VOL>,<OPENINT>\n"
        "AAPL.US,D,20210104,000000,1,3,0.5,2,100,0\n"
    )
    staged, rows = read("unique_id, ds, open, close, volume", location=write("a.txt", text))
    assert rows == [("AAPL.US", DAY, 1.0, 2.0, 100.0)]
    assert staged.ignored == ("<PER>", "<TIME>", "<OPENINT>")


def test_names_of_files_are_no_patterns(read):
    write("a[1]*.csv", "date,close\n2021-01-04,1\n")
    write("a1b.csv", "date,close\n2021-01-04,2\n")
    staged, rows = read(location="a[1]*.csv", symbol="A")
    assert (staged.files, rows) == (("a[1]*.csv",), [("A", DAY, 1.0)])


HEADER = "date,ticker,close\n"
ROW = "2021-01-04,A,1\n"
BAD_FILES = [
    ("", "p.csv is empty; expected a line with the names of the columns"),
    ("\n", "p.csv begins with an empty line; expected a line with the names of the columns"),
    (HEADER, "p.csv has no rows"),
    (HEADER + ROW + "2021-01-0",
     "p.csv, row 3: 1 cells, expected 3 as in the header; is the file cut?"),
    (HEADER + "2021-01-04,A,1,2\n",
     "p.csv, row 2: 4 cells, expected 3 as in the header; quote a cell that holds a delimiter"),
    (HEADER + ROW + "\n" + ROW, "p.csv, row 3: an empty line between others; remove it"),
    (HEADER + '2021-01-04,"A,1\n',
     "p.csv, row 2: a quote that is never closed; close or remove it"),
    (HEADER + ROW + "2021-01-05,A,1\r\n", "p.csv, row 3: cannot be read as CSV; "
     "write all line ends alike, and a quote in a cell as two"),
    ("x" * 200_000, "p.csv, row 1: no line with the names of columns: "
     "field larger than field limit (131072)"),
    (HEADER + "1" * 3_000_000, "p.csv, row 2: a line of more than 2 MB; is its end missing?"),
    ("Price,Close,Low\nTicker,AAPL,AAPL\nDate,,\n2021-01-04,2,1\n",
     "p.csv, row 2: a second header line; tell yfinance multi_level_index=False"),
    (HEADER.encode() + b"2021-01-04,A\xe9,1\n",
     "p.csv, row 2: the byte 0xe9 is not UTF-8; save the file as UTF-8"),
    (HEADER.encode() + "2021-01-04,é,1\n".encode() + b"2021-01-05,\xe9,1\n",
     "p.csv, row 3: the byte 0xe9 is not UTF-8; save the file as UTF-8"),
    (HEADER.encode("utf-16"), "p.csv is UTF-16 text; save the file as UTF-8"),
    (HEADER + ROW + "2021-01-05,A\0,1\n",
     "p.csv, row 3: a NUL byte, which no text file has; write the file again"),
    (b"PAR1", "p.csv is a Parquet file; say --source parquet"),
    (b"PK\x03\x04", "p.csv is a workbook or an archive; save the sheet as CSV"),
    ("date,ticker,close,close\n", "p.csv, row 1: the column 'close' is there twice, "
     "the second time as number 4; rename one"),
    ("ticker,close\nA,1\n",
     "p.csv: no column of dates among 'ticker', 'close'; say --map ds=COLUMN"),
    ("date,ticker,px\n", "p.csv: no column of close, adj_close, y among 'date', 'ticker', 'px'; "
     "say --map close=COLUMN"),
    ("date,LOW,OPEN\n", "p.csv: no column of close, adj_close, y among 'date', 'LOW', 'OPEN'; "
     "say --map close=COLUMN; if each column is a symbol, say --map open=,low="),
    ("date,close\n2021-01-04,1\n", "p.csv: no symbol column and one file: say --symbol"),
    ("date,ticker,close,last\n", "--map is needed: 'close' and 'last' could both be close; "
     "say --map close=close or --map close=last"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD_FILES)
def test_a_bad_file_is_refused_in_one_line(text, message, read):
    with pytest.raises(BadInput) as refused:
        read(location=write("p.csv", text))
    assert refused.value.message == message


def test_ten_thousand_columns_of_a_long_form_are_refused(read):
    names = ",".join(f"x{number}" for number in range(10_000))
    with pytest.raises(BadHistory, match="10003 columns in long form, expected at most 1000"):
        read(location=write("p.csv", f"date,ticker,close,{names}\n"))


def test_bad_lines_far_in_a_large_file_are_named(read):
    lines = "".join(f"2021-01-04,A,{number}\n" for number in range(200_000))
    for line in ("2021-01-04,A\n", "2021-01-04,A,x\n", "2021-01-04,\xe9,1\n"):
        content = f"{HEADER}{lines}{line}{lines}".encode("latin-1")
        with pytest.raises(BadHistory, match=r"p.csv, row 200002[:,]"):
            read(location=write("p.csv", content))


@pytest.mark.parametrize(
    ("files", "location", "message"),
    [
        ({}, "x.csv", "x.csv does not exist; --from is a file, folder or glob"),
        ({}, "a" * 300, f"{'a' * 300} does not exist; --from is a file, folder or glob"),
        ({}, "*.csv", "no file matches *.csv"),
        ({}, "/dev/null", "/dev/null is no regular file; save its content to a file"),
        ({"f/x.txt": ""}, "f", "f has no file that ends in .csv, .tsv, .csv.gz, .tsv.gz"),
        ({"f/a.csv": "", "f/b.parquet": ""}, "f",
         "f holds CSV and Parquet files, such as a.csv and b.parquet; give a glob like f/*.csv"),
        ({"f/a.csv": HEADER, "f/b.csv": "date,ticker\n"}, "f",
         "f/b.csv: no column 'close', which f/a.csv has; give all files the same columns"),
        ({"f/a.csv": "date,ticker\n", "f/b.csv": HEADER}, "f",
         "f/a.csv: no column 'close', which f/b.csv has; give all files the same columns"),
        ({"f/a.csv": HEADER + "2021-01-04,A,1\n", "f/b.csv": HEADER}, "f", "f/b.csv has no rows"),
        ({"f/a/X.csv": "date,close\n", "f/b/X.csv": "date,close\n"}, "f/*/*.csv",
         "f/a/X.csv and f/b/X.csv both stand for symbol 'X'; give each symbol one file"),
        ({"f/a.csv": "date,close\n2021-01-04,1\n", "f/b.csv": "date,close\n20210104,1\n"}, "f",
         "f/a.csv, row 2 has a date as YYYY-MM-DD, f/b.csv, row 2 as YYYYMMDD; "
         "write all dates in one form"),
        ({"x.csv.gz": gzip.compress(LONG_FORM.encode())[:-9]}, "x.csv.gz",
         "x.csv.gz cannot be unpacked: Compressed file ended before the end-of-stream marker was "
         "reached; is the file cut?"),
    ],
)  # fmt: skip
def test_files_that_do_not_go_together_are_refused(files, location, message, read):
    for name, text in files.items():
        write(name, text)
    Path("f").mkdir(exist_ok=True)
    with pytest.raises((BadInput, NotFound)) as refused:
        read(location=location)
    assert refused.value.message == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"kind": "excel"}, "--source 'excel', expected one of csv, parquet, sql, frame"),
        ({"location": ""}, "no --from; say where the prices are"),
        ({"location": ()}, "no --from; say where the prices are"),
        ({"query": "x"}, "--query belongs to --source sql; leave it out"),
        ({"symbol": "A"}, "--symbol 'A' and the symbol column 'ticker'; leave out --symbol, "
         "or say --map symbol="),
        ({"cells": "open"}, "cells are 'open', expected one of close, adj_close, y"),
    ],
)  # fmt: skip
def test_options_that_contradict_each_other_are_refused(source, message, read):
    write("p.csv", LONG_FORM)
    with pytest.raises(BadParameter) as refused:
        read(**{"location": "p.csv", **source})
    assert refused.value.message == message
