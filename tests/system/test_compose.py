"""docker-compose.yml on a real Docker engine: `make test-system` (tests/system/run.py).

The tests are one story, in this order. The Python and PostgreSQL base images are stand-ins, which
tests/system/engine.py makes; nothing else is replaced. The model is trained and promoted from the
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
SERVICES = ("postgres", "mlflow", "scorer")
UI = "http://127.0.0.1:5000"
SCORER = "http://127.0.0.1:5001"
MODELS = f"{UI}/api/2.0/mlflow/registered-models/search?max_results=1"
# docker-init and the server; mlflow: uvicorn, workers, tracker; scorer: MLflow, uvicorn.
PROGRAMS = {"postgres": 2, "mlflow": 5, "scorer": 4}
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
            "KRONOS_VAR_DIR": str(var_dir),
        }
        self.request = ""  # body of a request to nbeats, once there is a version

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

    def promoted(self, seed: int) -> None:
        """Train a tiny nbeats and put it into Production."""
        train = ["jobs", "train", "nbeats", "--tiny", "--report_every", "20"]
        self.run(*train, "--seed", str(seed))
        self.run("registry", "promote", "nbeats", "latest", "--why", f"seed {seed}")


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    return Host(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="module", autouse=True)
def stack() -> Iterator[None]:
    """Take the stack down at the end, so that the engine can stop."""
    yield
    docker(*COMPOSE, "down", "--volumes")


def asked(request: str) -> pd.DataFrame:
    """The scorer's reply to the body of a request."""
    headers = {"Content-Type": "application/json"}
    reply = httpx.post(f"{SCORER}/invocations", content=request, headers=headers, timeout=60)
    assert reply.status_code == 200, reply.text
    return pd.DataFrame(reply.json()["predictions"])


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
    imports = f"import {', '.join(modules)}, serving.scorer, registry.hub.mirror"
    in_image("python", "-W", "ignore", "-c", imports)
    assert "jobs" not in in_image("ls", "/app").split()


# --- the stack ----------------------------------------------------------------------------------


def test_a_model_trained_and_promoted_from_the_host_is_served(host: Host):
    up("mlflow")
    host.run("jobs", "compile")
    host.promoted(seed=1)
    host.request = host.run("serving", "request", "nbeats")
    before = container("mlflow")["Id"]
    up()
    assert container("mlflow")["Id"] == before  # a healthy service is left alone
    frame = asked(host.request)
    assert list(frame["notes"].unique()) == ["nbeats version 1"]
    npt.assert_allclose(frame["q0.5"], forecast_by_the_host(host)["q0.5"], atol=1e-9)


def forecast_by_the_host(host: Host) -> pd.DataFrame:
    """The reply that stock MLflow gives on the host, of the same version."""
    body = Path(host.environment["KRONOS_VAR_DIR"]) / "request.json"
    body.write_text(host.request)
    reply = body.with_name("reply.json")
    command = ["mlflow", "models", "predict", "-m", "models:/nbeats@production"]
    command += ["--env-manager", "local", "-t", "json", "-i", str(body), "-o", str(reply)]
    host.environment["MLFLOW_TRACKING_URI"] = UI
    host.run(*command)
    return pd.DataFrame(json.loads(reply.read_text())["predictions"])


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


def test_the_database_reaches_nothing_and_mlflow_is_all_that_reaches_it():
    connect = "import socket; socket.create_connection(('{}', {}), 3)"
    database = connect.format("postgres", 5432)
    assert attempt("exec", "kronos-registry-mlflow-1", "python", "-c", database)[0] == 0
    assert attempt("exec", "kronos-registry-scorer-1", "python", "-c", database)[0] != 0
    outside = connect.format("10.0.2.3", 53)  # the network's name server
    assert attempt("exec", "kronos-registry-postgres-1", "python", "-c", outside)[0] != 0


def test_a_restarted_scorer_serves_what_was_promoted_since(host: Host):
    host.promoted(seed=2)
    assert list(asked(host.request)["notes"].unique()) == ["nbeats version 1"]
    docker(*COMPOSE, "restart", "scorer")
    wait(lambda: answered(f"{SCORER}/ping"))
    assert list(asked(host.request)["notes"].unique()) == ["nbeats version 2"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_process_is_replaced(service: str, host: Host):
    """Each program of a service once."""
    killed: set[str] = set()
    while fresh := [each for each in programs(service) if each[0] not in killed]:
        name, process = fresh[0]
        killed.add(name)
        process.send_signal(signal.SIGKILL)
        psutil.wait_procs([process], timeout=20)
        wait(lambda: container(service)["State"]["Running"] and answered(MODELS))
        wait(lambda: answered(f"{SCORER}/ping"))
        assert list(asked(host.request)["notes"].unique()) == ["nbeats version 2"]
    assert len(killed) == PROGRAMS[service]
    served = docker("exec", container("scorer")["Id"], "ls", "/var/lib/kronos/var/state").split()
    assert len([name for name in served if name.startswith("nbeats-2@")]) == 1  # of no dead one


def programs(service: str) -> list[tuple[str, psutil.Process]]:
    """Processes of a service that stay, each with the begin of its command line as its name.

    The children of PostgreSQL's server come and go with it.
    """
    listed = []
    for process in processes(service, everyone=service != "postgres"):
        name = re.sub(r"\d+", "N", " ".join(process.cmdline()[:4]))
        listed.append((name, process))
    return listed


def test_mlflow_is_unhealthy_while_the_database_is_down_and_the_scorer_answers(host: Host):
    docker(*COMPOSE, "stop", "postgres")
    wait(lambda: container("mlflow")["State"]["Health"]["Status"] == "unhealthy", 120)
    assert not answered(MODELS)
    assert list(asked(host.request)["notes"].unique()) == ["nbeats version 2"]
    docker(*COMPOSE, "start", "postgres")
    wait(lambda: container("mlflow")["State"]["Health"]["Status"] == "healthy", 120)


def test_down_and_up_again_keeps_everything(host: Host):
    before = asked(host.request)
    listed = host.run("registry", "show", "nbeats")
    docker(*COMPOSE, "down")
    assert "kronos-registry" not in docker("ps", "--all", "--format", "{{.Names}}")
    up()
    assert host.run("registry", "show", "nbeats") == listed
    pd.testing.assert_frame_equal(asked(host.request), before)
