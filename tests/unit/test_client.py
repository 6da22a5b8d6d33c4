"""The client that other projects copy, against a real server that follows a script."""

import asyncio
import json
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.testing as npt
import pandas as pd
import pytest

from registry.errors import Overloaded
from registry.forecast import names
from registry.settings import CHECKOUT
from serving import client as module
from serving.client import AsyncClient, Client, GatewayError, Item
from serving.gateway import http, reading, replies
from serving.gateway.calls import Series
from serving.gateway.history import History
from serving.gateway.tables import Calibration
from serving.messages import Route

OF_VERSION = {
    "model": "nbeats",
    "ver": 3,
    "stage": "Production",
    "manifest": "5a1e09c2f7b4",
    "trained_until": "2022-06-30",
    "pretrained_until": None,
    "data": "mystocks",
    "target": "session_log_return",
    "cumulative": False,
    "quantiles": [0.05, 0.5],
    "notes": ["simulated: as a test"],
}
OF_HISTORY = {
    "forecast_id": "f" * 32,
    "sessions": {"1": "2022-12-29", "5": "2023-01-05"},
    "calibration": {
        "version": 7,
        "state": "calibrated",
        "learned_from": {"live": 9, "backfill": 0},
    },
    "cutoff": "2022-12-28",
    "history": "sent",
    "ds": "assumed",
    "covariates": {"market_abs_return": "ledger"},
    "input_digest": "d" * 64,
}
NUMBERS = {
    "yhat": {"1": 0.001, "5": 0.002},
    "q": {"1": {"p05": -0.02, "p50": 0.0}, "5": {"p05": -0.03, "p50": 0.001}},
}
FORECAST = {"symbol": "AAPL", **NUMBERS, "meta": {**OF_HISTORY, **OF_VERSION}}
REFUSED = {"place": 2, "symbol": "MSFT", "code": "HALTED", "message": "item 2: it stands still"}
FORECASTS = {
    "forecasts": [{"symbol": "AAPL", **NUMBERS, "meta": OF_HISTORY}],
    "refused": [REFUSED],
    "meta": OF_VERSION,
}
BUSY = {"error_code": "OVERLOADED", "message": "too many requests"}


@dataclass(frozen=True)
class Step:
    """What the server does with one request."""

    content: Any = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    act: str = "answer"  # answer | close | hang | drip

    @property
    def body(self) -> bytes:
        return (
            self.content if isinstance(self.content, bytes) else json.dumps(self.content).encode()
        )


@dataclass
class Script:
    """The steps of a server, of which the last one is repeated, and the requests that came."""

    url: str = ""
    steps: list[Step] = field(default_factory=list)
    requests: list[tuple[str, Mapping[str, str], bytes]] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def sent(self) -> Any:
        """The JSON of the last request."""
        return json.loads(self.requests[-1][2])

    def ids(self) -> set[str]:
        return {headers["kronos-request-id"] for _, headers, _ in self.requests}


@pytest.fixture
def script() -> Iterator[Script]:
    """A server on loopback; the test writes its steps."""
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            script.requests.append((f"{self.command} {self.path}", headers, body))
            step = script.steps[min(len(script.requests), len(script.steps)) - 1]
            if step.act == "close":
                self.close_connection = True
                return
            if step.act == "hang":
                script.ended.wait(30)
            self.answer(step)

        def answer(self, step: Step) -> None:
            self.send_response(step.status)
            for name, value in step.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(step.body)))
            try:
                self.end_headers()
                if step.act == "drip":
                    self.drip(step.body)
                else:
                    self.wfile.write(step.body)
            except ConnectionError:  # the client waits no longer
                self.close_connection = True

        def drip(self, body: bytes) -> None:
            for byte in body:
                self.wfile.write(bytes([byte]))
                if script.ended.wait(0.02):
                    break

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        script.url = f"http://127.0.0.1:{server.server_port}"
        yield script
        script.ended.set()
        server.shutdown()
        thread.join()


Use = Callable[[Any], Any]  # of a client: the same call for both kinds
Ask = Callable[..., Any]


def ask_sync(url: str, use: Use, **limits: Any) -> Any:
    with Client(url, **limits) as client:
        return use(client)


def ask_async(url: str, use: Use, **limits: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(url, **limits) as client:
            return await use(client)

    return asyncio.run(main())


@pytest.fixture(params=[ask_sync, ask_async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Ask with a client of either kind."""
    kind: Ask = request.param
    return kind


def of_aapl(client: Any) -> Any:
    return client.forecast("AAPL")


# --- requests ---------------------------------------------------------------------------------

DAYS = ["2022-12-27", "2022-12-28"]
INDEX = pd.DatetimeIndex(DAYS)
SERIES = [0.01, -0.02]
BARS = {name: [1.0, 2.0] for name in names.OHLC}


def test_a_request_has_what_was_asked_and_nothing_else(script: Script, ask: Ask) -> None:
    script.steps = [Step(FORECAST)]
    ask(
        script.url,
        lambda client: client.forecast(
            "AAPL",
            horizon=[1, 5],
            series=SERIES,
            ds=DAYS,
            features={"market_abs_return": np.array([0.1, 0.2])},
            data="mystocks",
            model="nbeats",
            levels=(0.05, 0.5),
            seed=1,
            options={"num_samples": np.int64(8)},
            cumulative=True,
        ),
        key="s3cret",
    )
    place, headers, _ = script.requests[0]
    assert place == "POST /forecast"
    assert headers["authorization"] == "Bearer s3cret"
    assert headers["content-type"] == "application/json"
    assert script.sent() == {
        "symbol": "AAPL",
        "series": SERIES,
        "ds": DAYS,
        "features": {"market_abs_return": [0.1, 0.2]},
        "model": "nbeats",
        "horizon": [1, 5],
        "data": "mystocks",
        "levels": [0.05, 0.5],
        "seed": 1,
        "options": {"num_samples": 8},
        "cumulative": True,
    }
    ask(script.url, of_aapl)
    assert script.sent() == {"symbol": "AAPL"}
    assert "authorization" not in script.requests[-1][1]
    assert len(script.ids()) == 2


@pytest.mark.parametrize(
    ("history", "dates"),
    [
        ({"series": SERIES}, None),
        ({"series": np.array(SERIES)}, None),
        ({"series": pd.Series(SERIES)}, None),
        ({"series": pd.Series(SERIES, INDEX)}, DAYS),
        ({"series": SERIES, "ds": INDEX}, DAYS),
        ({"series": SERIES, "ds": INDEX.to_numpy()}, DAYS),
        ({"series": SERIES, "ds": [date.fromisoformat(day) for day in DAYS]}, DAYS),
        ({"series": SERIES, "ds": pd.Series(INDEX)}, DAYS),
        ({"series": pd.Series(SERIES, INDEX[::-1]), "ds": DAYS}, DAYS),
    ],
)
def test_lists_arrays_and_pandas_are_sent_alike(
    script: Script, history: dict[str, Any], dates: list[str] | None
) -> None:
    script.steps = [Step(FORECAST)]
    ask_sync(script.url, lambda client: client.forecast("AAPL", **history))
    assert script.sent()["series"] == SERIES
    assert script.sent().get("ds") == dates


def test_bars_may_be_a_frame_with_dates(script: Script) -> None:
    script.steps = [Step(FORECAST)]
    bars = pd.DataFrame(BARS, INDEX)
    ask_sync(script.url, lambda client: client.forecast("AAPL", bars=bars))
    assert script.sent() == {"symbol": "AAPL", "bars": BARS, "ds": DAYS}


def test_many_symbols_are_one_request(script: Script, ask: Ask) -> None:
    script.steps = [Step(FORECASTS)]
    items = ["AAPL", Item("MSFT", series=pd.Series(SERIES, INDEX))]
    ask(script.url, lambda client: client.forecasts(items, horizon=range(1, 3), data="mystocks"))
    assert script.sent() == {
        "forecasts": [{"symbol": "AAPL"}, {"symbol": "MSFT", "series": SERIES, "ds": DAYS}],
        "horizon": [1, 2],
        "data": "mystocks",
    }


def test_a_frame_of_histories_is_sent_by_symbol(script: Script, ask: Ask) -> None:
    script.steps = [Step(FORECASTS)]
    frame = pd.DataFrame(
        {
            "unique_id": pd.Categorical(["MSFT", "AAPL", "MSFT"], ["AAPL", "GOOG", "MSFT"]),
            "ds": pd.DatetimeIndex([DAYS[0], DAYS[1], DAYS[1]]),
            "y": [0.1, 0.2, 0.3],
            "index_return": [0.4, 0.5, 0.6],
        }
    )
    ask(script.url, lambda client: client.forecasts(frame=frame))
    msft = {"symbol": "MSFT", "series": [0.1, 0.3], "ds": DAYS}
    aapl = {"symbol": "AAPL", "series": [0.2], "ds": DAYS[1:]}
    assert script.sent()["forecasts"] == [
        {**msft, "features": {"index_return": [0.4, 0.6]}},
        {**aapl, "features": {"index_return": [0.5]}},
    ]
    bars = pd.DataFrame({"unique_id": "AAPL", "ds": DAYS, **BARS, "volume": [7, 8]})
    ask(script.url, lambda client: client.forecasts(frame=bars))
    assert script.sent()["forecasts"] == [
        {"symbol": "AAPL", "ds": DAYS, "bars": {**BARS, "volume": [7, 8]}}
    ]


NAN = float("nan")
LOCAL = INDEX.tz_localize("America/New_York")


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        ({"series": [0.1, NAN]}, "NON_FINITE", "AAPL: series: value 2 of 2 is missing"),
        ({"series": np.array([np.inf, 0.1])}, "NON_FINITE", "AAPL: series: value 1 of 2"),
        ({"series": [0.1, None, 0.2]}, "NON_FINITE", "AAPL: series: value 2 of 3 is missing"),
        ({"series": pd.Series([0.1, NAN])}, "NON_FINITE", "AAPL: series: value 2 of 2"),
        ({"series": [0.1, "0.2"]}, "NOT_A_NUMBER", "value 2 of 2 is str, expected a number"),
        ({"series": np.ones((2, 2))}, "NOT_A_NUMBER", "value 1 of 2 is list"),
        ({"bars": {**BARS, "low": [1.0, NAN]}}, "NON_FINITE", "AAPL: bars.low: value 2 of 2"),
        ({"features": {"x": [NAN]}}, "NON_FINITE", "AAPL: features.x: value 1 of 1"),
        ({"levels": [0.1, NAN]}, "NON_FINITE", "levels: value 2 of 2"),
        ({"options": {"top_p": NAN}}, "NON_FINITE", "a parameter or option is NaN"),
        ({"series": SERIES, "ds": ["2022-12-27", None]}, "BAD_TIMESTAMP", "AAPL: ds: date 2"),
        ({"series": SERIES, "ds": ["27.12.2022"]}, "BAD_TIMESTAMP", "AAPL: ds: date 1"),
        ({"series": pd.Series(SERIES, LOCAL)}, "BAD_TIMESTAMP", "AAPL: ds: date 1"),
        (
            {"series": pd.Series(SERIES, INDEX + pd.Timedelta("1h"))},
            "BAD_TIMESTAMP",
            "AAPL: ds: date 1",
        ),
        ({"series": pd.Series(SERIES, DAYS)}, "BAD_TIMESTAMP", "AAPL: the index has no dates"),
    ],
)
def test_a_bad_value_is_refused_with_its_place_before_it_is_sent(
    script: Script, asked: dict[str, Any], code: str, message: str
) -> None:
    with pytest.raises(module.BadRequest) as caught:
        ask_sync(script.url, lambda client: client.forecast("AAPL", **asked))
    assert caught.value.code == code
    assert message in caught.value.message
    assert (caught.value.status, caught.value.request_id) == (None, "")
    assert script.requests == []


HISTORY = pd.DataFrame({"unique_id": "AAPL", "ds": DAYS, "y": SERIES})


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (HISTORY.drop(columns="y"), "MISSING_COLUMN"),
        (HISTORY.assign(unique_id=[None, "AAPL"]), "BAD_SYMBOL"),
        (HISTORY.assign(unique_id=7), "BAD_SYMBOL"),
        (HISTORY.assign(y=[0.1, NAN]), "NON_FINITE"),
        (HISTORY.assign(ds=[pd.NaT, INDEX[1]]), "BAD_TIMESTAMP"),
        (HISTORY.assign(**BARS), "BAD_HISTORY"),
    ],
)
def test_a_bad_frame_is_refused_before_it_is_sent(
    script: Script, frame: pd.DataFrame, code: str
) -> None:
    with pytest.raises(module.BadRequest) as caught:
        ask_sync(script.url, lambda client: client.forecasts(frame=frame))
    assert caught.value.code == code
    assert script.requests == []


def test_one_symbol_is_no_list_of_symbols() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(TypeError, match="list of symbols"):
        client.forecasts("AAPL")


@pytest.mark.parametrize(
    "use",
    [
        of_aapl,
        lambda client: client.forecast(
            "AAPL", horizon=range(1, 6), series=pd.Series(SERIES, INDEX), levels=np.array([0.1])
        ),
        lambda client: client.forecast("AAPL", bars=pd.DataFrame(BARS, INDEX), cumulative=True),
        lambda client: client.forecast("AAPL", horizon=5, seed=1, options={"top_p": 0.9}),
    ],
)
def test_the_gateway_can_read_a_request(script: Script, use: Use) -> None:
    script.steps = [Step(FORECAST)]
    ask_sync(script.url, use)
    request = reading.forecast_request(script.requests[0][2])
    assert [item.symbol for item in request.items] == ["AAPL"]
    assert not request.batch


def test_the_gateway_can_read_a_batch(script: Script) -> None:
    script.steps = [Step(FORECASTS)]
    ask_sync(script.url, lambda client: client.forecasts(["MSFT"], frame=HISTORY, horizon=5))
    request = reading.forecast_request(script.requests[0][2])
    assert request.batch
    assert request.refused == []
    assert [(item.symbol, item.rows) for item in request.items] == [("MSFT", 0), ("AAPL", 2)]


# --- replies ----------------------------------------------------------------------------------


def test_a_forecast_has_types(script: Script, ask: Ask) -> None:
    script.steps = [Step(FORECAST)]
    forecast = ask(script.url, of_aapl)
    assert forecast.symbol == "AAPL"
    assert forecast.yhat == {1: 0.001, 5: 0.002}
    assert forecast.quantiles == {1: {0.05: -0.02, 0.5: 0.0}, 5: {0.05: -0.03, 0.5: 0.001}}
    meta = forecast.meta
    assert (meta.model, meta.version, meta.stage) == ("nbeats", 3, "Production")
    assert (meta.calibration.version, meta.calibration.state) == (7, "calibrated")
    assert meta.sessions == {1: "2022-12-29", 5: "2023-01-05"}
    assert (meta.trained_until, meta.pretrained_until) == ("2022-06-30", None)
    assert (meta.forecast_id, meta.input_digest) == ("f" * 32, "d" * 64)
    assert meta.notes == ["simulated: as a test"]
    assert (meta.asked, meta.stale) == (None, False)
    assert forecast.extra == meta.extra == meta.calibration.extra == {}


def test_what_the_gateway_says_of_a_forecast_has_types(script: Script) -> None:
    route = Route(
        model="kronos",
        name="kronos_simulated",
        version=3,
        stage="Production",
        manifest="5a1e09c2f7b4" * 5,
        scorer="a",
        host="127.0.0.1",
        port=1,
        token="t",
        since="2022-12-28T21:00:00+00:00",
        spec={},
        stale=True,
    )
    history = History(Series("AAPL", 1, {"y": b"0.1"}), "2022-12-28", covariates={"x": "ledger"})
    meta = {
        **OF_HISTORY,
        **OF_VERSION,
        **replies.of_version(route),
        **replies.of_history(history),
        "calibration": replies.of_calibration(Calibration(), 0, [1, 2]),
    }
    shown = replies.shown(np.ones((5, 3)), [1, 5], replies.keys_of((0.05, 0.5)))
    script.steps = [Step({"symbol": "AAPL", **shown, "meta": meta})]
    forecast = ask_sync(script.url, of_aapl)
    at_levels = {0.05: 1.0, 0.5: 1.0}
    assert forecast.quantiles == {1: at_levels, 5: at_levels}
    assert (forecast.meta.model, forecast.meta.asked) == ("kronos_simulated", "kronos")
    assert forecast.meta.stale
    assert forecast.meta.input_digest == replies.digest(history)
    assert forecast.meta.calibration == module.Calibration(version=None, state="uncalibrated")
    assert forecast.meta.extra == {}


def test_a_frame_has_the_columns_of_the_registry(script: Script) -> None:
    script.steps = [Step(FORECAST)]
    frame = ask_sync(script.url, of_aapl).frame()
    expected = pd.DataFrame(
        {
            names.UNIQUE_ID: "AAPL",
            names.STEP: [1, 5],
            names.DS: pd.DatetimeIndex(["2022-12-29", "2023-01-05"]),
            names.MEAN: [0.001, 0.002],
            names.quantile_column(0.05): [-0.02, -0.03],
            names.quantile_column(0.5): [0.0, 0.001],
        }
    )
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)
    assert frame[names.DS].dtype.kind == "M"


def test_a_batch_has_forecasts_and_what_was_refused(script: Script, ask: Ask) -> None:
    script.steps = [Step(FORECASTS)]
    forecasts = ask(script.url, lambda client: client.forecasts(["AAPL", "MSFT"]))
    assert [forecast.symbol for forecast in forecasts] == ["AAPL"]
    assert len(forecasts) == 1
    assert forecasts.forecasts[0].meta.version == 3
    assert forecasts.forecasts[0].meta.cutoff == "2022-12-28"
    assert forecasts.refused == [module.Refused(**REFUSED)]
    assert forecasts.frame()["mean"].to_list() == [0.001, 0.002]


def test_a_batch_without_forecasts_is_an_empty_frame(script: Script) -> None:
    script.steps = [Step({**FORECASTS, "forecasts": []})]
    frame = ask_sync(script.url, lambda client: client.forecasts(["MSFT"])).frame()
    assert frame.empty
    assert frame.columns.to_list() == ["unique_id", "step", "ds", "mean"]


def test_keys_of_a_newer_gateway_are_kept(script: Script) -> None:
    calibration = {"version": 7, "state": "stale", "reason": "drift"}
    meta = {**OF_HISTORY, **OF_VERSION, "calibration": calibration, "region": "eu"}
    script.steps = [Step({**FORECAST, "meta": meta, "extra": 1, "draft": True})]
    forecast = ask_sync(script.url, of_aapl)
    assert forecast.extra == {"extra": 1, "draft": True}
    assert forecast.meta.extra == {"region": "eu"}
    assert forecast.meta.calibration.extra == {"reason": "drift"}
    assert forecast.meta.calibration.learned_from is None


def test_models_and_readiness(script: Script, ask: Ask) -> None:
    answers = {"model": "nbeats", "state": "serving", "version": 3, "horizon": 5, "universe": None}
    waits = {"model": "har", "state": "failed", "failed": {"version": 1, "code": "CORRUPT"}}
    script.steps = [Step({"models": [answers, waits]})]
    nbeats, har = ask(script.url, lambda client: client.models())
    assert (nbeats.model, nbeats.version, nbeats.horizon) == ("nbeats", 3, 5)
    assert nbeats.extra == {"universe": None}
    assert (har.version, har.failed["code"]) == (None, "CORRUPT")
    assert script.requests[-1][0] == "GET /models"

    states = {"nbeats": "serving", "har": "failed"}
    script.steps = [Step({"ready": False, "models": states}, 503, {"Retry-After": "1"})]
    ready = ask(script.url, lambda client: client.ready())
    assert not ready
    assert ready.models == states
    assert len(script.requests) == 2  # it is an answer: there is no retry
    script.steps = [Step({"ready": True, "models": {"nbeats": "serving"}})]
    assert ask(script.url, lambda client: client.ready())


@pytest.mark.parametrize("level", [0.01, 0.025, 0.05, 0.1, 0.29, 0.5, 0.57, 0.999, 1 / 3])
def test_keys_of_levels_are_those_of_the_gateway(level: float) -> None:
    assert module._percent_key(level) == names.percent_key(level)


# --- errors and retries -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, module.BadRequest),
        (401, module.Unauthorized),
        (403, module.Unauthorized),
        (404, module.NotFound),
        (413, module.BadRequest),
        (422, module.BadRequest),
        (500, module.ServerError),
        (504, module.ServerError),
    ],
)
def test_an_error_has_the_class_of_its_status_and_is_not_tried_again(
    script: Script, ask: Ask, status: int, kind: type[GatewayError]
) -> None:
    script.steps = [Step({"error_code": "SOME_CODE", "message": "so it is"}, status)]
    with pytest.raises(GatewayError) as caught:
        ask(script.url, of_aapl)
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.message, error.status) == ("SOME_CODE", "so it is", status)
    assert script.ids() == {error.request_id}
    assert str(error) == f"SOME_CODE: so it is (request {error.request_id})"
    assert len(script.requests) == 1


def test_a_refusal_of_the_gateway_says_when_to_come_back(script: Script, ask: Ask) -> None:
    refusal = http.refusal(Overloaded("too many requests wait"), "1a2b")
    headers = {name.decode(): value.decode() for name, value in refusal.headers}
    script.steps = [Step(refusal.body, refusal.status, headers)]
    with pytest.raises(module.Busy) as caught:
        ask(script.url, of_aapl, retries=0)
    error = caught.value
    assert (error.code, error.message) == ("OVERLOADED", "too many requests wait")
    assert (error.status, error.retry_after_s) == (429, 1.0)


@pytest.mark.parametrize(
    ("step", "code"),
    [
        (Step(b"<html>it works</html>"), "BAD_REPLY"),
        (Step(b"\xff"), "BAD_REPLY"),
        (Step([]), "BAD_REPLY"),
        (Step({**FORECAST, "yhat": {"1": None}}), "BAD_REPLY"),
        (Step({"symbol": "AAPL"}), "BAD_REPLY"),
        (Step(b"<html>bad gateway</html>", 502), "HTTP_502"),
        (Step(b"", 307, {"Location": "/elsewhere"}), "HTTP_307"),
    ],
)
def test_a_reply_that_cannot_be_read_is_an_error_of_the_server(
    script: Script, ask: Ask, step: Step, code: str
) -> None:
    script.steps = [step]
    with pytest.raises(module.ServerError) as caught:
        ask(script.url, of_aapl)
    assert (caught.value.code, caught.value.status) == (code, step.status)
    assert len(script.requests) == 1


def test_a_proxy_without_a_gateway_is_not_ready_but_busy(script: Script) -> None:
    script.steps = [Step(b"<html>no upstream</html>", 503)]
    with pytest.raises(module.Busy) as caught:
        ask_sync(script.url, lambda client: client.ready(), retries=0)
    assert caught.value.code == "HTTP_503"


def test_a_busy_gateway_is_asked_again_when_it_said(script: Script, ask: Ask) -> None:
    script.steps = [Step(BUSY, 429, {"Retry-After": "1"}), Step(FORECAST)]
    begun = time.monotonic()
    assert ask(script.url, of_aapl).yhat[5] == 0.002
    assert 1.0 <= time.monotonic() - begun < 3.0
    assert len(script.requests) == 2
    assert len(script.ids()) == 1


def test_a_gateway_that_stays_busy_is_asked_as_often_as_allowed(script: Script, ask: Ask) -> None:
    script.steps = [Step(BUSY, 503)]
    with pytest.raises(module.Busy) as caught:
        ask(script.url, of_aapl, retries=2)
    assert (caught.value.code, caught.value.status) == ("OVERLOADED", 503)
    assert len(script.requests) == 3
    assert script.ids() == {caught.value.request_id}


def test_nobody_waits_for_a_retry_beyond_the_deadline(script: Script, ask: Ask) -> None:
    script.steps = [Step(BUSY, 503, {"Retry-After": "60"})]
    begun = time.monotonic()
    with pytest.raises(module.Busy) as caught:
        ask(script.url, of_aapl)
    assert time.monotonic() - begun < 3.0
    assert caught.value.retry_after_s == 60
    assert len(script.requests) == 1


def test_a_connection_that_breaks_is_made_again(script: Script, ask: Ask) -> None:
    script.steps = [Step(act="close"), Step(act="close"), Step(FORECAST)]
    assert ask(script.url, of_aapl).yhat[5] == 0.002
    assert len(script.requests) == 3
    assert len(script.ids()) == 1


def test_a_connection_that_always_breaks_is_an_error(script: Script, ask: Ask) -> None:
    script.steps = [Step(act="close")]
    with pytest.raises(module.Unreachable) as caught:
        ask(script.url, of_aapl, retries=1)
    assert (caught.value.code, caught.value.status) == ("UNREACHABLE", None)
    assert len(script.requests) == 2


def test_a_gateway_that_does_not_run_is_unreachable(ask: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(module.Unreachable):
        ask(f"http://127.0.0.1:{port}", of_aapl, retries=1)


@pytest.mark.parametrize("act", ["hang", "drip"])
def test_a_slow_reply_is_given_up_at_the_deadline(script: Script, ask: Ask, act: str) -> None:
    script.steps = [Step(FORECAST, act=act)]
    begun = time.monotonic()
    with pytest.raises(module.Timeout) as caught:
        ask(script.url, of_aapl, timeout_s=0.3)
    assert 0.3 <= time.monotonic() - begun < 2.0
    assert script.ids() == {caught.value.request_id}
    assert len(script.requests) == 1


def test_the_deadline_holds_over_retries(script: Script, ask: Ask) -> None:
    script.steps = [Step(act="close"), Step(act="hang")]
    begun = time.monotonic()
    with pytest.raises(module.Timeout):
        ask(script.url, of_aapl, timeout_s=0.5)
    assert 0.5 <= time.monotonic() - begun < 2.0


def test_pauses_are_spread_and_double_up_to_a_bound() -> None:
    for retried, longest_s in enumerate([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]):
        pauses = [module._pause_s(retried, 0.0) for _ in range(500)]
        assert min(pauses) < 0.1 * longest_s
        assert 0.9 * longest_s < max(pauses) <= longest_s
    assert 2.0 <= module._pause_s(0, 2.0) <= 2.1


def test_retry_after_is_seconds_or_a_date() -> None:
    assert module._retry_after_s("3") == 3
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    npt.assert_allclose(module._retry_after_s(later), 60, atol=2)
    earlier = format_datetime(datetime.now(UTC) - timedelta(seconds=60), usegmt=True)
    never = "Fri, 31 Dec 9999 23:59:59 -2300"
    for text in ("", "soon", "-1", earlier, never):
        assert module._retry_after_s(text) == 0


def test_an_error_survives_another_process() -> None:
    error = module.Busy("OVERLOADED", "too many requests", 429, "1a2b", 1.0)
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(copy) is module.Busy
    assert vars(copy) == vars(error)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "127.0.0.1:8080"}, "url"),
        ({"url": "ftp://127.0.0.1"}, "url"),
        ({"key": "s3cret\n"}, "key"),
        ({"timeout_s": 0.0}, "timeout_s"),
        ({"retries": -1}, "retries"),
    ],
)
def test_wrong_settings_are_refused(kind: Any, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        kind(**{"url": "http://127.0.0.1:8080", **wrong})
    assert "s3cret" not in str(caught.value)


def test_a_copy_of_the_file_needs_nothing_but_httpx(tmp_path: Path) -> None:
    shutil.copy(CHECKOUT / "serving" / "client.py", tmp_path)
    program = "import client, sys; print(*{m.split('.')[0] for m in sys.modules})"
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.split())
    assert "httpx" in loaded
    assert loaded.isdisjoint({"pandas", "numpy", "registry", "serving", "msgspec"})
