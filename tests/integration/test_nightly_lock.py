"""One nightly job at a time, of a var folder and of a ledger on PostgreSQL."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.nightly.alone import alone
from registry.errors import Conflict
from registry.settings import Settings

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys, time
from pathlib import Path
from jobs.nightly.alone import alone
from registry.settings import Settings
with alone(Settings(var_dir=Path(sys.argv[1]), ledger_uri=sys.argv[2]), "mature"):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(folder: Path, ledger: str = "") -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock of a var folder."""
    command = [sys.executable, "-c", HOLDER, str(folder), ledger]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            yield holder
        finally:
            holder.kill()


def test_a_second_start_is_told_who_is_at_work_and_since_when(settings: Settings) -> None:
    with held(settings.var_dir) as holder:
        words = rf"mature is running: process {holder.pid} on \S+ since 20\d\d-\d\d-\d\dT"
        with pytest.raises(Conflict, match=words) as raised, alone(settings, "nightly"):
            pass
        assert raised.value.code == "ALREADY_RUNNING"
    with alone(settings, "nightly"):  # the system freed the lock of the killed process
        pass
    assert not [*settings.state_dir.iterdir()]


def test_a_job_may_call_another_one_and_holds_the_lock_until_its_own_end(
    settings: Settings,
) -> None:
    with alone(settings, "nightly"):
        with alone(settings, "issue"):
            pass
        with alone(settings, "mature"):
            lock = settings.state_dir / "nightly.lock"
            assert lock.exists()
    with alone(settings, "nightly"):
        pass


def test_hosts_that_share_a_ledger_on_postgresql_take_turns(
    ledger_uri: str, tmp_path: Path
) -> None:
    here = Settings(var_dir=tmp_path / "here", ledger_uri=ledger_uri)
    with held(tmp_path / "there", ledger_uri) as holder:
        if ledger_uri.startswith("sqlite"):
            with alone(here, "nightly"):  # a file of another var folder is another matter
                return
        with pytest.raises(Conflict, match="runs on another host"), alone(here, "nightly"):
            pass
        holder.kill()
        holder.wait()
        for _ in range(50):  # the server notices the end of a connection a moment later
            try:
                with alone(here, "nightly"):
                    return
            except Conflict:
                time.sleep(0.1)
    pytest.fail("the lock of a killed process is still held")
