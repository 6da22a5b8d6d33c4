"""Runs of jobs on SQLite and PostgreSQL: each key is done once, by one process at a time."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, date, datetime
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import sqlalchemy as sa

from registry.errors import BadParameter, Conflict
from registry.ledger import database, faults, regimes, revisions
from registry.ledger.job_runs import JobRun, completed, incomplete, job_run, job_runs, matching
from registry.ledger.regimes import Regime

HOLDER = Path(__file__).parent / "holder.py"
ROOT = Path(__file__).parents[2]


def run(engine: sa.Engine, key: str, job: str = "calibrate") -> bool:
    """Whether the work of a key was left to do."""
    with job_run(engine, job, key) as held:
        if held is None:
            return False
        held.complete("mlflow-run")
        return True


def test_a_key_is_done_once_and_one_that_was_left_is_taken_up(engine: sa.Engine):
    assert run(engine, "2026-11-26")
    assert not run(engine, "2026-11-26")
    with pytest.raises(ZeroDivisionError), job_run(engine, "calibrate", "2026-11-25"):
        raise ZeroDivisionError
    with job_run(engine, "calibrate", "2026-11-24"):
        pass  # left without `complete`
    assert completed(engine, "calibrate") == ["2026-11-26"]
    found = [(fault.kind, fault.data, fault.code) for fault in faults.find(engine)]
    assert found == [("job", "calibrate", "JOB_CUT")] * 2
    assert "2026-11-25" in faults.find(engine)[0].message
    assert run(engine, "2026-11-25")
    assert run(engine, "2026-11-24")
    assert run(engine, "2026-11-26", job="score")
    assert completed(engine, "calibrate") == ["2026-11-24", "2026-11-25", "2026-11-26"]
    assert faults.find(engine) == []
    with pytest.raises(BadParameter, match="key is no text of 1 to 128"):
        run(engine, "")


def test_runs_are_found_by_the_beginning_of_their_keys(engine: sa.Engine):
    for key in ("a_b 2026-11-25", "aXb 2026-11-25", "a_b 2026-11-24"):
        run(engine, key)
    with job_run(engine, "calibrate", "a_b 2026-11-26"):
        pass  # left without `complete`
    begun = [(row.key, row.completed_at is None) for row in matching(engine, "calibrate", "a_b ")]
    assert begun == [
        ("a_b 2026-11-25", False),
        ("a_b 2026-11-24", False),
        ("a_b 2026-11-26", True),
    ]
    assert matching(engine, "score", "a_b ") == []


def test_a_run_is_refused_while_its_process_lives_and_taken_up_after_a_kill(
    engine: sa.Engine, ledger_uri: str
):
    command = [sys.executable, str(HOLDER), ledger_uri, "calibrate", "2026-11-26"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(Conflict, match=rf"process {holder.pid} on \S+ runs calibrate for"):
                run(engine, "2026-11-26")
            assert faults.find(engine) == []
        finally:
            holder.kill()
    assert [fault.code for fault in faults.find(engine)] == ["JOB_CUT"]
    assert run(engine, "2026-11-26")


def test_of_several_that_begin_at_once_one_holds_the_run(engine: sa.Engine):
    together = Barrier(4, timeout=60)

    def work(_: int) -> str:
        together.wait()
        try:
            with job_run(engine, "calibrate", "2026-11-26") as held:
                together.wait()  # all have begun, while the holder holds
                assert held is not None
                held.complete("mlflow-run")
                return "done"
        except Conflict:
            together.wait()
            return "busy"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(work, range(4))) == ["busy", "busy", "busy", "done"]


def test_a_run_that_another_process_took_over_writes_nothing_more(engine: sa.Engine):
    with job_run(engine, "calibrate", "2026-11-26") as held:
        assert held is not None
        with held.transaction():
            pass
        with database.write(engine) as connection:  # as another process takes it
            connection.execute(sa.update(job_runs).values(pid=0))
        with pytest.raises(Conflict, match="no longer holds the run"), held.transaction():
            pytest.fail("the transaction of a run that was lost began")
        with pytest.raises(Conflict):
            held.complete("mlflow-run")
    assert completed(engine, "calibrate") == []


@pytest.mark.parametrize("completes", [True, False])
def test_of_two_that_take_up_a_run_the_later_one_hears_of_the_other(
    engine: sa.Engine, ledger_uri: str, completes: bool
):
    with job_run(engine, "calibrate", "2026-11-26"):
        pass  # left without `complete`
    faster = database.connect(ledger_uri)
    used: list[sa.Engine] = []
    with ExitStack() as holding:

        @sa.event.listens_for(engine, "after_cursor_execute")
        def _be_faster(_: Any, __: Any, statement: str, *___: Any) -> None:
            if not statement.startswith("SELECT") or faster in used:
                return
            used.append(faster)  # once: after the first look at the run
            held = holding.enter_context(job_run(faster, "calibrate", "2026-11-26"))
            assert held is not None
            if completes:
                held.complete("mlflow-run")

        if completes:
            assert not run(engine, "2026-11-26")
        else:
            with pytest.raises(Conflict, match=rf"process {os.getpid()} on \S+ runs calibrate"):
                run(engine, "2026-11-26")
    faster.dispose()


def open_run(engine: sa.Engine) -> JobRun:
    """The one run that is not completed."""
    with database.read(engine) as connection:
        [run] = incomplete(connection)
    return run


def test_a_transaction_renews_the_hold_and_the_run_is_completed_after_it(engine: sa.Engine):
    with job_run(engine, "calibrate", "2026-11-26") as held:
        assert held is not None
        since = open_run(engine).held_since
        for _ in range(2):
            with held.transaction():
                pass
            assert open_run(engine).held_since > since
            since = open_run(engine).held_since
        with pytest.raises(ZeroDivisionError), held.transaction():
            raise ZeroDivisionError
        assert open_run(engine).held_since == since
        with pytest.raises(BadParameter, match="run_id is no text"):
            held.complete("")
        held.complete("mlflow-run")
        with pytest.raises(Conflict, match="no longer holds the run"):
            held.complete("mlflow-run")
    assert completed(engine, "calibrate") == ["2026-11-26"]


def test_work_and_its_completion_are_one_transaction(engine: sa.Engine):
    regime = Regime(data="panel", name="volatility", ds=date(2026, 11, 26), label="calm")

    def work(fails: bool) -> None:
        with job_run(engine, "regimes", "2026-11-26") as held:
            assert held is not None
            with held.transaction() as connection:
                at = datetime.now(UTC)
                revisions.revise(connection, regimes.regimes, [vars(regime)], at)
                held.complete("mlflow-run")
                if fails:
                    raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work(fails=True)
    assert completed(engine, "regimes") == []
    assert regimes.known(engine, "panel", "volatility").empty
    assert open_run(engine).host is None
    work(fails=False)
    assert completed(engine, "regimes") == ["2026-11-26"]
    assert len(regimes.known(engine, "panel", "volatility")) == 1
