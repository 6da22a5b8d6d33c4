"""Bodies of /forecast: what is read, and what is refused with which code."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.codes import CODES
from registry.errors import KronosError
from serving.gateway.bodies import check_headers, document
from serving.gateway.items import Item
from serving.gateway.reading import BATCH, SINGLE, ForecastRequest, Limits, forecast_request

SERIES = [0.0123, -0.0456, 0.0789]
DAYS = ["2021-01-04", "2021-01-05", "2021-01-06"]
BARS = {
    "open": [101.25, 102.25, 103.25],
    "high": [111.25, 112.25, 113.25],
    "low": [91.25, 92.25, 93.25],
    "close": [105.25, 106.25, 107.25],
}
SMALL = Limits(rows=6, symbols=4, depth=32)


def sent(**keys: Any) -> bytes:
    """A body with a symbol, a series and these keys; a key that is ... is left out."""
    value = {"symbol": "ACME", "series": SERIES, **keys}
    return encoded({key: part for key, part in value.items() if part is not ...})


def batch(*items: Any, **keys: Any) -> bytes:
    return encoded({"forecasts": list(items), **keys})


def encoded(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def with_series(text: bytes) -> bytes:
    """A body whose series holds this text."""
    return b'{"symbol": "ACME", "series": [0.0123, ' + text + b"]}"


def bars(**columns: Any) -> bytes:
    """A body with bars; a column that is ... is left out."""
    value = {name: column for name, column in {**BARS, **columns}.items() if column is not ...}
    return sent(series=..., bars=value)


BAD = [
    # --- no JSON object
    (b"", "MALFORMED_JSON"),
    (b" ", "MALFORMED_JSON"),
    (b"null", "MALFORMED_JSON"),
    (b"[]", "MALFORMED_JSON"),
    (b'"ACME"', "MALFORMED_JSON"),
    (b"17.25", "MALFORMED_JSON"),
    (b'{"symbol": "ACME"', "MALFORMED_JSON"),
    (b"{'symbol': 'ACME'}", "MALFORMED_JSON"),
    (b'{"symbol": "ACME",}', "MALFORMED_JSON"),
    (b'{"symbol": "ACME"} {}', "MALFORMED_JSON"),
    (b'{"symbol": "AC\x00ME"}', "MALFORMED_JSON"),
    (b'{"symbol": "AC\xffME"}', "MALFORMED_JSON"),
    (b'{"symbol": "AC\xed\xa0\x80ME"}', "MALFORMED_JSON"),
    (b'\xef\xbb\xbf{"symbol": "ACME"}', "MALFORMED_JSON"),
    ('{"symbol": "ACME"}'.encode("utf-16"), "MALFORMED_JSON"),
    (with_series(b"012.5"), "MALFORMED_JSON"),
    (with_series(b"+12.5"), "MALFORMED_JSON"),
    # --- a key twice
    (b'{"symbol": "ACME", "symbol": "ACME"}', "DUPLICATE_KEY"),
    (b'{"symbol": "ACME", "s\\u0079mbol": "ACME"}', "DUPLICATE_KEY"),
    (b'{"symbol": "ACME", "options": {"paths": 250, "paths": 250}}', "DUPLICATE_KEY"),
    (b'{"forecasts": [{"symbol": "ACME"}, {"symbol": "EMCA", "symbol": ""}]}', "DUPLICATE_KEY"),
    (b'{"symbol": "ACME", "series": [NaN], "series": [17.25]}', "DUPLICATE_KEY"),
    # --- too deep, too long
    (b"[" * 100_000, "JSON_TOO_DEEP"),
    (b'{"symbol":' * 100_000, "JSON_TOO_DEEP"),
    (with_series(b"[" * 31 + b"]" * 31), "JSON_TOO_DEEP"),
    (with_series(b"\\" + b"[" * 100_000), "MALFORMED_JSON"),
    (b'{"symbol": "\\u0041", "series": ' + b"[" * 100_000, "JSON_TOO_DEEP"),
    (with_series(b"1" * 4301), "NUMBER_TOO_LARGE"),
    (with_series(b"-" + b"1" * 4301), "NUMBER_TOO_LARGE"),
    (b'{"symbol": "ACME", "horizon": ' + b"1" * 100_000 + b"}", "NUMBER_TOO_LARGE"),
    # --- keys
    (sent(horizont=5), "UNKNOWN_PARAM"),
    (sent(output="packed"), "UNKNOWN_PARAM"),
    (sent(forecast=[]), "UNKNOWN_PARAM"),
    (sent(**{"\u202e": "ACME"}), "UNKNOWN_PARAM"),
    (batch({"symbol": "ACME"}, symbol="ACME"), "UNKNOWN_PARAM"),
    # --- symbol
    (b"{}", "BAD_SYMBOL"),
    (sent(symbol=""), "BAD_SYMBOL"),
    (sent(symbol=None), "BAD_SYMBOL"),
    (sent(symbol=1234), "BAD_SYMBOL"),
    (sent(symbol=["ACME"]), "BAD_SYMBOL"),
    (sent(symbol="   "), "BAD_SYMBOL"),
    (sent(symbol="ACME "), "BAD_SYMBOL"),
    (sent(symbol="A" * 129), "BAD_SYMBOL"),
    (sent(symbol="A" * 10_000), "BAD_SYMBOL"),
    (sent(symbol="AC\nME"), "BAD_SYMBOL"),
    (sent(symbol="AC\u202eME"), "BAD_SYMBOL"),
    (b'{"symbol": "AC\\u0000ME"}', "BAD_SYMBOL"),
    (b'{"symbol": "AC\\ud800ME"}', "BAD_SYMBOL"),
    # --- series
    (sent(series=[]), "EMPTY"),
    (sent(series=None), "NOT_A_NUMBER"),
    (sent(series=17.25), "NOT_A_NUMBER"),
    (sent(series="17.25"), "NOT_A_NUMBER"),
    (sent(series={"1": 17.25}), "NOT_A_NUMBER"),
    (sent(series=[17.25, "17.25"]), "NOT_A_NUMBER"),
    (sent(series=["17.25", None]), "NOT_A_NUMBER"),
    (sent(series=[17.25, True]), "NOT_A_NUMBER"),
    (sent(series=[17.25, [17.25]]), "NOT_A_NUMBER"),
    (sent(series=[17.25, {}]), "NOT_A_NUMBER"),
    (sent(series=[17.25, None]), "NON_FINITE"),
    (sent(series=[17.25, math.nan]), "NON_FINITE"),
    (sent(series=[17.25, math.inf]), "NON_FINITE"),
    (sent(series=[17.25, -math.inf]), "NON_FINITE"),
    (with_series(b"1e400"), "NON_FINITE"),
    (with_series(b"1" * 400), "NON_FINITE"),
    (sent(series=[0.0123] * 7), "TOO_MANY_ROWS"),
    # --- sessions
    (sent(ds=None), "BAD_TIMESTAMP"),
    (sent(ds="2021-01-04"), "BAD_TIMESTAMP"),
    (sent(ds=[20210104, 20210105, 20210106]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], None]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], ["2021-01-06"]]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], ""]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "2021-02-30"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "20210106"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "2021-W01-6"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "2021-01-06T15:30:00"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "2021-01-06Z"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "2021-01-06\n"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "2021-01-06 2021-01-07"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "99999-01-01"]), "BAD_TIMESTAMP"),
    (sent(ds=[*DAYS[:2], "٢٠٢١-01-06"]), "BAD_TIMESTAMP"),
    (b'{"symbol": "ACME", "series": [0.0123], "ds": ["\\ud800"]}', "BAD_TIMESTAMP"),
    (sent(ds=DAYS[::-1]), "UNSORTED"),
    (sent(ds=[DAYS[0], DAYS[2], DAYS[0]]), "UNSORTED"),
    (sent(ds=[DAYS[0], DAYS[1], DAYS[1]]), "DUPLICATE_SESSION"),
    (sent(ds=DAYS[:2]), "BAD_HISTORY"),
    (sent(ds=[*DAYS, "2021-01-07"]), "BAD_HISTORY"),
    (sent(series=..., ds=DAYS), "BAD_HISTORY"),
    # --- bars
    (sent(bars=BARS), "BAD_HISTORY"),
    (sent(series=..., bars=None), "NOT_A_TABLE"),
    (sent(series=..., bars=[BARS]), "NOT_A_TABLE"),
    (bars(close=...), "MISSING_COLUMN"),
    (bars(vwap=[17.25]), "UNKNOWN_PARAM"),
    (bars(close=BARS["close"][:2]), "BAD_HISTORY"),
    (bars(volume=[17.25]), "BAD_HISTORY"),
    (bars(close=[]), "EMPTY"),
    (bars(close=None), "NOT_A_NUMBER"),
    (bars(low=[17.25, None, 17.25]), "NON_FINITE"),
    (bars(open=[17.5], high=[17.75], low=[17.25], close=[17.5]), "TOO_SHORT"),
    (bars(**{name: [17.25] * 7 for name in BARS}), "TOO_MANY_ROWS"),
    # --- features
    (sent(features=None), "NOT_A_TABLE"),
    (sent(features=[17.25]), "NOT_A_TABLE"),
    (sent(features={"news_count": [17.25]}), "BAD_HISTORY"),
    (sent(series=..., features={"news_count": [17.25]}), "BAD_HISTORY"),
    (sent(features={"news_count": 17.25}), "NOT_A_NUMBER"),
    (sent(features={"news_count": [17.25, "17.25", 17.25]}), "NOT_A_NUMBER"),
    (sent(features={"news_count": [17.25, None, 17.25]}), "NON_FINITE"),
    (sent(features={"news_count": []}), "EMPTY"),
    (sent(features={"": SERIES}), "UNKNOWN_PARAM"),
    (sent(features={"a\u202eb": SERIES}), "UNKNOWN_PARAM"),
    (sent(features={"y": SERIES}), "DUPLICATE_COLUMN"),
    (sent(features={"ds": SERIES}), "DUPLICATE_COLUMN"),
    (sent(series=..., bars=BARS, features={"close": BARS["close"]}), "DUPLICATE_COLUMN"),
    # --- horizon
    *((sent(horizon=one), "BAD_HORIZON") for one in (None, "x", "5", True, [], {}, [[17]])),
    *((sent(horizon=one), "BAD_HORIZON") for one in (0, -17, 2.75, 61, 1e9, -1e18, 10**400)),
    *((sent(horizon=one), "BAD_HORIZON") for one in ([17, 17], [17, 17.0], [0, 17], [17, 61])),
    *((sent(horizon=one), "BAD_HORIZON") for one in ([True], ["17"], [None], math.nan, math.inf)),
    # --- other parameters
    *((sent(seed=one), "BAD_SEED") for one in (None, "x", True, -17, 2.75, 2**63, [17], math.nan)),
    *((sent(levels=one), "BAD_LEVELS") for one in (None, "x", True, [], {}, 17.25, -17.25, [0])),
    *(
        (sent(levels=one), "BAD_LEVELS")
        for one in ([0.777, 0.123], [0.123, 0.123], [1], ["x"], [0.1, 0.10000001])
    ),
    *((sent(levels=one), "BAD_LEVELS") for one in ([math.nan], [None], [10**400], [True])),
    (sent(levels=[place / 1001 for place in range(1, 101)]), "BAD_LEVELS"),
    *((sent(freq=one), "NOT_AVAILABLE") for one in ("1h", "D", "", "1D", "5min")),
    *((sent(freq=one), "BAD_PARAMETER") for one in (None, 17, True, ["7d"])),
    *((sent(data=one), "BAD_PARAMETER") for one in (None, "", "A", "../x", "a" * 65, 17, ["x"])),
    *((sent(model=one), "BAD_MODEL_NAME") for one in (None, "", "../x", "a/b", "%2e%2e", 17)),
    *((sent(model=one), "BAD_MODEL_NAME") for one in ("models:/x", "file:///x", "har\n", ["har"])),
    *((sent(cumulative=one), "BAD_PARAMETER") for one in (None, "yes", 17, 1, [True])),
    *((sent(options=one), "BAD_OPTION") for one in (None, "x", [17], {"paths": None})),
    *((sent(options={"paths": one}), "BAD_OPTION") for one in ([17], {}, math.nan, 10**400)),
    (sent(options={"paths": "a\x00b"}), "BAD_OPTION"),
    (sent(options={"": 17}), "UNKNOWN_PARAM"),
    (sent(options={"output": "packed"}), "UNKNOWN_PARAM"),
    (sent(options={"horizon": 17}), "UNKNOWN_PARAM"),
    # --- a batch as a whole
    (batch(), "EMPTY"),
    (sent(symbol=..., series=..., forecasts=None), "NOT_A_TABLE"),
    (sent(symbol=..., series=..., forecasts={"symbol": "ACME"}), "NOT_A_TABLE"),
    (batch({"symbol": "ACME"}, horizon=0), "BAD_HORIZON"),
    (batch(*[{"symbol": "ACME"}] * 5), "TOO_MANY_ROWS"),
    (
        batch(*({"symbol": symbol, "series": SERIES} for symbol in ("ACME", "EMCA", "MECA"))),
        "TOO_MANY_ROWS",
    ),
]


NO_VALUES = ("None", "True", "False", "nan", "inf", "-inf")  # words of any message


def leaves(value: Any) -> Iterator[str]:
    """Texts and finite numbers of a JSON value that are long enough to be recognised."""
    if isinstance(value, dict | list):
        for child in value.values() if isinstance(value, dict) else value:
            yield from leaves(child)
    elif len(str(value)) > 1 and str(value) not in NO_VALUES:
        yield str(value)


def refusal(body: bytes) -> KronosError:
    with pytest.raises(KronosError) as refused:
        forecast_request(body, SMALL)
    return refused.value


@pytest.mark.parametrize(("body", "code"), BAD, ids=range(len(BAD)))
def test_a_bad_body_has_its_code(body: bytes, code: str) -> None:
    error = refusal(body)
    assert error.code == code, error.message
    assert type(error) is CODES[code].kind
    assert error.status < 500


@pytest.mark.parametrize(("body", "code"), BAD, ids=range(len(BAD)))
def test_no_message_repeats_what_was_sent(body: bytes, code: str) -> None:
    message = refusal(body).message
    assert message.isprintable()
    assert len(message) < 300
    if code in ("MALFORMED_JSON", "JSON_TOO_DEEP", "NUMBER_TOO_LARGE", "DUPLICATE_KEY"):
        assert not {"ACME", "17.25", "paths", "1111"} & set(message.replace(",", " ").split())
        return
    for leaf in leaves(json.loads(body)):
        assert leaf not in message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (sent(horizont=5), "a request does not have horizont; it has symbol, series, ds, bars, "),
        (sent(series=[17.25, None]), "series: value 2 of 2 is null; leave the session out"),
        (sent(ds=DAYS[:2]), "ds has 2 dates, expected one for each of 3 values"),
        (bars(close=...), "bars: close missing"),
        (b'{"symbol": "A",\n"seed": }', "the body is no JSON: it breaks off or goes wrong at "
         "line 2, column 9"),
    ],
)  # fmt: skip
def test_a_message_names_key_and_place(body: bytes, message: str) -> None:
    assert refusal(body).message.startswith(message)


# --- what is read -----------------------------------------------------------------------------


def test_a_symbol_alone_is_a_request() -> None:
    request = forecast_request(b'{"symbol": "ACME"}')
    assert request == ForecastRequest(items=[Item(symbol="ACME")])
    assert (request.steps, request.levels, request.batch) == (None, None, False)


def test_every_key_is_read() -> None:
    body = sent(
        ds=DAYS, model="har", horizon=[5, 1], data="mystocks", freq="1d", levels=[0.123, 0.5],
        seed=17, options={"paths": 100, "kind": "x", "fast": True}, cumulative=True,
        features={"news_count": [0, 2, 1]},
    )  # fmt: skip
    item = Item(symbol="ACME", series=SERIES, ds=DAYS, features={"news_count": [0.0, 2.0, 1.0]})
    assert forecast_request(body) == ForecastRequest(
        items=[item], model="har", steps=(1, 5), data="mystocks", levels=(0.123, 0.5), seed=17,
        options={"paths": 100, "kind": "x", "fast": True}, cumulative=True,
    )  # fmt: skip


def test_bars_are_read_in_their_usual_order_with_a_date_and_a_feature_for_each() -> None:
    columns = {"volume": [10, 20, 30], **BARS}
    features = {"news_count": [0, 2, 1]}
    (item,) = forecast_request(sent(series=..., bars=columns, ds=DAYS, features=features)).items
    assert item.bars == {**BARS, "volume": [10.0, 20.0, 30.0]}
    assert list(item.bars) == ["open", "high", "low", "close", "volume"]
    assert (item.rows, item.ds, item.series) == (3, DAYS, None)


@pytest.mark.parametrize(
    ("horizon", "steps"),
    [(1, (1,)), (3, (1, 2, 3)), (3.0, (1, 2, 3)), ([3], (3,)), ([60, 2, 5.0], (2, 5, 60))],
)
def test_a_number_asks_for_all_steps_up_to_it_and_a_list_for_its_own(horizon, steps) -> None:
    assert forecast_request(sent(horizon=horizon)).steps == steps


def test_whole_numbers_become_floats_and_a_single_level_a_list() -> None:
    request = forecast_request(sent(series=[0, -1, 10**300], levels=0.5))
    assert request.items[0].series == [0.0, -1.0, 1e300]
    assert all(type(value) is float for value in request.items[0].series)
    assert request.levels == (0.5,)


@pytest.mark.parametrize(
    "symbol",
    ["700", "0700.HK", "BRK.B", "^GSPC", "Ünal", "'", "A[B", '{"', "A B", "日本", "A" * 128],
)
@pytest.mark.parametrize("escaped", [True, False])
def test_symbols_of_own_data_are_read_as_they_are(symbol: str, escaped: bool) -> None:
    body = json.dumps({"symbol": symbol, "series": SERIES}, ensure_ascii=escaped).encode()
    assert forecast_request(body).items[0].symbol == symbol


# --- batches ----------------------------------------------------------------------------------


def test_bad_items_of_a_batch_are_refused_alone() -> None:
    request = forecast_request(
        batch(
            {"symbol": "ACME", "series": SERIES},
            {"symbol": "EMCA", "series": [0.0123, None]},
            {"symbol": "", "series": SERIES},
            17,
            {"symbol": "ACME"},
            {"symbol": "MECA", "horizon": 5},
            {"symbol": "CAME"},
            horizon=5,
        )
    )
    assert [item.symbol for item in request.items] == ["ACME", "CAME"]
    assert request.batch
    assert request.steps == (1, 2, 3, 4, 5)
    refused = [(one.place, one.symbol, one.code) for one in request.refused]
    assert refused == [
        (2, "EMCA", "NON_FINITE"),
        (3, None, "BAD_SYMBOL"),
        (4, None, "NOT_A_TABLE"),
        (5, "ACME", "DUPLICATE_SYMBOL"),
        (6, "MECA", "UNKNOWN_PARAM"),
    ]
    first = request.refused[0].message
    assert first == "item 2: series: value 2 of 2 is null; leave the session out"
    assert all(one.message.startswith(f"item {one.place}: ") for one in request.refused)


@pytest.mark.parametrize("number", [b"NaN", b"1e400", b"1" * 400, b"null", b"-Infinity"])
def test_a_number_that_is_none_refuses_its_item_only(number: bytes) -> None:
    body = b'{"forecasts": [{"symbol": "A", "series": [%b]}, {"symbol": "B"}]}' % number
    request = forecast_request(body)
    assert [item.symbol for item in request.items] == ["B"]
    assert [one.code for one in request.refused] == ["NON_FINITE"]


def test_a_batch_of_bad_items_only_has_no_items() -> None:
    request = forecast_request(batch({}, None))
    assert (request.items, len(request.refused)) == ([], 2)


def test_items_with_equal_dates_share_them_and_others_are_checked() -> None:
    later = ["2021-01-05", "2021-01-06", "2021-01-07"]
    dates = [DAYS, DAYS, later, DAYS[::-1]]
    items = [{"symbol": f"S{place}", "series": SERIES, "ds": ds} for place, ds in enumerate(dates)]
    request = forecast_request(batch(*items))
    first, second, third = (item.ds for item in request.items)
    assert first is second
    assert (first, third) == (DAYS, later)
    assert [one.code for one in request.refused] == ["UNSORTED"]


@pytest.mark.parametrize("suffix", ["T00:00:00", " 00:00:00", "T00:00:00.000"])
def test_sessions_may_be_timestamps_at_midnight(suffix: str) -> None:
    (item,) = forecast_request(sent(series=SERIES, ds=[f"{day}{suffix}" for day in DAYS])).items
    assert item.ds == DAYS


def test_a_large_batch_is_within_the_limits() -> None:
    series = b"0.5," * 599 + b"0.5"
    items = (b'{"symbol": "S%d", "series": [%b]}' % (place, series) for place in range(5_000))
    request = forecast_request(b'{"forecasts": [' + b",".join(items) + b"]}")
    assert sum(item.rows for item in request.items) == 3_000_000


# --- any body ---------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.sampled_from(DAYS)
)
VALUES = st.recursive(
    SCALARS,
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=12,
)
REQUESTS = st.dictionaries(st.sampled_from([*SINGLE, "forecasts"]), VALUES)
BATCHES = st.fixed_dictionaries(
    {"forecasts": st.lists(REQUESTS | VALUES)}, optional=dict.fromkeys(BATCH[1:], VALUES)
)
GOOD = {
    "series": st.lists(st.floats(), min_size=1),
    "ds": st.lists(st.dates().map(str)),
    "horizon": st.integers(1, 60),
}
NEARLY = st.fixed_dictionaries({"symbol": st.text(min_size=1)}, optional=GOOD)


def outcome(body: bytes) -> ForecastRequest | str:
    """The request, or the code of the error; both are checked."""
    result = read(body)
    if isinstance(result, KronosError):
        assert result.status < 500
        assert type(result) is CODES[result.code].kind
        return result.code
    assert {one.code for one in result.refused} <= set(CODES)
    return result


def read(body: bytes) -> ForecastRequest | KronosError:
    try:
        return forecast_request(body)
    except KronosError as error:
        return error


@given(st.binary())
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    outcome(body)


@given(VALUES | REQUESTS | BATCHES | NEARLY)
def test_any_json_is_read_or_refused_alike_with_and_without_escapes(value: Any) -> None:
    """Escapes take another decoder."""
    plain = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    escape = b', "mod\\u0065l": "har"}'
    if isinstance(value, dict) and value and "model" not in value:
        plain_with = plain[:-1] + b', "model": "har"}'
        assert outcome(plain[:-1] + escape) == outcome(plain_with)
    outcome(plain)


PAIRS = st.lists(st.tuples(st.sampled_from("abcd:,"), SCALARS | st.lists(st.text())), max_size=5)


@given(PAIRS, PAIRS)
def test_exactly_a_key_twice_is_a_duplicate(outer: list, inner: list) -> None:
    def written(pairs: list) -> str:
        parts = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
        return "{" + ", ".join(parts) + "}"

    body = written(outer)[:-1] + (", " if outer else "") + f'"inner": [{written(inner)}]}}'
    twice = any(len(dict(pairs)) < len(pairs) for pairs in (outer, inner))
    if not twice:
        assert document(body.encode(), 32).keys() == {*dict(outer), "inner"}
        return
    with pytest.raises(KronosError) as refused:
        document(body.encode(), 32)
    assert refused.value.code == "DUPLICATE_KEY"


@pytest.mark.parametrize("depth", [1, 2, 31, 32, 33, 500])
def test_depth_is_limited_for_lists_and_objects(depth: int) -> None:
    for body in (
        b'{"a":' * depth + b"1" + b"}" * depth,
        b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}" if depth > 1 else b"{}",
        b'{"\\u0061":' * depth + b'"[["' + b"}" * depth,
    ):
        if depth <= 32:
            document(body, 32)
        else:
            with pytest.raises(KronosError) as refused:
                document(body, 32)
            assert refused.value.code == "JSON_TOO_DEEP"


# --- headers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/JSON", "application/json; charset=utf-8",
     'application/json;charset="UTF-8"', "application/json;"],
)  # fmt: skip
@pytest.mark.parametrize("encoding", [None, "", "identity", "Identity"])
def test_json_in_utf_8_is_supported(content_type: str, encoding: str | None) -> None:
    check_headers(content_type, encoding)


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/xml", "text/json", "application/xml", "application/json; charset=latin-1",
     "application/jsonp", "multipart/form-data", "application/json, text/xml"],
)  # fmt: skip
def test_other_bodies_are_not_supported(content_type: str | None) -> None:
    with pytest.raises(KronosError) as refused:
        check_headers(content_type, None)
    assert (refused.value.code, refused.value.status) == ("UNSUPPORTED_MEDIA_TYPE", 415)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "identity, gzip", "x"])
def test_compressed_bodies_are_not_supported(encoding: str) -> None:
    with pytest.raises(KronosError) as refused:
        check_headers("application/json", encoding)
    assert (refused.value.code, refused.value.status) == ("UNSUPPORTED_ENCODING", 415)
