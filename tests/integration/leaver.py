"""A program of test_litter.py: registers a version, then is killed while it logs another one."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from mlprojects.baselines import model as baselines
from registry.files import locked, write_together
from registry.forecast import calendars
from registry.forecast.spec import ModelSpec
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.store import Store, example_history

settings = Settings()
store = Store(settings)
spec = ModelSpec("ewma", "baselines", min_context=10, max_context=1000, max_horizon=5)
ds = calendars.sessions(spec.calendar, "2020-01-02", "2020-02-28")
y = np.random.default_rng(0).normal(0.0, 0.01, len(ds))
history = pd.DataFrame({"unique_id": "A", "ds": ds, "y": y})
checkpoints = settings.state_dir / "checkpoints"


def log(save: Callable[[Path], None]) -> None:
    store.log(
        spec,
        save,
        requirements=baselines.REQUIREMENTS,
        example=example_history(history, spec),
        tags={"recipe": "0123456789abcdef" + "0" * 48},
    )


def die(path: Path) -> None:
    path.write_text("half")
    print("in the middle", flush=True)
    sys.stdin.readline()
    os.kill(os.getpid(), signal.SIGKILL)


for name in ("0123456789abcdef", "fedcba9876543210"):  # the first of them gets registered
    (checkpoints / name).mkdir(parents=True)
with tracking.start(settings, "train", "complete"):
    log(lambda folder: baselines.save(baselines.Ewma(spec), folder))
with tracking.start(settings, "train", "cut") as run, locked(checkpoints / "0123456789abcdef.lock"):
    run.child("trial 0", {})
    log(lambda _: write_together({settings.logs_dir / "qa.json": die}))
