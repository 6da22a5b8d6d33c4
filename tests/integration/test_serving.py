"""The stock `mlflow models serve` on the stage, and `python -m serving scorer` around it."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.testing as npt
import pandas as pd
import psutil
import pytest

from jobs.training import planning, train
from jobs.training.references import References
from registry.codes import CODES
from registry.forecast import names
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import CHECKOUT, Settings
from registry.versions import environments
from registry.versions.environments import of_programs
from registry.versions.store import Store
from serving.launch import free_port
from serving.scorer import Scorer

MODEL = "nbeats"


@dataclass(frozen=True)
class Served:
    """A promoted version behind the stock server, and a history for its requests."""

    url: str
    store: Store
    history: pd.DataFrame

    def post(self, rows: pd.DataFrame | list[list[Any]], **params: Any) -> httpx.Response:
        body = {"dataframe_split": _split(rows) if isinstance(rows, pd.DataFrame) else _raw(rows)}
        if params:
            body["params"] = params
        return self.invoke(json.dumps(body))  # with NaN and Infinity as Python writes them

    def invoke(self, body: str | bytes, content_type: str = "application/json") -> httpx.Response:
        headers = {"Content-Type": content_type} if content_type else {}
        return httpx.post(f"{self.url}/invocations", content=body, headers=headers, timeout=60)

    def columns(self, orient: Any) -> Any:
        """The history as plain values: records, or a list for each column."""
        dated = self.history.assign(ds=self.history["ds"].dt.strftime("%Y-%m-%d"))
        return dated.to_dict(orient)


def _split(frame: pd.DataFrame) -> dict[str, Any]:
    dated = frame.assign(ds=frame["ds"].dt.strftime("%Y-%m-%d"))
    return _raw(dated.to_numpy(dtype=object).tolist())


def _raw(rows: list[list[Any]]) -> dict[str, Any]:
    return {"columns": list(names.HISTORY), "data": rows}


@pytest.fixture(scope="module")
def promoted(compiled: Settings) -> Settings:
    """A tiny nbeats in Production."""
    plan = planning.plan(compiled, MODEL, {"report_until": "2020-02-28"}, seed=2, tiny=True)
    version = train.train(compiled, plan, References()).version
    with open_ledger(Store(compiled)) as ledger:
        moves.promote(
            Store(compiled), ledger, MODEL, version.version, who="tests", why="to be served"
        )
    return compiled


@pytest.fixture(scope="module")
def served(promoted: Settings, panel: pd.DataFrame) -> Iterator[Served]:
    """`mlflow models serve -m models:/nbeats/Production`, as a user of MLflow starts it."""
    store = Store(promoted)
    history = panel[panel["unique_id"].isin(["AAPL", "KO", "XOM"])].groupby("unique_id").tail(60)
    version = store.resolve(MODEL)
    scorer = Scorer(promoted, version, store.fetch(version), host="127.0.0.1", port=0)
    command = scorer.launch.command
    command[command.index("-m", 3) + 1] = f"models:/{MODEL}/Production"
    scorer.launch.environment.update(environments.of_mlflow(promoted))
    with scorer:
        scorer.wait_ready()
        yield Served(scorer.url, store, history[list(names.HISTORY)].reset_index(drop=True))


def test_served_numbers_are_those_of_a_direct_predict(served: Served) -> None:
    levels = [0.05, 0.25, 0.5, 0.95]
    reply = served.post(served.history, horizon=3, levels=levels)
    assert reply.status_code == 200, reply.text
    frame = pd.DataFrame(reply.json()["predictions"])
    with served.store.load(MODEL) as version:
        direct = version.forecast(served.history, horizon=3, levels=levels)
    numbers = ["mean", "q0.05", "q0.25", "q0.5", "q0.95"]
    assert list(frame.columns) == ["unique_id", "step", "ds", *numbers, "notes"]
    number = served.store.resolve(MODEL).version
    assert set(frame["notes"]) == set(direct["notes"]) == {f"{MODEL} version {number}"}
    assert frame["unique_id"].tolist() == direct["unique_id"].tolist()
    assert frame["step"].tolist() == [1, 2, 3] * 3
    assert frame["ds"].str[:10].tolist() == ["2022-12-29", "2022-12-30", "2023-01-03"] * 3
    npt.assert_allclose(frame[numbers], direct[numbers], rtol=0, atol=1e-9)


def test_stage_uri_of_mlflow_loads_the_promoted_version(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.setattr(sys, "path", list(sys.path))  # MLflow adds the version's code folder
    model = mlflow.pyfunc.load_model(f"models:/{MODEL}/Production")
    assert model.metadata.run_id == served.store.resolve(MODEL).run_id


@pytest.mark.parametrize(
    ("change", "params", "code"),
    [
        (lambda h: h.head(60).assign(y=h["y"].where(h.index != 7, np.nan)), {}, "NON_FINITE"),
        (lambda h: h.head(60).assign(y=h["y"].where(h.index != 7, np.inf)), {}, "NON_FINITE"),
        (lambda h: h.iloc[::-1], {}, "UNSORTED"),
        (lambda h: pd.concat([h.iloc[:60], h.iloc[59:]]), {}, "DUPLICATE_SESSION"),
        (lambda h: h.iloc[10:60], {}, "TOO_SHORT"),
        (lambda h: h.iloc[:0], {}, "EMPTY"),
        (lambda h: h.assign(y=h["y"] * 1000), {}, "BAD_RETURN"),
        (
            lambda h: h.head(60).assign(ds=h["ds"].where(h.index != 0, pd.Timestamp("2022-10-01"))),
            {},
            "NOT_A_SESSION",
        ),
        (lambda h: h, {"horizon": 0}, "BAD_HORIZON"),
        (lambda h: h, {"horizon": -(10**18)}, "BAD_HORIZON"),
        (lambda h: h, {"horizon": 6}, "BAD_HORIZON"),
        (lambda h: h, {"levels": [0.01]}, "BAD_LEVELS"),
        (lambda h: h, {"levels": [1.2]}, "BAD_LEVELS"),
        (lambda h: h, {"levels": [0.5, 0.1]}, "BAD_LEVELS"),
        (lambda h: h, {"seed": -1}, "BAD_SEED"),
        (lambda h: h, {"output": "poem"}, "BAD_OUTPUT"),
        (lambda h: h, {"output": "prices"}, "NOT_AVAILABLE"),
        (lambda h: h, {"horizon": None}, "BAD_HORIZON"),
        (lambda h: h, {"horizon": 1.5}, "BAD_HORIZON"),
        (lambda h: h, {"horizon": [2]}, "BAD_HORIZON"),
        (lambda h: h, {"horizon": 2**70}, "BAD_HORIZON"),
        (lambda h: h, {"seed": None}, "BAD_SEED"),
        (lambda h: h, {"seed": "1"}, "BAD_SEED"),
        (lambda h: h, {"levels": None}, "BAD_LEVELS"),
        (lambda h: h, {"levels": [None]}, "BAD_LEVELS"),
        (lambda h: h, {"levels": [0.1, [0.5]]}, "BAD_LEVELS"),
        (lambda h: h, {"output": None}, "BAD_OUTPUT"),
        (lambda h: h, {"colour": "red"}, "UNKNOWN_PARAM"),
    ],
)
def test_a_bad_request_gets_our_code_and_its_status_and_nothing_of_its_data(
    served: Served, change: Any, params: dict[str, Any], code: str
) -> None:
    reply = served.post(change(served.history), **params)
    assert reply.status_code == (422 if code == "NOT_AVAILABLE" else 400), reply.text
    assert reply.status_code == CODES[code].kind.status

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} in the body")

    body = json.loads(reply.text, parse_constant=refuse)
    assert body["code"] == code
    assert body["message"]
    if code == "NOT_A_SESSION":
        closed = "has dates on which XNYS was closed: 2022-10-01; leave them out"
        assert body["message"] == f"series 1 of 1 {closed}"
    numbers = served.history["y"].abs().map(lambda y: f"{y:.5f}")
    for secret in ("Traceback", "stack_trace", "AAPL", *numbers, str(CHECKOUT), "dataframe"):
        assert secret not in reply.text


def test_one_bad_series_is_named_by_its_place_and_the_others_are_answered(served: Served) -> None:
    history = served.history
    broken = history.assign(y=history["y"].where(history.index != 7, np.nan))
    reply = served.post(broken)
    assert reply.status_code == 200, reply.text
    rows = pd.DataFrame(reply.json()["predictions"])
    symbols = history["unique_id"].unique().tolist()
    assert rows["unique_id"].unique().tolist() == symbols[1:]
    note = f"1 of {len(symbols)} series were refused: series 1 NON_FINITE"
    number = served.store.resolve(MODEL).version
    assert set(rows["notes"]) == {f"{note}; {MODEL} version {number}"}
    packed = served.post(broken, output="packed").json()["predictions"]
    assert [entry["code"] for entry in packed["refused"]] == ["NON_FINITE"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"y": None}, "MISSING_COLUMN"),
        ({"y": "much"}, "NOT_A_NUMBER"),
        ({"y": "0.01"}, "NOT_A_NUMBER"),
        ({"y": True}, "NOT_A_NUMBER"),
        ({"ds": 1672185600000}, "BAD_TIMESTAMP"),
        ({"ds": "2022-12-28T00:00:00Z"}, "BAD_TIMESTAMP"),
        ({"unique_id": 7}, "BAD_SYMBOL"),
    ],
    ids=str,
)
def test_a_value_is_not_cast_before_it_is_checked(
    served: Served, change: dict[str, Any], code: str
) -> None:
    """MLflow's own reading takes truth values, numbers in text and nanoseconds."""
    records = []
    for record in served.columns("records"):
        changed = record | change
        records.append({name: value for name, value in changed.items() if value is not None})
    reply = served.invoke(json.dumps({"dataframe_records": records}))
    assert reply.status_code == 400
    assert reply.json()["code"] == code
    assert "AAPL" not in reply.text
    of_numbers = "a number is read as nanoseconds; send dates as in 2022-12-28"
    assert (of_numbers in reply.json()["message"]) == (change == {"ds": 1672185600000})


def test_every_form_of_a_request_gets_the_same_reply(served: Served) -> None:
    expected = served.post(served.history).text
    columns, records = served.columns("list"), served.columns("records")
    for form, data in (
        ("dataframe_records", records),
        ("inputs", columns),
        ("instances", records),
    ):
        assert served.invoke(json.dumps({form: data})).text == expected, form
    table = served.history.assign(unique_id=served.history["unique_id"].astype("category"))
    assert served.invoke(served.history.to_csv(index=False), "text/csv").text == expected
    assert served.invoke(table.to_parquet(), "application/vnd.apache.parquet").text == expected


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        ("unique_id,ds,y\nAAPL,2022-12-28\n", "text/csv", 400),
        (b"PAR1", "application/vnd.apache.parquet", 400),
        ("{", "application/json", 400),
        ("[" * 100_000, "application/json", 400),
        ("{}", "text/plain", 415),
        ("AAPL", "text/csv;\tcharset=utf-8; charset=latin-1", 415),
        ("{}", "", 415),
    ],
    ids=["CSV", "Parquet", "JSON", "depth", "another type", "another charset", "no type"],
)
def test_a_body_that_cannot_be_read_is_refused_without_a_trace(
    served: Served, body: str | bytes, content_type: str, status: int
) -> None:
    reply = served.invoke(body, content_type)
    assert reply.status_code == status
    assert status == 415 or reply.json()["code"] == "NOT_A_TABLE"
    for secret in ("Traceback", "stack_trace", "AAPL", "site-packages", str(CHECKOUT)):
        assert secret not in reply.text


def test_concurrent_clients_each_get_their_own_forecast(served: Served) -> None:
    with served.store.load(MODEL) as version:
        scaled = [served.history.assign(y=served.history["y"] * (1 - i / 40)) for i in range(32)]
        expected = [version.forecast(history)["q0.95"].to_numpy() for history in scaled]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(served.post, scaled))
    for reply, numbers in zip(replies, expected, strict=True):
        quantiles = [row["q0.95"] for row in reply.json()["predictions"]]
        npt.assert_allclose(quantiles, numbers, rtol=0, atol=1e-9)


@contextmanager
def _start(settings: Settings, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`python -m serving scorer`; terminated at the end, if it still runs."""
    environment = {
        **of_programs(settings),
        "KRONOS_VAR_DIR": str(settings.var_dir),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "serving", "scorer", *arguments],
        cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()


class Terminal:
    """`make serve` in a terminal of its own, which is closed at the end."""

    def __init__(self, settings: Settings, **variables: str) -> None:
        environment = of_programs(settings) | variables
        environment["KRONOS_VAR_DIR"] = str(settings.var_dir)
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.chdir(CHECKOUT)
            # READY is what `make setup` makes; this environment is not made anew in a test.
            os.execvpe("make", ["make", "serve", f"MODEL={MODEL}", "READY=.venv"], environment)
        self.output = ""

    def read_until(self, text: str) -> None:
        """Read what is printed; raises OSError at its end."""
        while text not in self.output:
            self.output += os.read(self._terminal, 4096).decode()

    def press_ctrl_c(self) -> None:
        os.write(self._terminal, b"\x03")

    def close(self) -> int:
        """Read to the end; the exit code of make, negative for a signal."""
        with suppress(OSError):
            self.read_until("there is no such text")
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._terminal)  # what still runs in it gets a hang-up


def _unread(port: int) -> list[int]:
    """Bytes that wait to be read on each connection to a server on this machine."""
    unread = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, _, state, queues, *_ = line.split()
        if int(local.split(":")[1], 16) == port and state == "01":  # established
            unread.append(int(queues.split(":")[1], 16))
    return unread


def _refused(url: str) -> bool:
    try:
        httpx.get(f"{url}/ping", timeout=5)
    except httpx.ConnectError:
        return True
    return False


def test_make_serve_answers_and_ctrl_c_ends_it_quietly_after_the_requests_in_flight(
    promoted: Settings,
) -> None:
    with Terminal(promoted, KRONOS_PORT="0", KRONOS_QUEUE_S="60") as terminal:
        terminal.read_until("Ctrl-C stops it")
        line = next(line for line in terminal.output.splitlines() if '{"url"' in line)
        ready = json.loads(line[line.index("{") :])
        store = Store(promoted)
        version = store.resolve(MODEL)
        [model] = ready["models"]
        assert (model["name"], model["version"]) == (MODEL, version.version)
        split = store.example_request(version)["dataframe_split"]
        series = [[f"S{n:03d}", *row[1:]] for n in range(30) for row in split["data"]]
        body = {"dataframe_split": {**split, "data": series}}
        sent: list[str] = []
        replies: list[httpx.Response] = []

        def trace(event: str, _: Any) -> None:
            if event == "http11.send_request_body.complete":
                sent.append(event)

        def post() -> None:
            with httpx.Client(timeout=100) as client:
                url = f"{ready['url']}/invocations"
                replies.append(client.post(url, json=body, extensions={"trace": trace}))

        port = int(ready["url"].rpartition(":")[2])
        with ThreadPoolExecutor(24) as pool:
            posted = [pool.submit(post) for _ in range(24)]
            while len(sent) < len(posted) or any(_unread(port)):  # not all arrived yet
                time.sleep(0.01)
            assert len(replies) < len(posted)
            terminal.press_ctrl_c()
            terminal.press_ctrl_c()  # changes nothing
            while not _refused(ready["url"]):
                time.sleep(0.01)
        assert [future.exception() for future in posted] == [None] * len(posted)
        assert [reply.status_code for reply in replies] == [200] * len(posted)
        rows = replies[-1].json()["predictions"]
        assert [row["step"] for row in rows[:5]] == [1, 2, 3, 4, 5]
        assert {row["notes"] for row in rows} == {f"{MODEL} version {version.version}"}
        # make passes on to itself the signal that ended it, as shells expect, and reports no error.
        assert terminal.close() == -signal.SIGINT
        last = terminal.output.partition("Ctrl-C stops it")[2]
        assert " stopping" in last
        assert not [word for word in ("error", "warning", "Traceback") if word in last], last


def test_of_two_servers_on_one_port_one_is_ready_and_it_ends_with_its_parent(
    promoted: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "s3cret")
    port = free_port("127.0.0.1")
    url = f"http://127.0.0.1:{port}"
    version = Store(promoted).resolve(MODEL)  # other tests of this worker promote later ones
    log = promoted.logs_dir / f"serve_{MODEL}_{version.version}.log"
    before = log.read_text() if log.exists() else ""
    with (
        _start(promoted, MODEL, "--port", str(port)) as one,
        _start(promoted, MODEL, "--port", str(port)) as other,
    ):
        lines = {one: "", other: ""}
        with ThreadPoolExecutor(2) as pool:
            for process, line in zip(lines, pool.map(_first_line, lines), strict=True):
                lines[process] = line
        [ready] = [process for process, line in lines.items() if line]
        [refused] = [process for process in lines if process is not ready]
        assert json.loads(lines[ready])["url"] == url
        assert refused.wait(60) == 2
        assert refused.stderr is not None
        assert f"error: PORT_TAKEN: port {port} of 127.0.0.1" in refused.stderr.read()
        assert not _refused(url)
        family = psutil.Process(ready.pid).children(recursive=True)
        assert family
        _check_knows_no_store(family)
        ready.kill()
        _, alive = psutil.wait_procs(family, timeout=30)
        assert alive == []
        assert _refused(url)
    text = log.read_text()
    assert text.startswith(before)
    added = text[len(before) :].splitlines()
    headers = [line for line in added if line.endswith(f"--- {version.uri} on {url}")]
    assert 1 <= len(headers) <= 2  # the second may have been refused before it began
    for line in added:
        time_text, pid, _ = line.split(" ", 2)
        assert datetime.fromisoformat(time_text).utcoffset() == timedelta(0)
        assert pid.isdigit()


def _check_knows_no_store(family: list[psutil.Process]) -> None:
    """The processes of a scoring server know neither stores nor passwords."""
    stores = {"MLFLOW_TRACKING_URI", "KRONOS_TRACKING_URI", "KRONOS_LEDGER_URI"}
    for process in family:
        variables = process.environ()
        assert stores.isdisjoint(variables)
        assert "s3cret" not in " ".join([*variables.values(), *process.cmdline()])


def _first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing",), "error: NOT_FOUND: no model 'nothing' is registered"),
        ((f"{MODEL}@challenger",), "error: NOT_FOUND: nbeats has nothing in challenger"),
        ((MODEL, "--host", "0.0.0.0"), "error: NOT_LOOPBACK"),
    ],
)
def test_serving_scorer_refuses_what_cannot_be_served(
    promoted: Settings, verb: Callable[..., Any], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = verb(promoted, "serving", "scorer", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_corrupt_version_is_not_served(promoted: Settings, verb: Callable[..., Any]) -> None:
    store = Store(promoted)
    version = store.resolve(MODEL)
    weights = store.fetch(version) / "artifacts" / "model" / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        code, out, err = verb(promoted, "serving", "scorer", MODEL, "--port", "0")
    finally:
        weights.write_bytes(content)
    assert (code, out) == (1, "")
    assert "weights.safetensors differs from what was registered" in err.replace("\n", " ")
