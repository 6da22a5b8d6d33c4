"""Keep the descriptions of registered models and of the experiment of trainings up to date."""

import logging
from collections.abc import Mapping
from typing import Any

from mlflow.entities import LifecycleStage
from mlflow.exceptions import MlflowException

from registry import interrupts
from registry.masking import masked
from registry.versions import descriptions
from registry.versions.store import Store, shortened
from registry.versions.tracking import every
from registry.versions.version import Version, alias_numbers

_log = logging.getLogger(__name__)


@interrupts.deferred()
def update(store: Store, name: str) -> None:
    """Bring the descriptions of a model and of the experiment of trainings up to date.

    Those that a person wrote or edited stay. Nothing depends on a description: a failure is a
    warning, and the next promotion or registration tries again.
    """
    try:
        _update_model(store, name)
        _update_trainings(store)
    except MlflowException as error:
        reason = masked(str(error.message))
        _log.warning("the descriptions of %s are not up to date: %s", name, reason)


@interrupts.deferred()
def say_calibration(store: Store, version: Version, verdicts: str, tags: Mapping[str, str]) -> None:
    """Write what is known of a version's calibration into its tags and its description.

    Nothing depends on it: a failure is a warning, and the next night tries again.
    """
    try:
        entity = store.client.get_model_version(version.name, str(version.version))
        for key, value in tags.items():
            if entity.tags.get(key) != value:
                store.set_tag(version.name, version.version, key, value)
        old = entity.description or ""
        new = shortened(descriptions.with_calibration(old, verdicts))
        if new != old:
            store.client.update_model_version(version.name, str(version.version), new)
    except MlflowException as error:
        reason = masked(str(error.message))
        _log.warning("the description of %s is not up to date: %s", version.reference, reason)


def _update_model(store: Store, name: str) -> None:
    model = store.client.get_registered_model(name)
    old = model.description or ""
    if not descriptions.is_ours(old):
        return
    aliases = alias_numbers(model.aliases)
    entities = {}
    for alias in descriptions.STAGES.keys() & aliases.keys():
        entities[alias] = store.client.get_model_version(name, str(aliases[alias]))
    staged = {}
    for alias, entity in entities.items():
        version = Version.of(entity, aliases)
        staged[alias] = (version, store.metrics(version))
    shown = entities.get("production") or _newest(store, name)
    card = shown.description if shown else ""
    new = descriptions.of_model(descriptions.purpose(card or "", name), staged)
    if new != old:
        store.client.update_registered_model(name, new)


def _newest(store: Store, name: str) -> Any:
    """The version with the highest number; None if all were deleted."""
    order = ["version_number DESC"]
    found = store.client.search_model_versions(f"name='{name}'", max_results=1, order_by=order)
    return found[0] if found else None


def _update_trainings(store: Store) -> None:
    experiment = store.client.get_experiment_by_name(descriptions.TRAININGS)
    if experiment is None or experiment.lifecycle_stage != LifecycleStage.ACTIVE:
        return
    old = experiment.tags.get(descriptions.NOTE_TAG, "")
    if not descriptions.is_ours(old):
        return
    search = store.client.search_registered_models
    models = {model.name: model.description or "" for model in every(search)}
    new = descriptions.of_experiment(descriptions.TRAININGS, models)
    if new != old:
        store.client.set_experiment_tag(experiment.experiment_id, descriptions.NOTE_TAG, new)
