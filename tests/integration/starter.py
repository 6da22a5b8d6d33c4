"""Open registry, ledger and an experiment in N processes at the same moment: starter.py N."""

import multiprocessing
import sys

from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.store import Store


def start(barrier: "multiprocessing.Barrier") -> None:  # type: ignore[valid-type]
    settings = Settings()
    barrier.wait()
    store = Store(settings)
    with open_ledger(store), tracking.start(settings, "train", "first") as run:
        run.params({"a": 1})


if __name__ == "__main__":
    context = multiprocessing.get_context("fork")  # so that MLflow is imported once
    number = int(sys.argv[1])
    together = context.Barrier(number)
    starters = [context.Process(target=start, args=(together,)) for _ in range(number)]
    for starter in starters:
        starter.start()
    for starter in starters:
        starter.join()
    sys.exit(sum(starter.exitcode != 0 for starter in starters))
