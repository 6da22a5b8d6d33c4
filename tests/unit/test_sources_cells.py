"""Cells of a user's files: symbols are the very text, numbers keep every bit, dates are days."""

import struct
from datetime import date
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from registry.errors import BadHistory

pytestmark = pytest.mark.usefixtures("in_folder")

DAY, NEXT = date(2021, 1, 4), date(2021, 1, 5)


def write(name: str, text: str | bytes) -> str:
    content = text if isinstance(text, bytes) else text.encode()
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)
    return name


SYMBOLS = ["700", "0700.HK", "NA", "null", "nan", "TRUE", "BRK.B", "^GSPC", "1e5", "-", "Ünal", "'"]


def test_symbols_are_the_very_text_of_csv_cells(read):
    lines = "".join(f"2021-01-04,{symbol},1\n" for symbol in SYMBOLS)
    _, rows = read("unique_id", location=write("p.csv", f"ds,code,close\n{lines}"))
    assert [symbol for (symbol,) in rows] == SYMBOLS


def test_symbols_are_the_very_text_of_wide_headers_and_stems(read):
    header = ",".join(SYMBOLS)
    wide = write("wide.csv", f"ds,{header}\n2021-01-04{',1' * len(SYMBOLS)}\n")
    _, rows = read("unique_id", location=wide)
    assert {symbol for (symbol,) in rows} == set(SYMBOLS)
    for symbol in SYMBOLS:
        write(f"stems/{symbol}.csv", "ds,close\n2021-01-04,1\n")
    _, rows = read("unique_id", location="stems")
    assert {symbol for (symbol,) in rows} == set(SYMBOLS)


# What no symbol may hold is refused; every other text must come back as it is.
TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=12)


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(symbols=st.lists(TEXT, min_size=1, max_size=50, unique_by=str.casefold))
def test_any_symbol_comes_back_as_it_is(symbols, read):
    quoted = ['"' + symbol.replace('"', '""') + '"' for symbol in symbols]
    lines = "".join(f"2021-01-04,{symbol},1\n" for symbol in quoted)
    _, rows = read("unique_id", location=write("p.csv", f"ds,symbol,close\n{lines}"))
    assert [symbol for (symbol,) in rows] == symbols


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_any_float_keeps_every_bit(values, read):
    lines = "".join(f"2021-01-04,{value!r}\n" for value in values)
    _, rows = read("y", location=write("p.csv", f"ds,y\n{lines}"), symbol="A")
    assert [struct.pack("d", value) for (value,) in rows] == [
        struct.pack("d", value) for value in values
    ]


@pytest.mark.parametrize(
    ("text", "value"), [("+1.5", 1.5), (" 1e-3 ", 0.001), (".5", 0.5), ("1.", 1.0), ("-0", -0.0)]
)
def test_plain_decimals_and_exponents_are_numbers(text, value, read):
    _, rows = read("y", location=write("p.csv", f"ds,y\n2021-01-04,{text}\n"), symbol="A")
    assert rows == [(value,)]


def test_what_means_no_number_is_counted_as_missing(read):
    cells = ["1", "", "NaN", "nan", "NA", "null", "NULL", "None", "N/A", "-", '""', " "]
    lines = "".join(f"2021-01-04,{cell},2,\n" for cell in cells)
    location = write("p.csv", f"ds,close,volume,sector\n{lines}")
    staged, rows = read("close, sector", location=location, symbol="A")
    assert rows == [(1.0, None)] + [(None, None)] * 11
    assert staged.missing == {"close": 11, "sector": 12}
    assert staged.columns == ("close", "volume")


@pytest.mark.parametrize(
    ("first", "second", "form"),
    [
        ("2021-01-04", "2021-01-05", "YYYY-MM-DD"),
        ("20210104", "20210105", "YYYYMMDD"),
        (" 2021-01-04", "2021-01-05 ", "YYYY-MM-DD"),
        ("2021-01-04 00:00:00", "2021-01-05T00:00", "YYYY-MM-DD hh:mm:ss"),
        ("2021-01-04 13:00:00", "2021-01-05 16:00:00.5", "YYYY-MM-DD hh:mm:ss"),
        # The local date counts, as written.
        ("2021-01-04T16:00-05:00", "2021-01-05 23:59+0900", "YYYY-MM-DD hh:mm:ss with a zone"),
        ("2021-01-04 00:00:00 UTC", "2021-01-05 00:00:00Z", "YYYY-MM-DD hh:mm:ss with a zone"),
        ("2021-01-04 00:00 Asia/Tokyo", "2021-01-05 00:00+09", "YYYY-MM-DD hh:mm:ss with a zone"),
    ],
)
def test_dates_are_the_days_that_are_written(first, second, form, read):
    text = f"Date,Close\n{first},1\n{second},2\n"
    staged, rows = read("ds", location=write("p.csv", text), symbol="A")
    assert rows == [(DAY,), (NEXT,)]
    assert staged.dates == form


HEADER = "date,ticker,close\n"
POINT = "is no plain number; write numbers with a point, as in 1234.56"
EMPTY = "correct it, or leave the cell empty"
ISO = "write ISO dates, as in 2021-03-31"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ('"1.234,56"', f"'1.234,56' {POINT}"),
        ('"1,5"', f"'1,5' {POINT}"),
        ("1 000", f"'1 000' {POINT}"),
        ("1'000", f'"1\'000" {POINT}'),
        ("1_000", f"'1_000' {POINT}"),
        ("$1", f"'$1' is no number; {EMPTY}"),
        ("true", f"'true' is no number; {EMPTY}"),
        ("1\x1b", f"'1\\x1b' is no number; {EMPTY}"),
        ("inf", f"'inf' is not finite; {EMPTY}"),
        ("-1e999", f"'-1e999' is not finite; {EMPTY}"),
    ],
)
def test_what_is_no_number_is_refused(cell, message, read):
    text = f"{HEADER}2021-01-04,A,1\n2021-01-05,A,{cell}\n"
    with pytest.raises(BadHistory) as refused:
        read(location=write("p.csv", text))
    assert refused.value.message == f"p.csv, row 3, column 'close': {message}"
    assert refused.value.code == "NOT_A_NUMBER"


def test_a_decimal_comma_between_semicolons_is_refused(read):
    with pytest.raises(BadHistory) as refused:
        read(location=write("p.csv", "Datum;A;B\n2021-01-04;1;1,5\n"), mapping={"ds": "Datum"})
    assert refused.value.message == f"p.csv, row 2, column 'B': '1,5' {POINT}"


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("03/04/2021", f"'03/04/2021' may begin with the day or the month; {ISO}"),
        ("3.4.21", f"'3.4.21' may begin with the day or the month; {ISO}"),
        ("2021-02-30", f"'2021-02-30' is no date; {ISO}"),
        ("20210230", f"'20210230' is no date; {ISO}"),
        ("2021-01-04 24:00", f"'2021-01-04 24:00' is no date; {ISO}"),
        ("0000-01-01", f"'0000-01-01' is no date; {ISO}"),
        ("44200", f"'44200' is no date; {ISO}"),
        ("4 Jan 2021", f"'4 Jan 2021' is no date; {ISO}"),
        ("", "no date"),
    ],
)
def test_what_is_no_date_is_refused(cell, message, read):
    text = f"{HEADER}2021-01-04,A,1\n{cell},A,1\n"
    with pytest.raises(BadHistory) as refused:
        read(location=write("p.csv", text))
    assert refused.value.message == f"p.csv, row 3, column 'date': {message}"
    assert refused.value.code == "BAD_TIMESTAMP"


@pytest.mark.parametrize(
    ("dates", "message"),
    [
        (["2021-01-04", "2021-01-05", "20210106"],
         "p.csv, row 2 has a date as YYYY-MM-DD, p.csv, row 4 as YYYYMMDD; "
         "write all dates in one form"),
        (["2021-01-04 00:00", "2021-01-05 00:00Z"],
         "p.csv, row 2 has a date as YYYY-MM-DD hh:mm:ss, p.csv, row 3 as "
         "YYYY-MM-DD hh:mm:ss with a zone; write all dates in one form"),
        (["2021-01-04 09:30", "2021-01-04 09:31", "2021-01-04 09:30"],
         "p.csv, row 2 and p.csv, row 3: 'A' has bars at 09:30:00 and 09:31:00 on 2021-01-04; "
         "this is intraday: aggregate to daily bars first"),
    ],
)  # fmt: skip
def test_several_forms_of_dates_and_bars_within_a_day_are_refused(dates, message, read):
    lines = "".join(f"{day},A,1\n" for day in dates)
    with pytest.raises(BadHistory) as refused:
        read(location=write("p.csv", HEADER + lines))
    assert (refused.value.message, refused.value.code) == (message, "BAD_TIMESTAMP")


@pytest.mark.parametrize(
    ("symbol", "message"),
    [
        ("", "no symbol"),
        (" B", "symbol ' B' has blanks around it; remove them"),
        ("  ", "symbol '  ' is blank; write a name"),
        ("B\x07", "symbol 'B\\x07' holds a control character; remove it"),
        ("B" * 65, "a symbol has 65 characters, at most 64 are possible; "
         "it begins with 'BBBBBBBBBBBBBBBBBBBB'"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_symbol_is_refused(symbol, message, read):
    text = f"{HEADER}2021-01-04,A,1\n2021-01-04,{symbol},1\n"
    with pytest.raises(BadHistory) as refused:
        read(location=write("p.csv", text))
    assert (refused.value.message, refused.value.code) == (f"p.csv, row 3: {message}", "BAD_SYMBOL")


def test_symbols_that_differ_by_case_only_are_refused(read):
    lines = "2021-01-04,AA,1\n2021-01-05,AA,1\n2021-01-04,Aa,1\n"
    with pytest.raises(BadHistory) as refused:
        read(location=write("p.csv", HEADER + lines))
    assert refused.value.message == (
        "p.csv, row 2 and p.csv, row 4: symbols 'AA' and 'Aa' differ by case only; "
        "write one symbol one way, or rename one"
    )
