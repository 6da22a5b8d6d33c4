"""Plan of a training: model, settings, data and start, checked before anything is written."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.data import processed
from jobs.data.catalog import Catalog
from jobs.data.dataset import Data
from jobs.training import completeness, configs, families, members, needs, references
from jobs.training.families import Model
from jobs.training.leakage import leakage
from jobs.training.task import Task
from registry import training
from registry.errors import BadConfig, BadParameter
from registry.forecast.model_folder import read_spec
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT, Settings
from registry.versions import artifacts
from registry.versions.manifest import MANIFEST_TAG, MODEL_DIR, sha256
from registry.versions.store import Store
from registry.versions.version import Version

MAX_SEED = 2**32 - 1  # numpy's and Lightning's


@dataclass(frozen=True)
class Start:
    """The version whose weights a training starts from, its facts and verified model folder."""

    version: Version
    facts: Mapping[str, str]  # see Store.facts
    model_dir: Path


@dataclass(frozen=True)
class Plan:
    """A training that can begin."""

    model: Model
    config: training.Config
    seed: int
    data: Data
    start: Start | None
    lock_sha256: str
    code_digest: str
    recipe: str
    members: Mapping[str, training.Config]  # of an ensemble, by model
    leakage: str  # description, if the start was pretrained on the report period; else empty

    def synthetic(self, spec: ModelSpec) -> tuple[str, ...]:
        """Made-up columns of the data set that the model takes."""
        columns = (*spec.columns, *spec.optional)
        return tuple(name for name in columns if name in self.data.dataset.synthetic)


def plan(
    settings: Settings,
    name: str,
    overrides: Mapping[str, Any],
    *,
    seed: int,
    tiny: bool,
    datasets: Catalog | None = None,
) -> Plan:
    """Check everything that can be wrong. Raises BadInput, BadConfig or NotFound.

    Plans that are made with the same `datasets` share the rows of a data set.
    """
    model = families.find(name)
    completeness.check(model)
    check_seed(seed)
    start = _start(settings, model, overrides)
    datasets = datasets or Catalog(settings)
    config = configs.load_config(
        model,
        overrides,
        tiny=tiny,
        defaults=_frozen(settings),
        start_dir=start.model_dir if start else None,
        datasets=datasets,
    )
    if start is not None:
        _check_window(model.spec(config), start)
    dataset = datasets.find(config.data)
    datasets.check_columns(dataset, model.columns(config), name)
    member_configs = members.configs(config)
    for member, member_config in member_configs.items():
        columns = families.find(member).columns(member_config)
        datasets.check_columns(dataset, columns, member)
    data = datasets.load(dataset.name, settings)
    _check_history(data, model, config, member_configs)
    code = (model.family.name, *model.spec(config).uses)
    lock_sha256 = sha256(CHECKOUT / "requirements.lock")
    inputs = {
        "data": data.digest,
        "compiled": str(processed.COMPILE_VERSION),
        "lock": lock_sha256,
        "code": artifacts.training_digest(CHECKOUT, *code),
    }
    if start is not None:
        inputs["start"] = start.version.tags[MANIFEST_TAG]
    return Plan(
        model,
        config,
        seed,
        data,
        start,
        lock_sha256,
        artifacts.code_digest(CHECKOUT, *code),
        recipe(name, config, member_configs, seed, **inputs),
        member_configs,
        leakage(start.version.reference, start.facts, config) if start else "",
    )


def _check_history(
    data: Data,
    model: Model,
    config: training.Config,
    member_configs: Mapping[str, training.Config],
) -> None:
    """Raise BadHistory unless model, members and references can be trained, and there is a report.

    The report needs the longest context among them, because all are scored on the same rows.
    """
    task = Task.of(data, config)
    trained = {model.name: (model, config)}
    for member, settings in member_configs.items():
        trained[member] = (families.find(member), settings)
    for reference, settings in references.configs_of(task).items():
        trained.setdefault(reference, (families.find(reference), settings))
    contexts = {}
    for name, (part, settings) in trained.items():
        spec = part.spec(settings)
        label = name if name == model.name else f"{name}, which is trained with {model.name},"
        needs.check(data.history, settings, spec, label)
        contexts[label] = spec.min_context
    longest = max(contexts, key=contexts.__getitem__)
    task.origins(contexts[longest], longest)  # raises if there is nothing to report


def check_seed(seed: int) -> None:
    """Raise BadParameter (BAD_SEED) for a seed out of range."""
    if not 0 <= seed <= MAX_SEED:
        raise BadParameter(f"seed is {str(seed)[:64]}, expected 0..{MAX_SEED}", code="BAD_SEED")


def recipe(
    name: str,
    config: training.Config,
    member_configs: Mapping[str, training.Config],
    seed: int,
    **inputs: str,
) -> str:
    """sha256 of all inputs of a training: on one machine, one recipe gives one result."""
    content = {"model": name, "config": dataclasses.asdict(config), "seed": seed, **inputs}
    if member_configs:
        content["members"] = {
            member: dataclasses.asdict(settings) for member, settings in member_configs.items()
        }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _frozen(settings: Settings) -> dict[str, Any]:
    """The values of KRONOS_MAX_CONTEXT and KRONOS_CLIP, if they are set."""
    names = [key for key in ("max_context", "clip") if key in settings.model_fields_set]
    values = {key: getattr(settings, key) for key in names}
    return {key: value for key, value in values.items() if value}


def _start(settings: Settings, model: Model, overrides: Mapping[str, Any]) -> Start | None:
    """The version that the setting start_from names, fetched and verified."""
    values = {**model.stored(), **overrides}
    start_from = str(values.get("start_from") or "")
    has_setting = any(
        field.name == "start_from" for field in dataclasses.fields(model.config_type(values))
    )
    if not start_from or not has_setting:
        return None
    store = Store(settings)
    version = store.resolve(start_from)
    model_dir = store.fetch(version) / MODEL_DIR
    family = store.spec(version).family
    if family != model.family.name:
        raise BadConfig(
            f"start_from is {version.uri} of family {family}, expected one of family "
            f"{model.family.name}"
        )
    return Start(version, store.facts(version), model_dir)


def _check_window(spec: ModelSpec, start: Start) -> None:
    """Raise BadConfig if the model would look at more sessions than its start was trained with."""
    started = read_spec(start.model_dir)
    window = max(started.max_context, started.min_context + started.max_horizon)
    if spec.max_context > window:
        raise BadConfig(
            f"max_context is {spec.max_context}, expected at most {window}, "
            f"the window of {start.version.uri}"
        )
