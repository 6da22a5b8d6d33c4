"""docker-compose.yml on a real Docker engine: `make test-system` (tests/system/run.py).

The tests are one story, in this order. The Python and PostgreSQL base images are stand-ins, which
tests/system/engine.py makes; nothing else is replaced. Models are trained and promoted from the
host, as the README says.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy.testing as npt
import pandas as pd
import psutil
import pytest

from registry.settings import CHECKOUT

ROOT = os.environ.get("ENGINE_ROOT", "")
PASSWORD = 'p@ss:w/o$$rd%&?#"1'
COMPOSE = ["compose", "--progress", "plain", "--project-directory", "/srv/checkout"]
COMPOSE += ["-f", "/srv/checkout/docker-compose.yml", "-f", "/srv/stand-ins/compose.yml"]
IMAGE = "kronos-registry:0.1.0"
GATEWAYS = ("kronos-nbeats", "kronos-graph")
SERVICES = ("postgres", "mlflow", *GATEWAYS)
UI = "http://127.0.0.1:5000"
LEDGER = "postgresql+psycopg2://kronos@127.0.0.1:5432/mlflow"
NBEATS = "http://127.0.0.1:8080"
GRAPH = "http://127.0.0.1:8081"
MODELS = f"{UI}/api/2.0/mlflow/registered-models/search?max_results=1"
# docker-init and the server; mlflow: uvicorn, workers, tracker; a gateway: supervisor, MLflow,
# uvicorn. The gateway to graph runs the same programs as the one to nbeats.
PROGRAMS = {"postgres": 2, "mlflow": 5, "kronos-nbeats": 5}
FOLDERS = ["/var/lib/kronos/var/serving/nbeats", "/var/lib/kronos/var/state"]
START_TIMEOUT_S = 240.0  # of a service, until it is healthy
FAMILIES = sorted(path.parent.name for path in (CHECKOUT / "mlprojects").glob("*/model.py"))


# --- the engine and the host --------------------------------------------------------------------


def docker(*words: str, timeout_s: float = 120, password: str = PASSWORD) -> str:
    """Output of a docker command, both streams. AssertionError with it if the command fails."""
    code, output = attempt(*words, timeout_s=timeout_s, password=password)
    assert code == 0, f"docker {' '.join(words[-3:])}: {output[-3000:]}"
    return output


def attempt(*words: str, timeout_s: float = 120, password: str = PASSWORD) -> tuple[int, str]:
    assert ROOT, "no engine: run `make test-system`"
    environment = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "DOCKER_HOST": "unix:///run/docker.sock",
        "KRONOS_POSTGRES_PASSWORD": password,
    }
    done = subprocess.run(
        ["chroot", ROOT, "docker", *words],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout


def up(*services: str) -> None:
    try:
        docker(*COMPOSE, "up", "--detach", "--wait", *services, timeout_s=START_TIMEOUT_S)
    except AssertionError:
        print(docker(*COMPOSE, "logs", "--tail", "40"))
        raise


def in_image(*command: str) -> str:
    """Output of a command in a new container of our image, as closed as the services are."""
    closed = ["--rm", "--read-only", "--tmpfs", "/tmp", "--network", "none", "--cap-drop", "ALL"]
    return docker("run", *closed, IMAGE, *command)


def container(service: str) -> dict[str, Any]:
    """What docker knows of a service's container."""
    [facts] = json.loads(docker("inspect", f"kronos-registry-{service}-1"))
    return dict(facts)


def processes(service: str, everyone: bool = True) -> list[psutil.Process]:
    """Processes of a service, parents first; the first one and its children, or all."""
    first = psutil.Process(container(service)["State"]["Pid"])
    return [first, *first.children(recursive=everyone)]


class Host:
    """Our programs on the host, on the registry in the containers."""

    def __init__(self, var_dir: Path) -> None:
        self.environment = {
            **os.environ,
            "KRONOS_TRACKING_URI": UI,
            "KRONOS_LEDGER_URI": LEDGER,
            "PGPASSWORD": PASSWORD,
            "KRONOS_VAR_DIR": str(var_dir),
        }
        self.requests: dict[str, str] = {}  # MLflow's form, by model, once there is a version

    def run(self, *command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=CHECKOUT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def promoted(self, model: str, seed: int) -> None:
        """Train a tiny version and put it into Production."""
        train = ["jobs", "train", model, "--tiny", "--report_every", "50"]
        self.run(*train, "--seed", str(seed))
        self.run("registry", "promote", model, "latest", "--why", f"seed {seed}")

    def items(self, model: str) -> list[dict[str, Any]]:
        """The series of the example that is stored with a version, in the form of /forecast."""
        frame = pd.DataFrame(**json.loads(self.requests[model])["dataframe_split"])
        features = [name for name in frame.columns if name not in ("unique_id", "ds", "y")]
        items = []
        for symbol, rows in frame.groupby("unique_id"):
            item = {"symbol": symbol, "series": list(rows["y"]), "ds": list(rows["ds"])}
            items.append(item | {"features": rows[features].to_dict("list")})
        return items


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module", autouse=True)
def stack() -> Iterator[None]:
    """Take the stack down at the end, so that the engine can stop."""
    yield
    docker(*COMPOSE, "down", "--volumes")


def asked(url: str, request: str) -> pd.DataFrame:
    """A gateway's raw reply to MLflow's form of a request."""
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{url}/invocations", content=request, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    return pd.DataFrame(reply.json()["predictions"])


def forecast(url: str, **request: Any) -> dict[str, Any]:
    reply = httpx.post(f"{url}/forecast", json=request, timeout=60)
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def serves(version: int, host: Host) -> bool:
    """Whether a version of nbeats answers; other replies and none are waited for."""
    try:
        reply = httpx.post(f"{NBEATS}/forecast", json=host.items("nbeats")[0], timeout=60)
    except httpx.TransportError:
        return False
    return reply.status_code == 200 and reply.json()["meta"]["ver"] == version


def answered(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def wait(condition: Callable[[], bool], timeout_s: float = START_TIMEOUT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not in {timeout_s:.0f} s"
        time.sleep(0.5)


# --- the image ----------------------------------------------------------------------------------


def test_without_a_password_nothing_is_started():
    code, output = attempt(*COMPOSE, "up", "--detach", password="")
    assert code != 0
    assert "set it in .env" in output


def test_the_image_is_built_and_says_that_its_base_is_a_stand_in():
    docker(*COMPOSE, "build", timeout_s=900)
    [image] = json.loads(docker("image", "inspect", IMAGE))
    assert "Debian 12" in image["Config"]["Labels"]["kronos.stand-in"]
    assert "stand-in/python" in docker("image", "ls")
    [base] = json.loads(docker("image", "inspect", "stand-in/python:3.11"))
    packages = (image["Size"] - base["Size"]) / 1e9
    print(f"image: {image['Size'] / 1e9:.2f} GB, of which ours {packages:.2f} GB")


def test_the_image_holds_the_packages_of_its_lock_and_no_others():
    lock = (CHECKOUT / "requirements-inference.lock").read_text().splitlines()
    listed = in_image("pip", "freeze")
    installed = [re.sub(r"\+[a-z0-9.]+$", "", line) for line in listed.splitlines()]
    assert sorted(installed, key=str.lower) == sorted(lock, key=str.lower)
    assert "No broken requirements" in in_image("pip", "check")


def test_the_image_loads_the_code_of_every_family():
    """Its user can read it, although the checkout was closed to everybody but its owner."""
    modules = [f"mlprojects.{family}.model" for family in FAMILIES]
    ours = "serving.gateway.__main__, serving.supervisor.__main__, registry.hub.mirror"
    imports = f"import {', '.join(modules)}, {ours}"
    in_image("python", "-W", "ignore", "-c", imports)
    assert "jobs" not in in_image("ls", "/app").split()


# --- the stack ----------------------------------------------------------------------------------


def test_settings_in_the_env_file_reach_the_gateways():
    file = Path(ROOT) / "srv/checkout/.env"
    file.write_text("KRONOS_POLL_S=1.5\n")
    try:
        config = json.loads(docker(*COMPOSE, "config", "--format", "json"))
    finally:
        file.unlink()
    for name in GATEWAYS:
        environment = config["services"][name]["environment"]
        assert environment["KRONOS_POLL_S"] == "1.5"
        assert not environment.get("KRONOS_QUEUE_S")


def test_a_gateway_starts_before_anything_is_promoted():
    up()
    for url in (NBEATS, GRAPH):
        assert httpx.get(f"{url}/health").status_code == 200
        assert httpx.get(f"{url}/ready").status_code == 503


def test_versions_promoted_from_the_host_are_served(host: Host):
    begun = [container(name)["State"]["StartedAt"] for name in SERVICES]
    host.run("jobs", "compile")
    host.run("jobs", "data", "load", "panel")
    for model, url in (("nbeats", NBEATS), ("graph", GRAPH)):
        host.promoted(model, seed=1)
        host.requests[model] = host.run("serving", "request", model)
        wait(lambda url=url: answered(f"{url}/ready"))
        frame = asked(url, host.requests[model])
        assert f"{model} version 1" in frame["notes"].iloc[0]
    assert [container(name)["State"]["StartedAt"] for name in SERVICES] == begun


def test_a_gateway_answers_what_stock_mlflow_answers_on_the_host(host: Host):
    frame = asked(NBEATS, host.requests["nbeats"])
    npt.assert_allclose(frame["q0.5"], forecast_by_the_host(host)["q0.5"], atol=1e-9)


def forecast_by_the_host(host: Host) -> pd.DataFrame:
    """The reply that stock MLflow gives on the host, of the same version."""
    body = Path(host.environment["KRONOS_VAR_DIR"]) / "request.json"
    body.write_text(host.requests["nbeats"])
    reply = body.with_name("reply.json")
    command = ["mlflow", "models", "predict", "-m", "models:/nbeats@production"]
    command += ["--env-manager", "local", "-t", "json", "-i", str(body), "-o", str(reply)]
    host.environment["MLFLOW_TRACKING_URI"] = UI
    host.run(*command)
    return pd.DataFrame(json.loads(reply.read_text())["predictions"])


def test_forecasts_of_sent_series_are_those_of_mlflow(host: Host):
    for model, url in (("nbeats", NBEATS), ("graph", GRAPH)):
        raw = asked(url, host.requests[model]).query("step == 1")
        reply = forecast(url, forecasts=host.items(model), horizon=[1])
        values = [item["q"]["1"]["p95"] for item in reply["forecasts"]]
        npt.assert_allclose(values, raw["q0.95"], atol=1e-9)


def test_forecasts_by_symbol_take_histories_that_the_host_loaded(host: Host):
    by_symbol = forecast(NBEATS, symbol="AAPL")
    sent = forecast(NBEATS, **host.items("nbeats")[0])  # the last sessions of AAPL
    npt.assert_allclose(by_symbol["q"]["1"]["p95"], sent["q"]["1"]["p95"], atol=1e-9)
    meta = forecast(GRAPH, symbol="AAPL")["meta"]  # with the rest of its universe
    assert meta["history"] == "ledger"
    assert set(meta["covariates"].values()) == {"ledger"}


@pytest.mark.parametrize("service", SERVICES)
def test_a_running_service_may_no_more_than_it_needs(service: str):
    facts = container(service)
    for process in processes(service):
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        assert process.uids().effective == (999 if service == "postgres" else 10001)
    assert facts["HostConfig"]["ReadonlyRootfs"]
    for published in facts["NetworkSettings"]["Ports"].values():
        assert {each["HostIp"] for each in published or []} <= {"127.0.0.1"}
    assert facts["HostConfig"]["LogConfig"] == {
        "Type": "json-file",
        "Config": {"max-file": "3", "max-size": "10m"},
    }


def test_no_process_and_no_log_shows_the_password():
    lines = [" ".join(each.cmdline()) for service in SERVICES for each in processes(service)]
    assert not [line for line in lines if PASSWORD in line]
    assert PASSWORD not in docker(*COMPOSE, "logs")


def test_no_process_that_runs_a_version_has_the_password():
    for service in GATEWAYS:
        scorers = [each for each in processes(service) if _runs_a_version(each)]
        assert len(scorers) == 2  # MLflow, uvicorn
        assert not [each for each in scorers if PASSWORD in each.environ().values()]


def _runs_a_version(process: psutil.Process) -> bool:
    line = " ".join(process.cmdline())
    return "mlflow models serve" in line or "uvicorn" in line


def test_the_database_reaches_nothing_beyond_this_machine():
    outside = connect("10.0.2.3", 53)  # the network's name server
    assert attempt("exec", "kronos-registry-mlflow-1", "python", "-c", outside)[0] == 0
    assert attempt("exec", "kronos-registry-postgres-1", "python", "-c", outside)[0] != 0
    for service in ("mlflow", *GATEWAYS):
        database = connect("postgres", 5432)
        assert attempt("exec", f"kronos-registry-{service}-1", "python", "-c", database)[0] == 0


def connect(host: str, port: int) -> str:
    return f"import socket; socket.create_connection(('{host}', {port}), 3)"


def test_a_promotion_is_followed_without_a_restart_and_no_request_fails(host: Host):
    begun = container("kronos-nbeats")["State"]["StartedAt"]
    item = host.items("nbeats")[0]
    host.promoted("nbeats", seed=2)
    until = time.monotonic() + START_TIMEOUT_S
    version = 1
    while version == 1:
        version = forecast(NBEATS, **item)["meta"]["ver"]
        assert time.monotonic() < until
    assert version == 2
    assert container("kronos-nbeats")["State"]["StartedAt"] == begun


@pytest.mark.parametrize("service", PROGRAMS)
def test_a_killed_process_is_replaced(service: str, host: Host):
    """Each program of a service once."""
    killed: set[str] = set()
    while fresh := [each for each in programs(service) if each[0] not in killed]:
        name, process = fresh[0]
        killed.add(name)
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=20)
        wait(lambda: container(service)["State"]["Running"] and answered(MODELS))
        wait(lambda: serves(2, host))
    assert len(killed) == PROGRAMS[service]


def test_a_gateway_keeps_copies_of_two_versions_and_nothing_of_killed_processes():
    listed = docker("exec", "kronos-registry-kronos-nbeats-1", "ls", *FOLDERS).splitlines()
    names = [re.sub("-[0-9a-f]{12}$", "", line) for line in listed if line]
    assert names == [f"{FOLDERS[0]}:", "1", "2", "current.json", f"{FOLDERS[1]}:"]


def programs(service: str) -> list[tuple[str, psutil.Process]]:
    """Processes of a service that stay, each with the begin of its command line as its name.

    The children of PostgreSQL's server come and go with it.
    """
    listed = []
    for process in processes(service, everyone=service != "postgres"):
        name = re.sub(r"\d+", "N", " ".join(process.cmdline()[:4]))
        listed.append((name, process))
    return listed


def test_forecasts_go_on_while_the_database_is_down(host: Host):
    raw = asked(GRAPH, host.requests["graph"])
    docker(*COMPOSE, "stop", "postgres")
    wait(lambda: container("mlflow")["State"]["Health"]["Status"] == "unhealthy", 120)
    assert not answered(MODELS)
    assert serves(2, host)
    pd.testing.assert_frame_equal(asked(GRAPH, host.requests["graph"]), raw)


def test_a_gateway_that_is_killed_meanwhile_starts_from_its_copy(host: Host):
    processes("kronos-nbeats")[0].kill()
    wait(lambda: serves(2, host))
    [model] = httpx.get(f"{NBEATS}/models").json()["models"]
    assert model["stale"]
    refused = httpx.post(f"{NBEATS}/forecast", json={"symbol": "AAPL"}, timeout=60)
    assert (refused.status_code, refused.json()["error_code"]) == (503, "LEDGER_UNAVAILABLE")


def test_all_recovers_when_the_database_is_back(host: Host):
    docker(*COMPOSE, "start", "postgres")
    wait(lambda: container("mlflow")["State"]["Health"]["Status"] == "healthy", 120)
    wait(lambda: not httpx.get(f"{NBEATS}/models").json()["models"][0]["stale"])
    by_symbol = {"symbol": "AAPL"}
    wait(lambda: httpx.post(f"{NBEATS}/forecast", json=by_symbol, timeout=60).status_code == 200)
    assert serves(2, host)


def test_down_and_up_again_keeps_everything(host: Host):
    before = asked(NBEATS, host.requests["nbeats"])
    listed = host.run("registry", "show", "nbeats")
    docker(*COMPOSE, "stop", *GATEWAYS)
    codes = [container(name)["State"]["ExitCode"] for name in GATEWAYS]
    assert codes == [143, 143]  # SIGTERM: they ended by themselves
    docker(*COMPOSE, "down")
    assert "kronos-registry" not in docker("ps", "--all", "--format", "{{.Names}}")
    up()
    assert host.run("registry", "show", "nbeats") == listed
    wait(lambda: serves(2, host))
    pd.testing.assert_frame_equal(asked(NBEATS, host.requests["nbeats"]), before)
    wait(lambda: answered(f"{GRAPH}/ready"))
    assert forecast(GRAPH, symbol="AAPL")["meta"]["ver"] == 1
