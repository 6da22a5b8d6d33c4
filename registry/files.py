"""Files shared with other processes: atomic replacement, temporary folders and locks.

Temporary files and folders have the mark of their process in the name, so that those of a killed
process can be told from those of a living one.
"""

import errno
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from filelock import FileLock, Timeout

from registry import interrupts
from registry.errors import Conflict, KronosError
from registry.processes import lives, marked, this_process
from registry.waiting import said

Writer = Callable[[Path], object]  # writes the whole file to the given path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What the user of a path can mend, beside a full disk.
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
            errno.ENAMETOOLONG, errno.ELOOP, errno.EIO}  # fmt: skip


def write_together(writers: Mapping[Path, Writer]) -> None:
    """Replace several files, in the given order.

    All are written and synced before the first is renamed. If writing fails, every old file stays
    and no temporary file is left. Raises KronosError: code NO_SPACE on a full disk, NOT_WRITABLE on
    any other OSError. A crash between two renames leaves whole files, some new and some old. If
    that matters, put the file that proves the others (a checksum, say) last.
    """
    temporaries = {path: _temporary(path) for path in writers}
    try:
        for path, writer in writers.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            writer(temporaries[path])
            sync(temporaries[path])
        with interrupts.deferred():
            for path, temporary in temporaries.items():
                temporary.replace(path)
                sync(path.parent)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def make_once(path: Path, make: Writer) -> None:
    """Make a file unless it exists, in one process at a time. It appears whole or not at all.

    An empty file counts as none. What a killed process left of it is removed. Raises KronosError,
    as `write_together`.
    """
    if _has_content(path):
        return
    waiting = f"waiting for another process, which makes {path}"
    try:
        # The folder first: where it cannot be made, FileLock might wait forever.
        with (
            temporary_folder(path.parent, path.name) as folder,
            locked(lock_of(path), waiting=waiting),
        ):
            if not _has_content(path):
                sweep(path.parent)
                _make_whole(path, Path(folder) / path.name, make)
    except OSError as error:
        raise explained(error, path) from error


def _make_whole(path: Path, new: Path, make: Writer) -> None:
    make(new)
    sync(new)
    new.replace(path)
    sync(path.parent)


def lock_of(path: Path) -> Path:
    """The lock under which a file that several processes share is made."""
    return path.with_name(f"{path.name}.lock")


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def make_folder(path: Path) -> None:
    """Make a folder with those above it, unless it exists. Raises KronosError, as `make_once`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise explained(error, path) from error


def temporary_folder(directory: Path, purpose: str) -> TemporaryDirectory[str]:
    """A new folder below `directory`, deleted afterwards; `purpose` begins its name."""
    make_folder(directory)
    prefix = f"{purpose}@{this_process().mark}@"
    return TemporaryDirectory(prefix=prefix, dir=directory)


def abandoned(directory: Path) -> list[Path]:
    """Temporary files and folders in `directory` whose process died on this host."""
    if not directory.is_dir():
        return []
    return [path for path in sorted(directory.iterdir()) if _is_abandoned(path)]


def sweep(directory: Path) -> list[Path]:
    """Remove and return what is abandoned in `directory`."""
    removed = abandoned(directory)
    for path in removed:
        remove(path)
    return removed


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it, that may be gone already."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, busy: str = "", waiting: str = "") -> Iterator[None]:
    """Run a block in one process and thread of this machine at a time.

    Waits for the lock and says `waiting` if that takes long. With a message `busy`, raises Conflict
    at once instead. The system frees the lock when its process ends, even if killed. A thread that
    already holds it must not ask again.
    """
    lock = FileLock(path, timeout=0 if busy else -1, thread_local=False)
    try:
        with said(waiting or f"waiting for {path}"):
            lock.acquire()
    except Timeout as error:
        raise Conflict(busy) from error
    try:
        yield
    finally:
        # Whoever waits for this very file notices that its name is gone, and makes a new one.
        path.unlink(missing_ok=True)
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process or thread holds the lock of `locked(path)`.

    A free lock is taken for an instant, in which one that asks for it with `busy` is refused.
    """
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _is_abandoned(path: Path) -> bool:
    """Whether the name has the mark of a process of this host that is gone."""
    parts = path.name.split("@")
    process = marked(parts[1]) if len(parts) == 3 else None
    return process is not None and lives(process) is False


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}@{this_process().mark}@{secrets.token_hex(4)}.tmp")


def sync(path: Path) -> None:
    """Flush a file's bytes or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def of_the_disk(error: OSError) -> bool:
    """Whether a full disk, or a path that cannot be used, is the reason."""
    return error.errno in _FULL or (error.errno in _REFUSED and error.filename is not None)


def explained(error: OSError, path: Path) -> KronosError:
    """The error of writing to a path, for people: code NO_SPACE or NOT_WRITABLE."""
    if error.errno in _FULL:
        return KronosError(
            f"no space left for {path}; every file is whole, as it was before or new",
            code="NO_SPACE",
        )
    return KronosError(f"cannot write {path}: {error.strerror or error}", code="NOT_WRITABLE")
