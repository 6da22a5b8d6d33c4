"""What killed processes left: open runs, unfinished logged models, temporary files and locks.

Only what certainly belongs to a dead process of this host counts. Runs, logged models, temporary
files and folders name their process; a lock that nobody holds is free.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from registry import files
from registry.errors import Conflict
from registry.promotion.doctor import Finding
from registry.settings import Settings
from registry.versions import abandoned
from registry.versions.store import Store

RECIPE_TAG = "recipe"  # of a version; its training's checkpoints lie in a folder named after it

_Litter = tuple[Finding, Callable[[], object]]  # with what sweeps it


def examine(store: Store, *, repair: bool = False) -> list[Finding]:
    """Litter of the whole registry and of `var_dir`; with `repair`, it is swept."""
    settings = store.settings
    litter = [*_in_mlflow(store), *_temporary(settings), *_checkpoints(store), *_locks(settings)]
    if not repair:
        return [finding for finding, _ in litter]
    for _, sweep in litter:
        sweep()
    return [replace(finding, repaired=True) for finding, _ in litter]


def _in_mlflow(store: Store) -> Iterator[_Litter]:
    for left in abandoned.runs(store.client):
        yield Finding(left.name, "RUN_LEFT", left.description, "end it as KILLED"), left.close
    for left in abandoned.logged_models(store.client):
        advice = "end it as FAILED; files of it may stay in the artifact store"
        yield Finding(left.name, "MODEL_LEFT", left.description, advice), left.close


def _temporary(settings: Settings) -> Iterator[_Litter]:
    studies = sorted(settings.var_dir.glob("tuning/*"))
    for folder in (settings.processed_dir, settings.logs_dir, settings.state_dir, *studies):
        for path in files.abandoned(folder):
            message = f"{path} was left by a process that is gone"
            yield Finding("", "TEMPORARY_LEFT", message, "remove it"), partial(files.remove, path)


def _checkpoints(store: Store) -> Iterator[_Litter]:
    """Checkpoints of trainings that are complete; any other may still be continued."""
    folders = [path for path in _checkpoint_dir(store.settings).glob("*") if path.is_dir()]
    recipes = _recipes(store) if folders else {}
    for folder in sorted(folders):
        lock = folder.with_suffix(".lock")
        names = [name for recipe, name in recipes.items() if recipe.startswith(folder.name)]
        if names and not files.is_locked(lock):
            message = f"{folder} has checkpoints of a training that was registered"
            finding = Finding(names[0], "CHECKPOINT_LEFT", message, "remove it")
            yield finding, partial(_remove_under, lock, folder)


def _recipes(store: Store) -> dict[str, str]:
    """The model of each registered recipe."""
    recipes = {}
    for name in store.names():
        for version in store.versions(name):
            if RECIPE_TAG in version.tags:
                recipes[version.tags[RECIPE_TAG]] = name
    return recipes


def _locks(settings: Settings) -> Iterator[_Litter]:
    """Files of locks that nobody holds: their holder removes them, unless it is killed."""
    paths = [
        *_checkpoint_dir(settings).glob("*.lock"),
        *settings.var_dir.glob("hub/**/*.lock"),
        *settings.var_dir.glob("tuning/**/lock"),
    ]
    for path in sorted(paths):
        if not files.is_locked(path):
            message = f"{path} is a lock that nobody holds"
            yield Finding("", "LOCK_LEFT", message, "remove it"), partial(_remove_under, path)


def _remove_under(lock: Path, folder: Path | None = None) -> None:
    """Remove a lock and what it guards, unless somebody holds it by now."""
    with suppress(Conflict), files.locked(lock, busy=f"{lock} is held"):
        if folder is not None:
            files.remove(folder)


def _checkpoint_dir(settings: Settings) -> Path:
    return settings.state_dir / "checkpoints"
