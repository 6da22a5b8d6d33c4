"""Arrow streams of /forecast: tables that pyarrow writes are read, and it reads the replies."""

import io
import struct
import subprocess
import sys
from datetime import date, datetime
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.codes import CODES
from registry.errors import KronosError
from registry.forecast import names
from serving.gateway import queries, reading
from serving.gateway.arrow import replies
from serving.gateway.arrow.requests import forecast_request
from serving.gateway.bodies import ARROW, JSON, check_headers, wants_arrow
from serving.gateway.reading import ForecastRequest, Limits

SYMBOLS = ["ACME", "ACME", "ACME", "Ö", "BETA", "BETA"]
DAYS = ["2021-01-04", "2021-01-05", "2021-01-06", "2021-01-06", "2021-01-05", "2021-01-06"]
DATES = [date.fromisoformat(day) for day in DAYS]
Y = [0.0123, -0.0456, 0.0789, 0.0, 1e-300, -1.0]
TABLE = {"unique_id": SYMBOLS, "ds": DATES, "y": Y}
SMALL = Limits(rows=12, symbols=3)


def stream(columns: dict[str, Any] | pa.Table, rows: int | None = None, **options: Any) -> bytes:
    """A table as pyarrow writes it, with so many rows in a record batch."""
    table = columns if isinstance(columns, pa.Table) else pa.table(columns)
    out = io.BytesIO()
    written = pa.ipc.IpcWriteOptions(**options)
    with pa.ipc.new_stream(out, table.schema, options=written) as writer:
        writer.write_table(table, max_chunksize=rows)
    return out.getvalue()


def with_column(name: str, values: Any) -> bytes:
    return stream({**TABLE, name: values})


def from_json(columns: dict[str, list[Any]], **parameters: Any) -> ForecastRequest:
    """The request that the batch in JSON makes of the same table."""
    items: dict[str, dict[str, Any]] = {}
    for row, symbol in enumerate(SYMBOLS):
        item = items.setdefault(symbol, {"symbol": symbol})
        for name, values in columns.items():
            target = item
            for key in name.split(".")[:-1]:
                target = target.setdefault(key, {})
            target.setdefault(name.rpartition(".")[2], []).append(values[row])
    value = {"forecasts": list(items.values()), **parameters}
    return reading.forecast_request(msgspec.json.encode(value))


# --- requests ---------------------------------------------------------------------------------

MIDNIGHTS = [datetime.fromisoformat(day) for day in DAYS]
NAMES = [
    pa.array(SYMBOLS),
    pa.array(SYMBOLS, pa.large_utf8()),
    pa.array(SYMBOLS).dictionary_encode(),
    pa.array(SYMBOLS).cast(pa.dictionary(pa.uint8(), pa.large_utf8())),
    pa.DictionaryArray.from_arrays([0, 1, 0, 2, 3, 3], ["ACME", "ACME", "Ö", "BETA"]),
]
SESSIONS = [
    pa.array(DATES),
    pa.array(DATES, pa.date64()),
    *[pa.array(MIDNIGHTS, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")],
    pa.array(DAYS),
    pa.array(DAYS, pa.large_utf8()),
    pa.array([f"{day} 00:00:00" for day in DAYS]),
]


@pytest.mark.parametrize("rows", [1, 2, 4, None])
@pytest.mark.parametrize("symbols", NAMES, ids=lambda array: str(array.type))
def test_a_stream_is_the_same_request_as_the_batch_in_json(symbols: pa.Array, rows: int) -> None:
    body = stream({**TABLE, "unique_id": symbols}, rows)
    assert forecast_request(body, b"") == from_json({"ds": DAYS, "series": Y})


@pytest.mark.parametrize("sessions", SESSIONS, ids=lambda array: str(array.type))
def test_dates_are_read_in_every_form(sessions: pa.Array) -> None:
    request = forecast_request(with_column("ds", sessions), b"")
    assert request == from_json({"ds": DAYS, "series": Y})


@pytest.mark.parametrize(
    "type",
    ["float", "double", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"],
)
def test_numbers_of_every_type_are_read(type: str) -> None:
    values = [0, 1, 2, 3, 100, 101]
    request = forecast_request(with_column("y", pa.array(values, type)), b"")
    assert request == from_json({"ds": DAYS, "series": values})


def test_symbols_may_change_with_the_dictionary() -> None:
    parts = (SYMBOLS[:2], SYMBOLS[2:4], SYMBOLS[4:])
    chunks = [pa.array(part).dictionary_encode() for part in parts]
    body = stream(pa.table({**TABLE, "unique_id": pa.chunked_array(chunks)}))
    assert forecast_request(body, b"") == from_json({"ds": DAYS, "series": Y})


def test_dates_may_be_left_out_and_covariates_added() -> None:
    body = stream({"unique_id": SYMBOLS, "index_return": Y, "news_count": range(6), "y": Y})
    columns = {"series": Y, "features.index_return": Y, "features.news_count": [*range(6)]}
    assert forecast_request(body, b"") == from_json(columns)


def test_bars_are_read_in_place_of_returns() -> None:
    columns = {name: [101.0 + place, *range(1, 6)] for place, name in enumerate(names.BAR)}
    request = forecast_request(stream({"unique_id": SYMBOLS, "ds": DATES, **columns}), b"")
    expected = from_json({"ds": DAYS, **{f"bars.{name}": columns[name] for name in names.BAR}})
    assert request == expected
    assert request.items[0].bars is not None
    assert [(one.symbol, one.code) for one in request.refused] == [("Ö", "TOO_SHORT")]


def test_symbols_alone_ask_for_the_ledgers_histories() -> None:
    body = stream({"unique_id": ["ACME", "BETA", "ACME", None]}, 2)
    request = forecast_request(body, b"model=har&horizon=1,5&data=panel")
    expected = {"model": "har", "horizon": [1, 5], "data": "panel"}
    items = [{"symbol": "ACME"}, {"symbol": "BETA"}, {"symbol": "ACME"}, {"symbol": None}]
    value = {"forecasts": items, **expected}
    assert request == reading.forecast_request(msgspec.json.encode(value))
    codes = [(one.place, one.code) for one in request.refused]
    assert codes == [(3, "DUPLICATE_SYMBOL"), (4, "BAD_SYMBOL")]


def test_series_of_one_day_share_their_dates() -> None:
    columns = {"unique_id": ["A", "A", "B", "B"], "ds": DATES[:2] * 2, "y": Y[:4]}
    first, second = forecast_request(stream(columns), b"").items
    assert first.ds is second.ds


SERIES = st.lists(
    st.tuples(st.text("ABÖ", min_size=1, max_size=4), st.integers(1, 5)),
    min_size=1, max_size=8, unique_by=lambda series: series[0],
)  # fmt: skip


@given(SERIES, st.integers(1, 9), st.booleans(), st.booleans())
def test_series_of_any_lengths_in_batches_of_any_size_are_cut_apart(
    series: list[tuple[str, int]], rows: int, large: bool, coded: bool
) -> None:
    symbols = [symbol for symbol, length in series for _ in range(length)]
    column = pa.array(symbols, pa.large_utf8() if large else pa.utf8())
    column = column.dictionary_encode() if coded else column
    y = np.arange(len(symbols)) / 1000
    request = forecast_request(stream({"unique_id": column, "y": y}, rows), b"")
    assert [(item.symbol, item.rows) for item in request.items] == series
    assert [value for item in request.items for value in item.series or ()] == y.tolist()


# --- refusals ---------------------------------------------------------------------------------

NULL_NUMBER = pa.array([*Y[:4], None, 1.0])
LATE = pa.array([datetime(2021, 1, 4, 16), *MIDNIGHTS[1:]])  # a time of day
AGES = pa.array([2**31 - 1, *range(5)], pa.int32()).cast(pa.date32())
BAD_SERIES: list[tuple[bytes, list[tuple[int, str | None, str]]]] = [
    (with_column("y", NULL_NUMBER), [(3, "BETA", "NON_FINITE")]),
    (with_column("y", [float("nan"), *Y[1:5], float("inf")]),
     [(1, "ACME", "NON_FINITE"), (3, "BETA", "NON_FINITE")]),
    (with_column("news_count", NULL_NUMBER), [(3, "BETA", "NON_FINITE")]),
    (with_column("ds", [*DATES[:4], None, DATES[5]]), [(3, "BETA", "BAD_TIMESTAMP")]),
    (with_column("ds", LATE), [(1, "ACME", "BAD_TIMESTAMP")]),
    (with_column("ds", AGES), [(1, "ACME", "BAD_TIMESTAMP")]),
    (with_column("ds", ["", *DAYS[1:]]), [(1, "ACME", "BAD_TIMESTAMP")]),
    (with_column("ds", [*DAYS[:5], "2021-01-0ö"]), [(3, "BETA", "BAD_TIMESTAMP")]),
    (with_column("ds", [*DAYS[:5], None]), [(3, "BETA", "BAD_TIMESTAMP")]),
    (with_column("ds", [*DATES[:4], DATES[5], DATES[4]]), [(3, "BETA", "UNSORTED")]),
    (with_column("ds", [*DATES[:4], DATES[5], DATES[5]]), [(3, "BETA", "DUPLICATE_SESSION")]),
    (with_column("unique_id", [*SYMBOLS[:4], None, None]), [(3, None, "BAD_SYMBOL")]),
    (with_column("unique_id", pa.array([*SYMBOLS[:4], None, None]).dictionary_encode()),
     [(3, None, "BAD_SYMBOL")]),
    (with_column("unique_id", [*SYMBOLS[:4], "", ""]), [(3, None, "BAD_SYMBOL")]),
    (with_column("unique_id", [*SYMBOLS[:4], "A" * 129, "A" * 129]), [(3, None, "BAD_SYMBOL")]),
    (with_column("unique_id", [*SYMBOLS[:4], "A" * 600, "A" * 600]), [(3, None, "BAD_SYMBOL")]),
    (with_column("unique_id", [*SYMBOLS[:4], "ACME", "ACME"]), [(3, "ACME", "DUPLICATE_SYMBOL")]),
    (with_column("open", Y), [(place, name, "BAD_HISTORY")
                              for place, name in enumerate(["ACME", "Ö", "BETA"], 1)]),
    (stream({"unique_id": ["A"], "ds": DATES[:1]}), [(1, "A", "BAD_HISTORY")]),
    (stream({"unique_id": ["A", "A"], "close": [1.0, 2.0]}), [(1, "A", "MISSING_COLUMN")]),
    (stream({"unique_id": ["A"], "y": [0.1], "a-b": [1]}), [(1, "A", "UNKNOWN_PARAM")]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(BAD_SERIES)))
def test_a_bad_series_is_refused_alone(number: int) -> None:
    body, refused = BAD_SERIES[number]
    request = forecast_request(body, b"")
    assert [(one.place, one.symbol, one.code) for one in request.refused] == refused
    assert len(request.items) == len({*SYMBOLS}) - len(refused) or not request.items


NOT_UTF8 = pa.array([b"\xff\xfe"], pa.binary()).view(pa.utf8())
GOOD = stream(TABLE)
FEATHER = io.BytesIO()
with pa.ipc.new_file(FEATHER, pa.schema([("y", pa.float64())])):
    pass
NESTED = pa.array([[1.0]] * 6)
BAD_TABLES: list[tuple[bytes, str]] = [
    (b"", "NOT_A_TABLE"),
    (b"{}", "NOT_A_TABLE"),
    (b"\xff\xff\xff\xff\x00\x00\x00\x00", "NOT_A_TABLE"),
    (FEATHER.getvalue(), "NOT_A_TABLE"),
    (GOOD[:-8], "NOT_A_TABLE"),  # its end is not marked
    (GOOD + b"\x00" * 8, "NOT_A_TABLE"),
    (GOOD + GOOD, "NOT_A_TABLE"),
    (stream(TABLE, compression="zstd"), "NOT_A_TABLE"),
    (stream(TABLE, compression="lz4"), "NOT_A_TABLE"),
    (stream({"ds": DATES, "y": Y}), "MISSING_COLUMN"),
    (stream(pa.table({})), "MISSING_COLUMN"),
    (stream(pa.table([SYMBOLS, Y, Y], names=["unique_id", "y", "y"])), "DUPLICATE_COLUMN"),
    (stream({"unique_id": pa.array([], pa.utf8())}), "EMPTY"),
    (stream({"unique_id": pa.array([], pa.utf8()), "y": pa.array([], pa.float64())}), "EMPTY"),
    (with_column("unique_id", range(6)), "BAD_SYMBOL"),
    (with_column("unique_id", pa.array(SYMBOLS, pa.string_view())), "BAD_SYMBOL"),
    (with_column("unique_id", pa.array(SYMBOLS, pa.binary())), "BAD_SYMBOL"),
    (with_column("y", [str(y) for y in Y]), "NOT_A_NUMBER"),
    (with_column("y", [True] * 6), "NOT_A_NUMBER"),
    (with_column("y", NESTED), "NOT_A_NUMBER"),
    (with_column("y", pa.nulls(6)), "NOT_A_NUMBER"),
    (with_column("y", pa.array(Y).dictionary_encode()), "NOT_A_NUMBER"),
    (with_column("y", pa.array([1] * 6, pa.decimal128(3))), "NOT_A_NUMBER"),
    (with_column("ds", range(6)), "BAD_TIMESTAMP"),
    (with_column("ds", pa.array(MIDNIGHTS, pa.timestamp("ns", "UTC"))), "BAD_TIMESTAMP"),
    (with_column("ds", pa.array(DAYS).dictionary_encode()), "BAD_TIMESTAMP"),
    (with_column("ds", pa.array(range(6), pa.time32("s"))), "BAD_TIMESTAMP"),
    (stream({f"c{number}": [1.0] for number in range(300)}), "NOT_A_TABLE"),
    (stream({"unique_id": ["A"], "y" * 300: [1.0]}), "NOT_A_TABLE"),
]


@pytest.mark.parametrize("number", range(len(BAD_TABLES)))
def test_a_bad_table_is_refused_with_a_code(number: int) -> None:
    body, code = BAD_TABLES[number]
    assert outcome(body) == code


def test_a_symbol_that_is_not_utf_8_is_refused_alone() -> None:
    request = forecast_request(stream({"unique_id": NOT_UTF8, "y": [0.1]}), b"")
    assert [(one.symbol, one.code) for one in request.refused] == [(None, "BAD_SYMBOL")]


LARGE: list[bytes] = [
    stream({"unique_id": ["A"] * 13}),
    stream({"unique_id": ["A"] * 13, "y": [0.1] * 13}, 1),
    stream({"unique_id": ["A"] * 7, "y": [0.1] * 7, "news_count": [1] * 7}),
    stream({"unique_id": list("ABCD")}),
    stream({"unique_id": list("ABCD"), "y": Y[:4]}, 1),
    stream({"unique_id": list("ABCD"), "y": Y[:4]}),
    stream({"unique_id": ["A", "BB", "C", "DD"], "y": Y[:4]}),
    stream({"unique_id": pa.array(list("ABCD")).dictionary_encode(), "y": Y[:4]}),
]


@pytest.mark.parametrize("number", range(len(LARGE)))
def test_too_many_values_or_series_are_refused(number: int) -> None:
    with pytest.raises(KronosError) as refused:
        forecast_request(LARGE[number], b"", SMALL)
    assert (refused.value.code, refused.value.status) == ("TOO_MANY_ROWS", 413)


def test_too_many_messages_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.gateway.arrow.streams.MOST_CHUNKS", 12)
    forecast_request(stream(TABLE, 2), b"")
    with pytest.raises(KronosError) as refused:
        forecast_request(stream(TABLE, 1), b"")
    assert refused.value.code == "TOO_MANY_ROWS"


# --- any bytes --------------------------------------------------------------------------------

CODED = {**TABLE, "unique_id": pa.array(SYMBOLS).dictionary_encode(), "y": NULL_NUMBER}
STREAMS = [GOOD, stream(CODED, 2), stream({**TABLE, "ds": DAYS}), stream({"unique_id": SYMBOLS})]
NUMBERS = st.sampled_from([0, 1, 7, 8, 255, 2**31 - 1, -1, -8, -(2**31)]).map(
    lambda number: struct.pack("<i", number)
)


def outcome(body: bytes) -> ForecastRequest | str:
    """The request, or the code of the error; both are checked."""
    result = read(body)
    if isinstance(result, KronosError):
        assert result.status < 500
        assert type(result) is CODES[result.code].kind
        return result.code
    assert {one.code for one in result.refused} <= set(CODES)
    return result


def read(body: bytes, query: bytes = b"") -> ForecastRequest | KronosError:
    try:
        return forecast_request(body, query)
    except KronosError as error:
        return error


@given(st.binary())
def test_any_bytes_are_refused(body: bytes) -> None:
    assert isinstance(outcome(body), str)
    assert isinstance(outcome(b"\xff\xff\xff\xff" + body), str)


@pytest.mark.parametrize("body", STREAMS)
def test_a_stream_that_breaks_off_anywhere_is_refused(body: bytes) -> None:
    assert {outcome(body[:size]) for size in range(len(body))} == {"NOT_A_TABLE"}


@pytest.mark.parametrize("body", STREAMS)
def test_any_single_byte_may_be_wrong(body: bytes) -> None:
    for place in range(len(body)):
        for mask in (0x01, 0x80, 0xFF):
            changed = bytearray(body)
            changed[place] ^= mask
            outcome(bytes(changed))


@settings(max_examples=1000)
@given(
    st.sampled_from(STREAMS), st.lists(st.tuples(st.integers(0), NUMBERS | st.binary()), max_size=8)
)
def test_any_bytes_may_be_wrong(body: bytes, changes: list[tuple[int, bytes]]) -> None:
    changed = bytearray(body)
    for place, content in changes:
        start = place % len(body)
        changed[start : start + len(content)] = content
    outcome(bytes(changed))


def test_columns_may_not_share_their_bytes() -> None:
    """Else 64 MiB would become 256 columns of 64 MiB."""
    body = stream({"unique_id": ["A"] * 8, "y": [0.1] * 8, "z": [0.2] * 8})
    y, z = struct.pack("<qq", 48, 64), struct.pack("<qq", 112, 64)
    assert body.count(y) == body.count(z) == 1
    shared = body.replace(z, struct.pack("<qq", 0, 176))
    assert outcome(shared) == "NOT_A_TABLE"


def test_texts_that_end_before_they_begin_are_refused() -> None:
    body = stream({"unique_id": ["AA", "BB", "CC"], "y": Y[:3]})
    offsets = struct.pack("<4i", 0, 2, 4, 6)
    assert body.count(offsets) == 1
    assert outcome(body.replace(offsets, struct.pack("<4i", 0, 5, 4, 6))) == "NOT_A_TABLE"


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compressed_stream_is_refused_before_it_is_unpacked(compression: str) -> None:
    result = read(stream({"unique_id": ["A"] * 4000, "y": [0.1] * 4000}, compression=compression))
    assert isinstance(result, KronosError)
    assert "it is compressed" in result.message


# --- parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (b"", {}),
        (b"model=har&data=panel&freq=1d", {"model": "har", "data": "panel", "freq": "1d"}),
        (b"horizon=5", {"horizon": 5}),
        (b"horizon=1,5", {"horizon": [1, 5]}),
        (b"horizon=5,", {"horizon": [5]}),
        (b"horizon=1%2C5", {"horizon": [1, 5]}),
        (b"horizon=[1]", {"horizon": "[1]"}),
        (b"horizon=", {"horizon": ""}),
        (b"levels=0.05,0.5,0.95", {"levels": [0.05, 0.5, 0.95]}),
        (b"levels=0.5", {"levels": 0.5}),
        (b"levels=a", {"levels": "a"}),
        (b"seed=7&cumulative=true", {"seed": 7, "cumulative": True}),
        (b"seed=null", {"seed": "null"}),
        (b"model=7", {"model": "7"}),
        (b"option.paths=64&option.kind=fast+one&option.full=false",
         {"options": {"paths": 64, "kind": "fast one", "full": False}}),
    ],
)  # fmt: skip
def test_parameters_in_the_query_are_those_of_json(
    query: bytes, parameters: dict[str, Any]
) -> None:
    assert queries.parameters(query) == parameters


@pytest.mark.parametrize(
    ("query", "code"),
    [
        (b"colour=1", "UNKNOWN_PARAM"),
        (b"symbol=ACME", "UNKNOWN_PARAM"),
        (b"options=1", "UNKNOWN_PARAM"),
        (b"option.output=packed", "UNKNOWN_PARAM"),
        (b"option.a%2Fb=1", "UNKNOWN_PARAM"),
        (b"model", "BAD_PARAMETER"),
        (b"model=har&model=har", "BAD_PARAMETER"),
        (b"model=%ff", "BAD_PARAMETER"),
        (b"model=\xff", "BAD_PARAMETER"),
        (b"&".join(b"option.a%d=1" % number for number in range(65)), "BAD_PARAMETER"),
        (b"model=../har", "BAD_MODEL_NAME"),
        (b"horizon=0", "BAD_HORIZON"),
        (b"horizon=", "BAD_HORIZON"),
        (b"horizon=1,1", "BAD_HORIZON"),
        (b"horizon=" + b"[" * 50_000, "BAD_HORIZON"),
        (b"levels=0.9,0.1", "BAD_LEVELS"),
        (b"levels=", "BAD_LEVELS"),
        (b"seed=-1", "BAD_SEED"),
        (b"seed=1e400", "BAD_SEED"),
        (b"cumulative=yes", "BAD_PARAMETER"),
        (b"freq=5min", "NOT_AVAILABLE"),
    ],
)
def test_bad_parameters_are_refused(query: bytes, code: str) -> None:
    result = read(GOOD, query)
    assert isinstance(result, KronosError)
    assert result.code == code


# --- replies ----------------------------------------------------------------------------------

META = {"quantiles": [0.05, 0.5], "model": "har", "ver": 3}
FORECASTS = [
    {
        "symbol": symbol,
        "yhat": {"1": 0.1 + place, "5": 1 / 3},
        "q": {"1": {"p05": -0.1, "p50": 5e-324}, "5": {"p05": -1e300, "p50": 0.2}},
        "meta": {"forecast_id": str(place), "sessions": {"1": "2022-12-29", "5": "2023-01-05"}},
    }
    for place, symbol in enumerate(["Ö", "ACME"])
]
REFUSED = [{"place": 2, "symbol": None, "code": "BAD_SYMBOL", "message": "item 2: ..."}]


def table_of(content: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and metadata of a reply."""
    table = pa.ipc.open_stream(content).read_all()
    return table.to_pylist(), msgspec.json.decode(table.schema.metadata[replies.METADATA])


def test_a_reply_holds_the_numbers_in_a_table_and_the_rest_in_its_metadata() -> None:
    content = {"forecasts": FORECASTS, "refused": REFUSED, "meta": META}
    rows, metadata = table_of(replies.stream(content))
    assert rows == [
        {"unique_id": one["symbol"], "step": int(step), "mean": mean,
         "ds": date.fromisoformat(one["meta"]["sessions"][step]),
         "q0.05": one["q"][step]["p05"], "q0.5": one["q"][step]["p50"]}
        for one in FORECASTS for step, mean in one["yhat"].items()
    ]  # fmt: skip
    assert list(rows[0]) == ["unique_id", "step", "ds", "mean", "q0.05", "q0.5"]
    rest = [{"symbol": one["symbol"], "meta": one["meta"]} for one in FORECASTS]
    assert metadata == {"forecasts": rest, "refused": REFUSED, "meta": META}


def test_a_reply_to_one_symbol_is_a_table_too() -> None:
    one = {**FORECASTS[1], "meta": {**META, **FORECASTS[1]["meta"]}}
    rows, metadata = table_of(replies.stream(one))
    assert [row["step"] for row in rows] == [1, 5]
    assert metadata == {"symbol": "ACME", "meta": one["meta"]}


def test_a_reply_without_forecasts_has_no_rows_and_says_why() -> None:
    content = {"forecasts": [], "refused": REFUSED, "meta": META}
    body = replies.stream(content)
    table = pa.ipc.open_stream(body).read_all()
    types = [pa.utf8(), pa.int32(), pa.date32(), *[pa.float64()] * 3]
    assert (table.num_rows, table.schema.types) == (0, types)
    assert table_of(body)[1] == content


# --- headers and imports ----------------------------------------------------------------------


def test_both_types_of_bodies_are_told_apart() -> None:
    assert check_headers("application/json; charset=utf-8", None) == JSON
    assert check_headers("Application/vnd.apache.arrow.stream", "identity") == ARROW
    with pytest.raises(KronosError) as refused:
        check_headers(ARROW, "gzip")
    assert refused.value.code == "UNSUPPORTED_ENCODING"
    with pytest.raises(KronosError) as refused:
        check_headers("application/vnd.apache.arrow.file", None)
    assert refused.value.code == "UNSUPPORTED_MEDIA_TYPE"


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [(None, False), ("*/*", False), ("application/json", False), (ARROW, True), ("", False),
     (f"application/json;q=0.5, {ARROW.upper()};q=0.9", True), (f"{ARROW}.x", False)],
)  # fmt: skip
def test_a_reply_is_arrow_if_the_header_names_it(accept: str | None, wanted: bool) -> None:
    assert wants_arrow(accept) is wanted


def test_reading_and_writing_import_neither_pandas_nor_pyarrow() -> None:
    program = (
        "import sys; from serving.gateway.arrow import replies, requests;"
        "body = sys.stdin.buffer.read(); assert 'nanoarrow' not in sys.modules;"
        "requests.forecast_request(body, b'');"
        "replies.stream({'forecasts': [], 'meta': {'quantiles': []}});"
        "print({'pandas', 'pyarrow', 'nanoarrow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, input=GOOD, capture_output=True, check=True)
    assert result.stdout == b"{'nanoarrow'}\n"
