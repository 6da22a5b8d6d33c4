"""Evaluate a registered version on the report period of a data set: verified, compared, recorded as a run."""

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from jobs import processed
from jobs.report import Progress, Reference, Report, Task, report
from registry import artifacts, contract, tracking, wire
from registry.contract import Forecaster, ModelSpec
from registry.errors import BadInput, BadParameter, CodeMismatch
from registry.loading import load_forecaster
from registry.settings import Settings
from registry.store import Store, Version

EXPERIMENT = "evaluations"
CARRIED = ("trained_until", "pretrained_until", "simulated", "synthetic")  # tags of the version that its runs have, too

# fit_until and choose_until of an evaluation, unless told.
PERIODS = {"panel": ("2018-12-31", "2019-12-31"), "bars": ("2009-12-31", "2010-12-31")}


@dataclass(frozen=True)
class Result:
    """The evaluation of a registered version."""

    version: Version
    run_id: str
    task: Task
    report: Report
    leakage: str
    seconds: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready: which version, on what, the table, and what it may have seen of it before."""
        origins, rows = self.report.origins, self.report.compared.set_index("model").to_dict(orient="index")
        return {
            "model": self.version.name,
            "version": self.version.version,
            "run_id": self.run_id,
            "data": self.task.data.name,
            "origins": {"first": f"{origins[0]:%Y-%m-%d}", "last": f"{origins[-1]:%Y-%m-%d}", "number": len(origins)},
            "simulated": self.version.tags.get("simulated") == "true",
            "synthetic": self.version.tags.get("synthetic", ""),
            "leakage": self.leakage,
            "compared": {
                name: {key: value for key, value in row.items() if pd.notna(value)} for name, row in rows.items()
            },
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    settings: Settings,
    wanted: str,
    told: Mapping[str, Any],
    reference: Reference,
    *,
    allow_leakage: bool = False,
    progress: Progress = lambda *_: None,
) -> Result:
    """Score a registered version ('kronos', 'kronos/3', 'nbeats@staging') as a run of the experiment `evaluations`.

    `told` are settings of contract.Config; those of the version, then PERIODS, fill in the others. Raises NotFound,
    Corrupt, CodeMismatch, and BadInput for data that the model cannot be scored on.
    """
    begun = time.monotonic()
    store = Store(settings)
    version = store.resolve(wanted)
    progress(f"verifying {version.uri}", 0.0)
    forecaster = _forecaster(version, store.fetch(version))
    config = _config(version, forecaster.spec, told)
    seen = leakage(version.tags, config, allowed=allow_leakage)
    if config.horizon > forecaster.spec.max_horizon:
        raise BadParameter(
            f"horizon is {config.horizon}; {wanted} forecasts 1..{forecaster.spec.max_horizon} sessions",
            code="BAD_HORIZON",
        )
    task = Task(processed.load(settings, config.data), config)
    check_data(forecaster.spec, task.data)
    _check_universe(version, forecaster.spec, task.data)
    name = f"{version.name}/{version.version}"
    with tracking.start(settings, EXPERIMENT, name, tags=_tags(version, task, seen)) as run:
        run.params(dataclasses.asdict(config) | {"levels": ",".join(f"{level:g}" for level in config.levels)})
        run.dataset(task.data.history, task.data.name, task.data.digest, "evaluation")
        found = report(name, forecaster, task, reference, run, progress)
    return Result(version, run.run_id, task, found, seen, time.monotonic() - begun)


def _forecaster(version: Version, root: Path) -> Forecaster:
    """The forecaster of a verified version, when it holds the code that runs here."""
    try:
        artifacts.check_code(artifacts.read_manifest(root))
    except CodeMismatch as error:
        raise CodeMismatch(
            f"{version.uri} was logged with other code than this checkout has ({error.message}); an evaluation runs "
            f"the forecaster itself: check out its commit, {version.tags.get('git_commit', 'unknown')}, or train it "
            "again"
        ) from error
    return load_forecaster(root / artifacts.MODEL_DIR)


def _config(version: Version, spec: ModelSpec, told: Mapping[str, Any]) -> contract.Config:
    """Settings of an evaluation; by default on the data that the version was trained on or, unknown, can read."""
    readable = "bars" if set(wire.OHLC) <= set(spec.columns) else "panel"
    data = told.get("data", version.tags.get("data", readable))
    fit_until, choose_until = PERIODS.get(data, PERIODS[readable])
    horizon = min(contract.Config.horizon, spec.max_horizon)
    defaults = {"data": data, "fit_until": fit_until, "choose_until": choose_until}
    return contract.Config(**{**defaults, "horizon": horizon, "levels": spec.levels, **told})


def _tags(version: Version, task: Task, seen: str) -> dict[str, str]:
    return {
        "model": version.name,
        "version": str(version.version),
        "source_run": version.run_id,
        "data_digest": task.data.digest,
        "universe": task.data.universe.tag,
        "git_commit": tracking.git_commit(),
        **{key: version.tags[key] for key in CARRIED if key in version.tags},
        **({"leakage": seen} if seen else {}),
    }


def leakage(tags: Mapping[str, str], config: contract.Config, *, allowed: bool = False) -> str:
    """What a version may have seen of the sessions that it is scored on, in words; empty for nothing.

    Raises BadInput (code LEAKAGE) when it was trained on them, unless `allowed`. Pretraining elsewhere is only said:
    nobody here can undo it.
    """
    start = pd.Timestamp(config.choose_until)
    said = []
    for key, word in (("trained_until", "trained"), ("pretrained_until", "pretrained")):
        until = tags.get(key, "none")
        if until == "none" or pd.to_datetime(until, errors="coerce") <= start:
            continue
        if key == "trained_until" and not allowed:
            raise BadInput(
                f"the version was trained until {until}, and the sessions after {config.choose_until} are to be "
                "reported: it has seen them; give a later choose_until (an evaluation takes --allow-leakage, too)",
                code="LEAKAGE",
            )
        said.append(f"{word} until {until}")
    return f"{', '.join(said)}; reported are sessions after {config.choose_until}" if said else ""


def check_data(spec: ModelSpec, data: processed.Data) -> None:
    """Raise BadInput unless the data set has the columns that a model needs."""
    missing = [name for name in spec.columns if name not in data.history.columns]
    if missing:
        raise BadInput(
            f"{spec.name} needs {missing}, which {data.name} lacks; choose other data", code="MISSING_COLUMN"
        )


def _check_universe(version: Version, spec: ModelSpec, data: processed.Data) -> None:
    """Market columns mean what the version was trained on, or its numbers mean nothing."""
    trained_on = version.tags.get("universe", data.universe.tag)
    if set(wire.MARKET) & set(spec.columns) and trained_on != data.universe.tag:
        raise BadInput(
            f"{spec.name} was trained on market columns over {trained_on}, those of {data.name} are over "
            f"{data.universe.tag}; train it on {data.name}",
            code="UNIVERSE",
        )
