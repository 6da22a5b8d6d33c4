"""A running gateway: numbers, keys, limits and errors over HTTP."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import answers
import httpx
import numpy as np
import numpy.testing as npt
import pyarrow as pa
import pytest
from gateways import IDENTITY, Connection, Gateway, starting, wait_until
from programs import environment

from registry.codes import CODES
from registry.settings import Settings
from registry.versions.store import Store
from serving.gateway.keys import create
from serving.launch import free_port

REQUESTS, THREADS = 300, 32
SERIES = np.random.default_rng(7).normal(0, 0.01, 40).tolist()
GOOD = {"model": "ewma", "symbol": "ACME", "series": SERIES}
JSON = {"content-type": "application/json"}
LIMIT = 16 * 2**20  # bytes of a body


def test_a_gateway_says_where_it_answers_and_which_versions(gateway: Gateway) -> None:
    versions = [{"model": name, "name": name, "version": 1} for name in ("ewma", "nbeats")]
    assert gateway.announced == {"url": gateway.url, "pid": gateway.pid, "models": versions}
    assert gateway.get("/health").json() == {"status": "alive"}
    states = {"ewma": "serving", "nbeats": "serving"}
    assert gateway.get("/ready").json() == {"ready": True, "models": states}


# --- numbers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["ewma", "nbeats"])
def test_many_clients_get_the_numbers_of_a_direct_forecast_each_its_own(
    gateway: Gateway, served_models: Settings, model: str
) -> None:
    shown = gateway.models()[model]
    rng = np.random.default_rng(11)
    bodies = [answers.draw(rng, shown) for _ in range(REQUESTS)]
    with ThreadPoolExecutor(THREADS) as pool:
        replies = list(pool.map(lambda body: gateway.post("/forecast", body), bodies))
    assert {reply.status_code for reply in replies} == {200}
    with Store(served_models).load(f"{model}/1") as version:
        for reply, body in zip(replies, bodies, strict=True):
            direct = answers.direct_frame(body, version)
            content = reply.json()
            days = direct["ds"].dt.strftime("%Y-%m-%d")
            rows = list(zip(direct["unique_id"], direct["step"], days, strict=True))
            assert answers.places(content) == rows
            numbers = direct.filter(regex="^(mean|q0)")
            npt.assert_allclose(answers.numbers(content), numbers, rtol=0, atol=1e-9)
    calls = gateway.metric("kronos_batch_size_count", model=model)
    assert calls < 0.7 * REQUESTS  # requests do go to the scorer together


def test_forecasts_are_those_of_invocations_if_calibration_is_off(gateway: Gateway) -> None:
    body = answers.draw(np.random.default_rng(3), gateway.models()["nbeats"])
    item = {"symbol": body["symbol"], "series": body["series"], "ds": body["ds"]}
    forecast = gateway.forecast(model="nbeats", **item).json()
    inputs = {
        "unique_id": [item["symbol"]] * len(item["ds"]),
        "ds": item["ds"],
        "y": item["series"],
    }
    raw = gateway.post("/invocations?model=nbeats", {"inputs": inputs})
    assert raw.status_code == 200
    for row in raw.json()["predictions"]:
        step = str(row["step"])
        quantiles = [value for name, value in row.items() if name.startswith("q")]
        npt.assert_allclose(forecast["yhat"][step], row["mean"], rtol=0, atol=1e-9)
        npt.assert_allclose([*forecast["q"][step].values()], quantiles, rtol=0, atol=1e-9)
    assert len(raw.json()["predictions"]) == len(forecast["yhat"])
    assert forecast["meta"]["calibration"] == IDENTITY


def test_a_bad_series_among_good_ones_fails_alone(gateway: Gateway) -> None:
    bodies = [GOOD | {"symbol": f"S{number}"} for number in range(24)]
    bodies[5] |= {"series": SERIES[:5]}  # only the version knows that it is too short
    bodies[17] |= {"series": [0.0] * 40}
    with ThreadPoolExecutor(24) as pool:
        replies = list(pool.map(lambda body: gateway.post("/forecast", body), bodies))
    bad = {place: reply for place, reply in enumerate(replies) if reply.status_code != 200}
    codes = {place: reply.json()["error_code"] for place, reply in bad.items()}
    assert codes == {5: "TOO_SHORT", 17: "HALTED"}
    together = gateway.post("/forecast", {"model": "ewma", "forecasts": [_item(b) for b in bodies]})
    assert together.status_code == 200
    assert len(together.json()["forecasts"]) == 22
    refused = [(one["place"], one["code"]) for one in together.json()["refused"]]
    assert refused == [(6, "TOO_SHORT"), (18, "HALTED")]


def _item(body: dict[str, Any]) -> dict[str, Any]:
    return {"symbol": body["symbol"], "series": body["series"]}


# --- Arrow --------------------------------------------------------------------------------------

ARROW = {"content-type": "application/vnd.apache.arrow.stream"}
AS_ARROW = {"accept": ARROW["content-type"]}


def test_a_table_in_and_out_holds_the_numbers_of_json_to_the_last_bit(gateway: Gateway) -> None:
    shown = gateway.models()["nbeats"]
    rng = np.random.default_rng(5)
    items = [answers.item(rng, f"S{number}", shown) for number in range(40)]
    items[7] |= {"series": [0.0] * len(items[7]["series"])}  # the version refuses it
    parameters = {"model": "nbeats", "horizon": [1, 5], "levels": [0.1, 0.5]}
    json_in = {"forecasts": items, **parameters}
    table_in = _stream(items)
    path = "/forecast?model=nbeats&horizon=1,5&levels=0.1,0.5"
    as_json = gateway.post("/forecast", json_in).json()
    assert [one["code"] for one in as_json["refused"]] == ["HALTED"]
    table = _table(gateway.post("/forecast", json_in, headers=AS_ARROW))
    again = _table(gateway.post(path, table_in, headers=ARROW | AS_ARROW))
    assert table.equals(again)
    numbers = table.select(["mean", "q0.1", "q0.5"]).to_pandas().to_numpy()
    npt.assert_array_equal(numbers, answers.numbers(as_json))
    steps = zip(table["unique_id"].to_pylist(), table["step"].to_pylist(), strict=True)
    days = [str(day) for day in table["ds"].to_pylist()]
    rows = [(*step, day) for step, day in zip(steps, days, strict=True)]
    assert rows == answers.places(as_json)
    rest = json.loads(table.schema.metadata[b"kronos"])
    assert rest["refused"] == as_json["refused"]
    assert rest["meta"] == as_json["meta"]
    json_out = gateway.post(path, table_in, headers=ARROW).json()
    assert [one["q"] for one in json_out["forecasts"]] == [one["q"] for one in as_json["forecasts"]]


def test_a_bad_table_is_refused_in_json(gateway: Gateway) -> None:
    reply = gateway.post("/forecast?model=ewma", b"ARROW1", headers=ARROW | AS_ARROW)
    assert reply.status_code == 400
    assert reply.headers["content-type"] == "application/json"
    assert reply.json()["error_code"] == "NOT_A_TABLE"


def _stream(items: list[dict[str, Any]]) -> bytes:
    """The series of a batch as pyarrow writes them."""
    columns: dict[str, list[Any]] = {"unique_id": [], "ds": [], "y": []}
    for item in items:
        columns["unique_id"] += [item["symbol"]] * len(item["series"])
        columns["ds"] += item["ds"]
        columns["y"] += item["series"]
    table = pa.table(columns)
    days = table["ds"].cast(pa.date32())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.set_column(1, "ds", days).schema) as writer:
        writer.write_table(table.set_column(1, "ds", days))
    return sink.getvalue().to_pybytes()


def _table(reply: httpx.Response) -> pa.Table:
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == ARROW["content-type"]
    return pa.ipc.open_stream(reply.content).read_all()


# --- bad requests -----------------------------------------------------------------------------

DEEP = b"[" * 100_000
GZIP = {**JSON, "content-encoding": "gzip"}
BAD: list[tuple[str, Any, dict[str, str], str]] = [
    ("/forecast", b"", JSON, "MALFORMED_JSON"),
    ("/forecast", b'{"symbol": "A", "symbol": "B"}', JSON, "DUPLICATE_KEY"),
    ("/forecast", DEEP, JSON, "JSON_TOO_DEEP"),
    ("/forecast", b'{"symbol": "A", "series": [1%s]}' % (b"0" * 5000), JSON, "NUMBER_TOO_LARGE"),
    ("/forecast", b"{}", {"content-type": "text/xml"}, "UNSUPPORTED_MEDIA_TYPE"),
    ("/forecast", b"{}", {"content-type": ""}, "UNSUPPORTED_MEDIA_TYPE"),
    ("/forecast", b"{}", GZIP, "UNSUPPORTED_ENCODING"),
    ("/forecast", b'{"model": "ewma", "symbol": "A", "series": [NaN]}', JSON, "NON_FINITE"),
    ("/forecast", b'{"model": "ewma", "symbol": "A", "series": [1e400]}', JSON, "NON_FINITE"),
    ("/forecast", GOOD | {"symbol": ""}, {}, "BAD_SYMBOL"),
    ("/forecast", GOOD | {"symbol": "A\u202e"}, {}, "BAD_SYMBOL"),
    ("/forecast", GOOD | {"symbol": "A" * 10_000}, {}, "BAD_SYMBOL"),
    ("/forecast", GOOD | {"model": "../ewma"}, {}, "BAD_MODEL_NAME"),
    ("/forecast", GOOD | {"model": "models:/ewma/1"}, {}, "BAD_MODEL_NAME"),
    ("/forecast", GOOD | {"model": "har"}, {}, "BAD_MODEL_NAME"),
    ("/forecast", {"symbol": "A", "series": SERIES}, {}, "BAD_MODEL_NAME"),
    ("/forecast", GOOD | {"horizon": 0}, {}, "BAD_HORIZON"),
    ("/forecast", GOOD | {"horizon": 6}, {}, "BAD_HORIZON"),
    ("/forecast", GOOD | {"levels": [0.9, 0.1]}, {}, "BAD_LEVELS"),
    ("/forecast", GOOD | {"seed": -1}, {}, "BAD_SEED"),
    ("/forecast", GOOD | {"options": {"output": "packed"}}, {}, "UNKNOWN_PARAM"),
    ("/forecast", GOOD | {"colour": 1}, {}, "UNKNOWN_PARAM"),
    ("/forecast?horizon=5", GOOD, {}, "UNKNOWN_PARAM"),
    ("/forecast", GOOD | {"cumulative": True}, {}, "NOT_AVAILABLE"),
    ("/forecast", GOOD | {"ds": ["2022-12-25"] * 40}, {}, "DUPLICATE_SESSION"),
    ("/invocations?model=../ewma", b"{}", JSON, "BAD_MODEL_NAME"),
    ("/invocations?model=%2e%2e", b"{}", JSON, "BAD_MODEL_NAME"),
    ("/invocations?version=1", b"{}", JSON, "UNKNOWN_PARAM"),
    ("/invocations?model=ewma", b"{}", GZIP, "UNSUPPORTED_ENCODING"),
    ("/forecasts", b"", {}, "NOT_FOUND"),
    ("/forecast/", b"{}", JSON, "NOT_FOUND"),
    ("/health", b"", JSON, "WRONG_METHOD"),
    ("/webhooks/mlflow", b"{}", JSON, "UNAUTHENTICATED"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_a_bad_request_gets_a_code_and_its_status(gateway: Gateway, number: int) -> None:
    path, body, headers, code = BAD[number]
    reply = gateway.post(path, body, headers=headers)
    content = reply.json()
    assert content["error_code"] == code, content
    assert reply.status_code == CODES[code].kind.status
    assert content == {
        "error_code": code,
        "message": content["message"],
        "request_id": reply.headers["kronos-request-id"],
    }
    assert len(content["message"]) < 500
    for secret in ("Traceback", "/tmp", ".py", "site-packages"):
        assert secret not in reply.text


@pytest.mark.parametrize(
    "body",
    [b"", b"{", DEEP, b'{"inputs": 1}', b'{"dataframe_split": {"columns": [], "data": []}}'],
)
def test_a_bad_body_of_invocations_gets_no_stack_trace(gateway: Gateway, body: bytes) -> None:
    reply = gateway.post("/invocations?model=ewma", body, headers=JSON)
    assert 400 <= reply.status_code < 500
    for secret in ("Traceback", "/tmp", "site-packages"):
        assert secret not in reply.text


def test_what_is_no_http_is_answered_and_closed(gateway: Gateway) -> None:
    head = b"POST /forecast HTTP/1.1\r\nhost: a\r\n"
    twice = head + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}"
    smuggled = head + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    for content in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GARBAGE\r\n\r\n", twice, smuggled):
        with Connection(gateway) as connection:
            connection.send(content)
            status, body = connection.reply()
            assert status == 400, content
            assert json.loads(body)["error_code"] == "BAD_INPUT"
            assert connection.is_closed()


def test_a_head_that_is_too_long_is_refused(gateway: Gateway) -> None:
    with Connection(gateway) as connection:
        connection.send(b"GET /health HTTP/1.1\r\nx: " + b"a" * 2**20, may_break=True)
        assert connection.reply()[0] in (400, 431)
        assert connection.is_closed()


def test_request_ids_are_taken_over_or_made(gateway: Gateway) -> None:
    taken = gateway.get("/health", headers={"kronos-request-id": "trace-17.b"})
    assert taken.headers["kronos-request-id"] == "trace-17.b"
    made = [gateway.get("/health").headers["kronos-request-id"] for _ in range(2)]
    bad = gateway.get("/health", headers={"kronos-request-id": 'a"b' * 9})
    assert len({*made, bad.headers["kronos-request-id"]}) == 3
    assert '"' not in bad.headers["kronos-request-id"]


def test_no_symbol_is_in_the_metrics(gateway: Gateway) -> None:
    gateway.forecast(**GOOD | {"symbol": "VERYSECRET"})
    gateway.get("/VERYSECRET")
    assert "VERYSECRET" not in gateway.get("/metrics").text
    assert "VERYSECRET" not in gateway.stderr


# --- size of a body ---------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_refused_before_it_is_read(gateway: Gateway) -> None:
    before = gateway.metric("kronos_rejected_total", reason="too_large")
    for path in ("/forecast", "/invocations?model=ewma"):
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
        with Connection(gateway) as connection:
            begun = time.monotonic()
            connection.send(head.encode() + b"content-length: 100000000\r\n\r\n{")
            status, body = connection.reply()
            assert status == 413
            assert json.loads(body)["error_code"] == "BODY_TOO_LARGE"
            assert time.monotonic() - begun < 1
            assert connection.is_closed()
    assert gateway.metric("kronos_rejected_total", reason="too_large") == before + 2


def test_an_endless_body_is_refused_at_the_limit(gateway: Gateway) -> None:
    before = gateway.metric("process_resident_memory_bytes")
    head = b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
    sent = 0
    with Connection(gateway) as connection:
        connection.send(head + b"transfer-encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while sent < 4 * LIMIT:
                connection.send(chunk)
                sent += 2**20
        assert connection.reply()[0] == 413
    assert LIMIT <= sent < 1.5 * LIMIT
    assert gateway.forecast(**GOOD).status_code == 200
    assert gateway.metric("process_resident_memory_bytes") < before + 2.5 * LIMIT


def test_one_client_can_send_requests_one_behind_the_other(gateway: Gateway) -> None:
    body = json.dumps(GOOD).encode()
    head = b"POST /forecast HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    with Connection(gateway) as connection:
        connection.send(request * 5)
        statuses = [connection.reply()[0] for _ in range(5)]
    assert statuses == [200] * 5


# --- before it is ready, and keys -------------------------------------------------------------


@pytest.fixture(scope="module")
def locked(served_models: Settings) -> Iterator[tuple[Gateway, str, str]]:
    """A gateway that starts, with a key for all models and one for another model."""
    (every, entry), (other, other_entry) = create("every"), create("other", ["nbeats"])
    keys = f"{entry.entry()},{other_entry.entry()}"
    port = free_port("127.0.0.1")
    with starting(
        served_models, ["ewma"], "--host", "0.0.0.0", port=port, KRONOS_API_KEYS=keys
    ) as gateway:
        wait_until(lambda: _listens(port))
        yield gateway, every, other


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_gateway_that_starts_is_alive_and_says_that_it_is_not_ready(
    locked: tuple[Gateway, str, str],
) -> None:
    gateway, key, _ = locked
    assert gateway.get("/health").json() == {"status": "alive"}
    ready = gateway.get("/ready")
    assert (ready.status_code, ready.json()["models"]) == (503, {"ewma": "starting"})
    reply = gateway.post("/forecast", GOOD, headers=_bearer(key))
    assert (reply.status_code, reply.json()["error_code"]) == (503, "NOT_READY")
    assert int(reply.headers["retry-after"]) >= 1
    metrics = gateway.get("/metrics", headers=_bearer(key)).text
    assert 'kronos_rejected_total{reason="not_ready"} 1.0' in metrics


def test_a_gateway_with_keys_answers_only_who_has_one(locked: tuple[Gateway, str, str]) -> None:
    gateway, key, other = locked
    for headers in ({}, _bearer(key[:-1]), _bearer("a"), {"authorization": "Basic YTpi"}):
        for reply in (
            gateway.post("/forecast", GOOD, headers=headers),
            gateway.post("/invocations", b"{}", headers=headers | JSON),
            gateway.get("/models", headers=headers),
            gateway.get("/metrics", headers=headers),
        ):
            assert (reply.status_code, reply.json()["error_code"]) == (401, "UNAUTHENTICATED")
            assert reply.headers["www-authenticate"] == "Bearer"
    for reply in (
        gateway.post("/forecast", GOOD, headers=_bearer(other)),
        gateway.post("/invocations", b"{}", headers=_bearer(other) | JSON),
    ):
        assert (reply.status_code, reply.json()["error_code"]) == (403, "FORBIDDEN")
    assert gateway.get("/models", headers=_bearer(key)).status_code == 200


def test_a_client_that_goes_on_with_wrong_keys_is_slowed_down(
    locked: tuple[Gateway, str, str],
) -> None:
    gateway, key, _ = locked
    replies = [gateway.get("/models", headers=_bearer("kr_wrong")) for _ in range(25)]
    assert replies[-1].status_code == 429
    assert gateway.get("/models", headers=_bearer(key)).status_code == 200
    assert key not in gateway.stderr
    assert "kr_wrong" not in gateway.stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_a_gateway_without_keys_is_not_started_on_a_public_address(
    served_models: Settings, host: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "serving", "start", "ewma", "--host", host, "--port", "0"],
        env=environment(served_models), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("error: NOT_LOOPBACK: ")
