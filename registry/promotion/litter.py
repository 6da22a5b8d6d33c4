"""What killed processes left: open runs, unfinished logged models, temporary files and locks.

Only what certainly belongs to a dead process of this host counts. Runs, logged models, temporary
files and folders name their process; a lock that nobody holds is free.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from registry import files
from registry.errors import Conflict
from registry.promotion.doctor import Finding
from registry.settings import Settings
from registry.versions import abandoned
from registry.versions.store import Store
from registry.versions.version import RECIPE_TAG, Version, checkpoint_dir

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
    own = (settings.var_dir, settings.processed_dir, settings.logs_dir, settings.state_dir)
    for folder in (*own, *studies):
        for path in files.abandoned(folder):
            message = f"{path} was left by a process that is gone"
            yield Finding("", "TEMPORARY_LEFT", message, "remove it"), partial(files.remove, path)


def _checkpoints(store: Store) -> Iterator[_Litter]:
    """Checkpoints of trainings that were registered since; any other may still be continued."""
    folders = _checkpoint_folders(store.settings)
    versions = _by_checkpoints(store) if folders else {}
    for folder in folders:
        lock = folder.with_suffix(".lock")
        version = versions.get(folder)
        if version is None or _changed_at(folder) > version.created_at or _is_held(lock):
            continue
        message = f"{folder} has checkpoints of the training of {version.uri}"
        finding = Finding(version.name, "CHECKPOINT_LEFT", message, "remove it")
        yield finding, partial(_remove_under, lock, folder)


def _checkpoint_folders(settings: Settings) -> list[Path]:
    paths = checkpoint_dir(settings, "").glob("*")
    return sorted(path for path in paths if path.is_dir() and not path.is_symlink())


def _by_checkpoints(store: Store) -> dict[Path, Version]:
    """Folder of checkpoints -> newest version of that recipe."""
    newest: dict[Path, Version] = {}
    for version in store.logged():
        recipe = version.tags.get(RECIPE_TAG)
        if recipe is not None:
            newest[checkpoint_dir(store.settings, recipe)] = version
    return newest


def _changed_at(folder: Path) -> datetime:
    """When a folder or anything in it was last changed."""
    times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
    return datetime.fromtimestamp(max(times), UTC)


def _locks(settings: Settings) -> Iterator[_Litter]:
    """Files of locks that nobody holds: their holder removes them, unless it is killed."""
    paths = [
        *settings.var_dir.glob("*.lock"),  # of a database that was made
        *checkpoint_dir(settings, "").glob("*.lock"),
        *settings.var_dir.glob("hub/**/*.lock"),
        *settings.var_dir.glob("tuning/**/lock"),
    ]
    for path in sorted(paths):
        if path.is_file() and not path.is_symlink() and not _is_held(path):
            message = f"{path} is a lock that nobody holds"
            yield Finding("", "LOCK_LEFT", message, "remove it"), partial(_remove_under, path)


def _is_held(lock: Path) -> bool:
    """Whether a lock is held, or may be: one of another user cannot be opened."""
    try:
        return files.is_locked(lock)
    except OSError:
        return True


def _remove_under(lock: Path, folder: Path | None = None) -> None:
    """Remove a lock and what it guards, unless somebody holds it by now."""
    with suppress(Conflict), files.locked(lock, busy=f"{lock} is held"):
        if folder is not None:
            files.remove(folder)
