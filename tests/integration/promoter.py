"""A program of test_promotion.py: promotes in child processes that are killed, held or raced.

It imports MLflow once and forks for each command, so that a kill costs little time. One JSON
command per line on standard input, one JSON answer per line on standard output. Settings come from
the environment.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable

import mlflow.pyfunc
import mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.sqlalchemy_store  # noqa: F401
from mlflow.tracking import MlflowClient
from sqlalchemy.orm import configure_mappers

from registry.errors import Conflict
from registry.ledger.claims import Claims
from registry.ledger.promotions import Ledger
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store

KILLED, CONFLICT = 137, 3
WRITES = {
    MlflowClient: (
        "set_registered_model_alias",
        "delete_registered_model_alias",
        "set_model_version_tag",
        "transition_model_version_stage",
        "update_registered_model",
        "set_experiment_tag",
        "create_run",
        "set_tag",
        "log_param",
        "log_text",
        "set_terminated",
    ),
    Ledger: ("claim",),
    Claims: ("update",),
}


def promote(name: str, version: int, why: str) -> int:
    store = Store(Settings())
    with open_ledger(store) as ledger:
        try:
            if version == 0:
                moves.rollback(store, ledger, name, who="child@test", why=why)
            else:
                moves.promote(store, ledger, name, version, who="child@test", why=why)
        except Conflict:
            return CONFLICT
    return 0


def die(*_: object) -> None:
    os._exit(KILLED)


def killed_after_step(n: int, name: str, version: int) -> int:
    """Die after step n, which is not the last; n = 0 is right after the claim."""
    moves.STEPS = (*moves.STEPS[:n], die, *moves.STEPS[n:])
    return promote(name, version, f"killed after step {n}")


def killed_before_write(n: int, name: str, version: int) -> int:
    """Die before the n-th write to MLflow or the ledger."""
    count = itertools.count(1)

    def counted(write: Callable[..., object]) -> Callable[..., object]:
        return lambda *args, **kwargs: die() if next(count) == n else write(*args, **kwargs)

    for owner, names in WRITES.items():
        for method in names:
            setattr(owner, method, counted(getattr(owner, method)))
    return promote(name, version, f"killed before write {n}")


def held(name: str, version: int) -> int:
    """Pause forever after the claim."""
    moves.STEPS = (lambda _: signal.pause(), *moves.STEPS)
    return promote(name, version, "held")


def raced(at: float, name: str, version: int) -> int:
    """Promote at time `at` (epoch seconds); retry on each conflict until it succeeds."""
    time.sleep(max(0.0, at - time.time()))
    while promote(name, version, "raced") == CONFLICT:
        time.sleep(0.05)
    return 0


def opened(at: float, uri: str) -> int:
    time.sleep(max(0.0, at - time.time()))
    with Ledger(Settings(ledger_uri=uri), "a registry") as ledger:
        return len(ledger.models())


def forked(work: Callable[[], int]) -> int:
    pid = os.fork()
    if pid == 0:
        os.dup2(2, 1)  # only the parent writes answers to stdout
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    return pid


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def answer(command: dict) -> object:
    match command:
        case {"killed_after_step": n, "name": name, "version": version}:
            return ended(forked(lambda: killed_after_step(n, name, version)))
        case {"killed_before_write": n, "name": name, "version": version}:
            return ended(forked(lambda: killed_before_write(n, name, version)))
        case {"held": version, "name": name}:
            return forked(lambda: held(name, version))
        case {"kill": pid}:
            os.kill(pid, signal.SIGKILL)
            return ended(pid)
        case {"raced": versions, "name": name}:
            at = time.time() + 1.0
            pids = [forked(lambda v=v: raced(at, name, v)) for v in versions]
            return [ended(pid) for pid in pids]
        case {"opened": times, "uri": uri}:
            at = time.time() + 0.3
            pids = [forked(lambda: opened(at, uri)) for _ in range(times)]
            return [ended(pid) for pid in pids]
    raise ValueError(f"unknown command {command}")


if __name__ == "__main__":
    configure_mappers()  # once, here, instead of in every child
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), flush=True)
