"""The main job: compile, train the baselines and N-BEATS, promote them, serve one, ask it."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from jobs.data.catalog import DATASETS, Catalog
from jobs.data.compile import compile_builtin
from jobs.running.progress import Progress
from jobs.training import planning, train
from jobs.training.references import References
from registry import interrupts
from registry.attached import attached
from registry.errors import BadHistory, KronosError
from registry.files import write_together
from registry.ledger.claims import user
from registry.promotion import moves
from registry.promotion.opening import open_ledger
from registry.settings import CHECKOUT, Settings
from registry.versions import environments, tracking
from registry.versions.store import Store

MODELS = ("naive", "ewma", "fhs", "har", "nbeats")
SERVED = "nbeats"
EXPERIMENT = "quickstart"  # its own: the UI would fold the models' runs away under this run
METRICS = ("crps", "coverage_90", "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett")


def quickstart(
    settings: Settings,
    models: Sequence[str],
    served: str,
    seed: int,
    progress: Progress,
    data: str = "",
) -> dict[str, Any]:
    """Run the main job, write its report to `report_path` and return it.

    Steps already done with the same data, code and settings are skipped. `data` names a data set;
    empty: each model's own. Models that an own set cannot train are left out, and the report says
    why. If `served` is one of them, the last trained model is served. Raises BadHistory if no model
    can be trained.
    """
    planning.check_seed(seed)
    start_time = time.monotonic()
    plans, left_out = _plans(settings, models, seed, progress, data)
    served = served if served in plans else [*plans][-1]
    store = Store(settings)
    references = References()
    rows = {}
    with tracking.start(settings, EXPERIMENT, "quickstart") as run, open_ledger(store) as ledger:
        for model, plan in plans.items():
            label = _prefixed(progress, model)
            result = train.train(
                settings, plan, references, reuse=True, nested=True, progress=label
            )
            number = result.version.version
            # Keep another version in Production if somebody has promoted one since.
            if not (result.reused and "production" in store.aliases(model)):
                label("promoting", 0.0)
                moves.promote(store, ledger, model, number, who=user(), why="quick start")
            rows[model] = {
                "version": number,
                "stage": store.version(model, number).tags.get("stage", "None"),
                **{metric: result.metrics[metric] for metric in METRICS},
                "trained": "before" if result.reused else "now",
            }
        run.json(rows, "models.json")
    progress(f"serving {served}", 0.0)
    forecast = ask(settings, served, store.example_request(store.resolve(served)))
    report = {
        "data": data,
        "models": rows,
        "left_out": left_out,
        "served": served,
        "forecast": forecast,
        "seconds": round(time.monotonic() - start_time, 1),
    }
    text = json.dumps(report, indent=1) + "\n"
    write_together({report_path(settings): lambda path: path.write_text(text)})
    return report


def _plans(
    settings: Settings, models: Sequence[str], seed: int, progress: Progress, data: str
) -> tuple[dict[str, planning.Plan], dict[str, str]]:
    """The trainings by model, and by left-out model why an own set cannot train it."""
    builtin = not data or data in {dataset.name for dataset in DATASETS}
    if builtin:
        compile_builtin(settings, progress=_prefixed(progress, "compile"))
    overrides = {"data": data} if data else {}
    datasets = Catalog(settings)
    plans, refused = {}, {}
    for model in models:
        try:
            plans[model] = planning.plan(
                settings, model, overrides, seed=seed, tiny=False, datasets=datasets
            )
        except BadHistory as error:
            if builtin:
                raise
            refused[model] = error
            progress(f"{model}: left out: {error.message}", 1.0)
    if not plans:
        raise next(iter(refused.values()))
    return plans, {model: error.message for model, error in refused.items()}


def report_path(settings: Settings) -> Path:
    return settings.logs_dir / "quickstart.json"


def _prefixed(progress: Progress, prefix: str) -> Progress:
    return lambda label, share: progress(f"{prefix}: {label}", share)


def ask(settings: Settings, model: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """Start `python -m serving scorer`, send one request, stop it. Returns the forecast's rows."""
    command = [sys.executable, "-m", "serving", "scorer", model, "--port", "0"]
    with interrupts.no_ctrl_c_for_children():
        server = subprocess.Popen(
            attached(command),
            cwd=CHECKOUT,
            env=environments.of_programs(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,  # it tells a person to press Ctrl-C
            text=True,
        )
    with server:
        try:
            line = server.stdout.readline() if server.stdout else ""
            if not line:
                raise KronosError(
                    f"`python -m serving scorer {model}` ended before it was ready: "
                    f"{_last_line(server.communicate()[1])}"
                )
            answer = httpx.post(f"{json.loads(line)['url']}/invocations", json=body, timeout=60)
        finally:
            server.terminate()
            server.communicate()
    if answer.status_code != 200:
        raise KronosError(f"{model} answered {answer.status_code}: {answer.text[:500]}")
    rows: list[dict[str, Any]] = answer.json()["predictions"]
    return rows


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it printed nothing"])[-1]
