"""Evaluate registered versions on the report period of a data set: verified, compared, recorded."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jobs.data import processed
from jobs.training.report import Progress, Reference, Report, Task, log, report
from registry import training
from registry.errors import BadHistory, BadInput, BadParameter
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.settings import Settings
from registry.versions import tracking
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store
from registry.versions.version import Version

EXPERIMENT = "evaluations"
CARRIED = ("trained_until", "pretrained_until", "simulated", "synthetic")  # tags copied to its runs

# Default fit_until and choose_until of an evaluation.
PERIODS = {"panel": ("2018-12-31", "2019-12-31"), "bars": ("2009-12-31", "2010-12-31")}


@dataclass(frozen=True)
class Evaluated:
    """One version of an evaluation: its run, and what it may have seen of the sessions before."""

    version: Version
    run_id: str
    leakage: str
    in_this_process: bool  # False: its code differs from this checkout's

    def summary(self) -> dict[str, Any]:
        return {
            "model": self.version.name,
            "version": self.version.version,
            "run_id": self.run_id,
            "simulated": self.version.tags.get("simulated") == "true",
            "synthetic": self.version.tags.get("synthetic", ""),
            "leakage": self.leakage,
            "in_this_process": self.in_this_process,
        }


@dataclass(frozen=True)
class Result:
    """Registered versions, scored on the same rows."""

    versions: tuple[Evaluated, ...]
    report: Report
    seconds: float

    def summary(self) -> dict[str, Any]:
        """JSON-ready: which versions, on what, and the table."""
        origins = self.report.origins
        rows = self.report.compared.set_index("model").to_dict(orient="index")
        compared = {}
        for name, row in rows.items():
            compared[name] = {key: value for key, value in row.items() if pd.notna(value)}
        return {
            "versions": [evaluated.summary() for evaluated in self.versions],
            "data": self.report.task.data.name,
            "origins": {
                "first": f"{origins[0]:%Y-%m-%d}",
                "last": f"{origins[-1]:%Y-%m-%d}",
                "number": len(origins),
            },
            "compared": compared,
            "seconds": round(self.seconds, 1),
        }


def evaluate(
    settings: Settings,
    references: Sequence[str],
    overrides: Mapping[str, Any],
    reference: Reference,
    *,
    allow_leakage: bool = False,
    progress: Progress = lambda *_: None,
) -> Result:
    """Score registered versions ('kronos', 'har/3', 'nbeats@staging') on the same rows.

    Each of them becomes a run of the experiment `evaluations`. `overrides` are settings of
    training.Config; those of the first version, then PERIODS, fill in the others. Versions of other
    code run in processes of their own. Raises NotFound, Corrupt, and BadInput for data that a model
    cannot be scored on.
    """
    begun = time.monotonic()
    store = Store(settings)
    versions = _distinct([store.resolve(name) for name in references])
    with ExitStack() as stack:
        loaded: dict[str, LoadedVersion] = {}
        for version in versions:
            progress(f"verifying {version.uri}", 0.0)
            loaded[version.reference] = stack.enter_context(store.load(version.reference))
        config = _config(versions[0], [one.spec for one in loaded.values()], overrides)
        leaks = {v.reference: leakage(v.tags, config, allowed=allow_leakage) for v in versions}
        task = Task(processed.load(settings, config.data), config)
        for one in loaded.values():
            check_data(one.spec, task.data)
            _check_universe(one.version, one.spec, task.data)
        scored = report(loaded, task, reference, progress)
        evaluated = []
        for name, one in loaded.items():
            run_id = _record(settings, one, scored, leaks[name])
            evaluated.append(Evaluated(one.version, run_id, leaks[name], one.in_this_process))
    return Result(tuple(evaluated), scored, time.monotonic() - begun)


def _distinct(versions: Sequence[Version]) -> list[Version]:
    """Each version once, in order. Raises BadParameter when there is none."""
    if not versions:
        raise BadParameter("name a version to evaluate, as in nbeats or har/3")
    return list({version.reference: version for version in versions}.values())


def _record(settings: Settings, one: LoadedVersion, scored: Report, leak: str) -> str:
    """Id of the run that keeps what was measured of a version."""
    name, task = one.version.reference, scored.task
    tags = _tags(one.version, task, leak)
    with tracking.start(settings, EXPERIMENT, name, tags=tags) as run:
        levels = ",".join(f"{level:g}" for level in task.config.levels)
        run.params(dataclasses.asdict(task.config) | {"levels": levels})
        run.dataset(task.data.history, task.data.name, task.data.digest, "evaluation")
        log(scored, name, one, run)
        return run.run_id


def _config(
    version: Version, specs: Sequence[ModelSpec], overrides: Mapping[str, Any]
) -> training.Config:
    """Settings of an evaluation that all versions can answer.

    The data are those that the first version was trained on or, unknown, can read; the levels are
    those of the first version that every other can answer. Raises BadParameter for a horizon that
    one of them cannot reach.
    """
    first = specs[0]
    readable = "bars" if set(names.OHLC) <= set(first.columns) else "panel"
    data = overrides.get("data", version.tags.get("data", readable))
    fit_until, choose_until = PERIODS.get(data, PERIODS[readable])
    defaults = {
        "data": data,
        "fit_until": fit_until,
        "choose_until": choose_until,
        "horizon": min(training.Config.horizon, *(spec.max_horizon for spec in specs)),
        "levels": _levels(specs),
    }
    config = training.Config(**{**defaults, **overrides})
    for spec in specs:
        spec.request({"horizon": config.horizon, "levels": config.levels})
    return config


def _levels(specs: Sequence[ModelSpec]) -> tuple[float, ...]:
    """Levels of the first model that every other can answer; a model with paths answers any."""
    bounded = [spec.levels for spec in specs if not spec.has_paths]
    lowest = max((levels[0] for levels in bounded), default=0.0)
    highest = min((levels[-1] for levels in bounded), default=1.0)
    levels = tuple(level for level in specs[0].levels if lowest <= level <= highest)
    if not levels:
        raise BadParameter(
            f"{', '.join(spec.name for spec in specs)} have no levels in common; evaluate them one by one",
            code="BAD_LEVELS",
        )
    return levels


def _tags(version: Version, task: Task, leak: str) -> dict[str, str]:
    return {
        "model": version.name,
        "version": str(version.version),
        "source_run": version.run_id,
        "data_digest": task.data.digest,
        "universe": task.data.universe.tag,
        "git_commit": tracking.git_commit(),
        **{key: version.tags[key] for key in CARRIED if key in version.tags},
        **({"leakage": leak} if leak else {}),
    }


def leakage(tags: Mapping[str, str], config: training.Config, *, allowed: bool = False) -> str:
    """Description of possible leakage: what a version saw of the reported sessions; empty if none.

    Raises BadInput (code LEAKAGE) when it was trained on them, unless `allowed`. Pretraining
    elsewhere is described only: nobody here can undo it.
    """
    start = pd.Timestamp(config.choose_until)
    reasons = []
    for key, word in (("trained_until", "trained"), ("pretrained_until", "pretrained")):
        until = tags.get(key, "none")
        if until == "none" or pd.to_datetime(until, errors="coerce") <= start:
            continue
        if key == "trained_until" and not allowed:
            raise BadInput(
                f"the version was trained until {until}, and the sessions after "
                f"{config.choose_until} are to be reported: it has seen them; give a later "
                "choose_until (an evaluation takes --allow-leakage, too)",
                code="LEAKAGE",
            )
        reasons.append(f"{word} until {until}")
    if not reasons:
        return ""
    return f"{', '.join(reasons)}; reported are sessions after {config.choose_until}"


def check_data(spec: ModelSpec, data: processed.Data) -> None:
    """Raise BadHistory unless the data set has the columns that a model needs."""
    missing = [name for name in spec.columns if name not in data.history.columns]
    if missing:
        raise BadHistory(
            f"{spec.name} needs {missing}, which {data.name} lacks; choose other data",
            code="MISSING_COLUMN",
        )


def _check_universe(version: Version, spec: ModelSpec, data: processed.Data) -> None:
    """Market columns mean what the version was trained on, or its numbers mean nothing."""
    trained_on = version.tags.get("universe", data.universe.tag)
    if set(names.MARKET) & set(spec.columns) and trained_on != data.universe.tag:
        raise BadHistory(
            f"{spec.name} was trained on market columns over {trained_on}, those of {data.name} "
            f"are over {data.universe.tag}; train it on {data.name}",
            code="UNIVERSE",
        )
