"""First starts: several at the same moment, and one that was killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from registry import files
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import connection, descriptions
from registry.versions.store import Store

ROOT = Path(__file__).parents[2]
STARTER = Path(__file__).with_name("starter.py")
Environment = Callable[[Settings], dict[str, str]]


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings whose databases have no tables; PostgreSQL holds both in one."""
    if request.param == "sqlite":
        return Settings(var_dir=tmp_path / "var")
    server: Any = request.getfixturevalue("postgres")
    name = f"first_{os.getpid()}_{time.monotonic_ns()}"
    server.psql(f"create database {name}")
    uri = server.get_uri(driver="psycopg2", database=name)
    return Settings(var_dir=tmp_path / "var", tracking_uri=uri, ledger_uri=uri)


@contextmanager
def started(settings: Settings, number: int, variables: Environment) -> Iterator[Any]:
    """That many processes that start at the same moment."""
    process = subprocess.Popen(
        [sys.executable, str(STARTER), str(number)],
        env=variables(settings), cwd=ROOT, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    with process:
        yield process


def check(settings: Settings, runs: int) -> None:
    """Registry and ledger work, with one experiment of each name and nothing beside the files."""
    store = Store(settings)
    with open_ledger(store) as ledger:
        assert ledger.models() == []
    experiments = {entity.name: entity for entity in store.client.search_experiments()}
    assert set(experiments) == {"Default", "train", *descriptions.EXPERIMENTS}
    assert len(store.client.search_runs([experiments["train"].experiment_id])) == runs
    assert {path.name for path in settings.var_dir.iterdir()} <= {"mlflow.db", "ledger.db"}


def _at_work(settings: Settings) -> bool:
    """Whether MLflow's tables are being made."""
    if settings.tracking.startswith("sqlite"):
        made = settings.var_dir.glob("mlflow.db@*/mlflow.db")
        return any(path.stat().st_size for path in made)
    engine = sa.create_engine(settings.tracking)
    try:
        with engine.connect() as query:
            held = sa.text("select count(*) from pg_locks where locktype = 'advisory'")
            tables = sa.text("select count(*) from information_schema.tables "
                             "where table_schema = 'public'")  # fmt: skip
            return bool(query.scalar(held)) and bool(query.scalar(tables))
    finally:
        engine.dispose()


def test_several_first_starts_succeed_together_after_one_that_was_killed(
    empty: Settings, environment_of: Environment
) -> None:
    with started(empty, 1, environment_of) as process:
        while not _at_work(empty):
            assert process.poll() is None
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
    with started(empty, 3, environment_of) as process:
        _, messages = process.communicate(timeout=300)
    assert process.returncode == 0, messages
    assert "Traceback" not in messages
    check(empty, runs=3)


def test_a_database_of_older_mlflow_is_migrated_by_one_process_at_a_time(
    database: Path, tmp_path: Path
) -> None:
    """A file whose tables are not all there is not replaced; its lock is beside it."""
    path = tmp_path / "mlflow.db"
    path.write_bytes(database.read_bytes())
    engine = sa.create_engine(f"sqlite:///{path}")
    assert connection._is_ready(engine)
    with engine.begin() as older:
        older.execute(sa.text("update alembic_version set version_num = '181f10493468'"))
    assert not connection._is_ready(engine)
    with connection._alone(engine, path):
        assert files.is_locked(files.lock_of(path))
    engine.dispose()
