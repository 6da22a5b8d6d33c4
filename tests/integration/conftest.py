"""A registry and a ledger with one real version, on SQLite and on PostgreSQL."""

import functools
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gateways import Gateway, running
from programs import ROOT, environment

from jobs import __main__ as jobs
from jobs.training import planning, train
from jobs.training.references import References
from registry import __main__ as registry
from registry import terminal
from registry.forecast import calendars
from registry.forecast.spec import ModelSpec
from registry.ledger.promotions import Ledger
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store, example_history
from registry.versions.version import Version
from serving import __main__ as serving

PROGRAMS = {"jobs": jobs.app, "registry": registry.app, "serving": serving.app}
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without a model.

    Migrations take seconds, so they run once and tests copy the file.
    """
    settings = Settings(var_dir=tmp_path_factory.mktemp("database"))
    Store(settings)
    return settings.var_dir / "mlflow.db"


@pytest.fixture(scope="session")
def new_registry(compiled: Settings, database: Path) -> Callable[[Path], Settings]:
    """new_registry(folder) -> settings of an empty registry in it, over the compiled data."""

    def create(folder: Path) -> Settings:
        folder.mkdir(exist_ok=True)
        (folder / "data").symlink_to(compiled.var_dir / "data")
        copy = shutil.copy(database, folder)
        with closing(sqlite3.connect(copy)) as connection, connection:
            update = "update experiments set artifact_location = replace(artifact_location, ?, ?)"
            connection.execute(update, (str(database.parent), str(folder)))
        return Settings(var_dir=folder)

    return create


@pytest.fixture(scope="module")
def registered(database: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings of a registry on SQLite with the version ewma/1, without any data."""
    folder = tmp_path_factory.mktemp("registered")
    shutil.copy(database, folder)
    settings = Settings(var_dir=folder)
    log_version(settings, Store(settings), {"crps": 0.005})
    return settings


@dataclass
class Bench:
    """A backend under test: settings, store, ledger, and a version whose files all models share."""

    settings: Settings
    store: Store
    ledger: Ledger
    template: Version

    def model(self, versions: int) -> str:
        """A new registered model with this many versions."""
        import mlflow

        name = f"model_{next(_numbers)}"
        for _ in range(versions):
            tags = {MANIFEST_TAG: self.template.tags[MANIFEST_TAG]}
            mlflow.register_model(self.template.source, name, tags=tags)
        return name

    def model_of_its_own(self, name: str = "") -> Version:
        """A version whose files no other version shares, of a new model if none is named."""
        name = name or f"model_{next(_numbers)}"
        return log_version(self.settings, self.store, {"crps": 0.005}, name)

    def aliases(self, name: str) -> dict[str, int]:
        return self.store.aliases(name)

    def mlflow_stages(self, name: str) -> dict[int, str]:
        return {v.version: v.stage for v in self.store.versions(name)}

    def tags(self, name: str) -> dict[int, str | None]:
        return {v.version: v.tags.get("stage") for v in self.store.versions(name)}

    def audit_runs(self, name: str) -> list[Any]:
        experiment = self.store.client.get_experiment_by_name("promotions")
        if experiment is None:
            return []
        runs = self.store.client.search_runs([experiment.experiment_id], f"tags.model = '{name}'")
        return sorted(runs, key=lambda run: run.info.start_time)


def log_version(
    settings: Settings,
    store: Store,
    metrics: dict[str, float],
    name: str = "ewma",
    *,
    max_context: int = 1000,
    save: Callable[[ModelSpec, Path], None] | None = None,
) -> Version:
    """Log a real, untrained version of an EWMA model, or what `save` writes."""
    from mlprojects.baselines import model as baselines

    spec = ModelSpec(name, "baselines", min_context=10, max_context=max_context, max_horizon=5)
    ds = calendars.sessions(spec.calendar, "2020-01-02", "2020-02-28")
    y = np.random.default_rng(0).normal(0.0, 0.01, len(ds))
    history = pd.DataFrame({"unique_id": "A", "ds": ds, "y": y})
    write = save or (lambda spec, folder: baselines.save(baselines.Ewma(spec), folder))
    with tracking.start(settings, "train", name) as run:
        run.metrics(metrics)
        return store.log(
            spec,
            lambda folder: write(spec, folder),
            requirements=baselines.REQUIREMENTS,
            example=example_history(history, spec),
            tags={"family": "baselines"},
        )


@pytest.fixture(scope="session")
def log_a_version() -> Callable[..., Version]:
    return log_version


def promote(store: Store, name: str, version: int) -> None:
    """Promote a version to Production."""
    with open_ledger(store) as ledger:
        moves.promote(store, ledger, name, version, who="tests", why="to be served")


@pytest.fixture(scope="session")
def promote_a_version() -> Callable[[Store, str, int], None]:
    return promote


@pytest.fixture(scope="session")
def served_models(
    new_registry: Callable[[Path], Settings], tmp_path_factory: pytest.TempPathFactory
) -> Settings:
    """Settings of a registry with ewma and a tiny nbeats in Production."""
    settings = new_registry(tmp_path_factory.mktemp("gateway"))
    store = Store(settings)
    promote(store, "ewma", log_version(settings, store, {"crps": 0.005}).version)
    plan = planning.plan(settings, "nbeats", {"report_until": "2020-02-28"}, seed=2, tiny=True)
    promote(store, "nbeats", train.train(settings, plan, References()).version.version)
    return settings


@pytest.fixture(scope="module")
def gateway(served_models: Settings) -> Iterator[Gateway]:
    """A gateway with ewma and a tiny nbeats. It is patient, and calibration is off."""
    variables = {"KRONOS_CALIBRATION_ENABLED": "0", "KRONOS_QUEUE_S": "20"}
    with running(served_models, ["ewma", "nbeats"], **variables) as gateway:
        yield gateway


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def backend(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Settings, Version]:
    """Settings of a backend that holds one version. MLflow and the ledger share one PostgreSQL."""
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "sqlite":
        settings = Settings(var_dir=folder)
    else:
        uri = request.getfixturevalue("postgres").get_uri(driver="psycopg2")
        settings = Settings(var_dir=folder, tracking_uri=uri, ledger_uri=uri)
    metrics = {"crps": 0.005, "coverage_90": 0.91, "skill_vs_fhs": 0.02}
    return settings, log_version(settings, Store(settings), metrics)


@pytest.fixture
def bench(backend: tuple[Settings, Version]) -> Iterator[Bench]:
    settings, template = backend
    before = dict(os.environ)
    store = Store(settings)
    with open_ledger(store) as ledger:
        yield Bench(settings, store, ledger, template)
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def second(bench: Bench, database: Path, tmp_path: Path) -> Iterator[Bench]:
    """Another registry, with a tracking database of its own, on the ledger of the first."""
    shutil.copy(database, tmp_path / "mlflow.db")
    settings = Settings(var_dir=tmp_path, ledger_uri=bench.settings.ledger)
    store = Store(settings)
    template = log_version(settings, store, {})
    with open_ledger(store) as ledger:
        yield Bench(settings, store, ledger, template)


@pytest.fixture(scope="session")
def environment_of() -> Callable[[Settings], dict[str, str]]:
    return environment


Promoter = Callable[..., Any]


@pytest.fixture(scope="module")
def promoter(backend: tuple[Settings, Version]) -> Iterator[Promoter]:
    """Ask promoter.py: promoter(killed_after_step=2, name=..., version=3) -> its answer."""
    program = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("promoter.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        cwd=ROOT, env=environment(backend[0]),
    )  # fmt: skip

    def ask(**command: Any) -> Any:
        assert program.stdin is not None
        assert program.stdout is not None
        program.stdin.write(json.dumps(command) + "\n")
        program.stdin.flush()
        return json.loads(program.stdout.readline())

    yield ask
    program.communicate()


@pytest.fixture
def shell(capsys, monkeypatch):
    """Run `python -m PROGRAM VERB...` in this process: (exit code, stdout, stderr).

    A process of its own would import MLflow anew, which takes seconds.
    """

    def run(program, *arguments):
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            terminal.run(PROGRAMS[program])
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


@pytest.fixture
def verb(shell, environment_of, monkeypatch):
    """verb(settings, program, *arguments, **variables): a verb under these settings."""

    def run(settings, program, *arguments, **variables):
        for key, value in (environment_of(settings) | variables).items():
            monkeypatch.setenv(key, value)
        return shell(program, *arguments)

    return run


@pytest.fixture
def cli(bench, shell, environment_of, monkeypatch):
    """Run a verb of `python -m registry` on the bench; a test may set other variables before."""
    for key, value in environment_of(bench.settings).items():
        monkeypatch.setenv(key, value)
    return functools.partial(shell, "registry")


@pytest.fixture
def answer(cli):
    """Run a verb with --json that must succeed: the JSON on its stdout."""

    def run(*arguments):
        code, out, err = cli(*arguments, "--json")
        assert code == 0, err
        return json.loads(out)

    return run
