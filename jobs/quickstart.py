"""The main job: compile, train the baselines and N-BEATS, promote each, serve one, ask it one question."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import httpx

from jobs.data import compile as compiling
from jobs.training import train
from jobs.training.report import Progress, Reference
from registry.errors import KronosError
from registry.ledger.claims import user
from registry.ledger.promotions import Ledger
from registry.promotion import moves
from registry.settings import CHECKOUT, Settings
from registry.versions import tracking
from registry.versions.store import Store

MODELS = ("naive", "ewma", "fhs", "har", "nbeats")
SERVED = "nbeats"
EXPERIMENT = "quickstart"  # apart from the models' runs, which the UI would fold away under it


def quickstart(
    settings: Settings, models: Sequence[str], served: str, seed: int, progress: Progress
) -> dict[str, Any]:
    """Run the main job; what is done already (same data, code, settings) is skipped. Returns the report."""
    begun = time.monotonic()
    compiling.compile_builtin(
        settings, progress=lambda what, done, total: progress(f"compile: {what}", done / total)
    )
    store = Store(settings)
    reference, rows = Reference(), {}
    with tracking.start(settings, EXPERIMENT, "quickstart") as run, Ledger(settings) as ledger:
        for model in models:
            what = train.plan(settings, model, {}, seed=seed, tiny=False)
            result = train.train(
                settings,
                what,
                reference,
                reuse=True,
                nested=True,
                progress=partial(_prefixed, progress, model),
            )
            if not (
                result.reused and "production" in store.aliases(model)
            ):  # what somebody put there since, stays
                progress(f"{model}: promoting", 0.0)
                moves.promote(
                    store, ledger, model, result.version.version, who=user(), why="quick start"
                )
            rows[model] = {
                "version": result.version.version,
                "stage": store.version(model, result.version.version).tags.get("stage", "None"),
                **{
                    key: result.metrics[key]
                    for key in ("crps", "coverage_90", "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett")
                },
                "trained": "before" if result.reused else "now",
            }
        run.json(rows, "models.json")
    progress(f"serving {served}", 0.0)
    forecast = ask(settings, served, store.example_request(store.resolve(served)))
    return {
        "models": rows,
        "served": served,
        "forecast": forecast,
        "seconds": round(time.monotonic() - begun, 1),
    }


def _prefixed(progress: Progress, model: str, what: str, share: float) -> None:
    progress(f"{model}: {what}", share)


def ask(settings: Settings, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Start `python -m serving start`, send one request, stop it. Returns the forecast's rows."""
    command = [sys.executable, "-m", "serving", "start", model, "--port", "0"]
    environment = tracking.process_environment(settings)
    with subprocess.Popen(
        command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            if not line:
                raise KronosError(
                    f"`python -m serving start {model}` ended before it was ready; its message is above"
                )
            answer = httpx.post(f"{json.loads(line)['url']}/invocations", json=body, timeout=60)
        finally:
            server.terminate()
    if answer.status_code != 200:
        raise KronosError(f"{model} answered {answer.status_code}: {answer.text[:500]}")
    rows: list[dict[str, Any]] = answer.json()["predictions"]
    return rows
