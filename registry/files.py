"""Files shared with other processes: atomic replacement and locks."""

import errno
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from registry.errors import Conflict, KronosError

Writer = Callable[[Path], None]  # writes the whole file to the given path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


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
            _sync(temporaries[path])
        for path, temporary in temporaries.items():
            temporary.replace(path)
            _sync(path.parent)
    except OSError as error:
        raise _explain(error, path) from error
    finally:
        for temporary in temporaries.values():
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def sweep(directory: Path, older_than_s: float = 3600.0) -> list[Path]:
    """Remove and return the old temporary files of killed writers in `directory`.

    Younger files may still be in use and stay.
    """
    limit = time.time() - older_than_s
    removed = []
    for path in sorted(directory.glob(".*.tmp")):
        with suppress(FileNotFoundError):  # its writer has just finished
            if path.stat().st_mtime < limit:
                path.unlink()
                removed.append(path)
    return removed


@contextmanager
def locked(path: Path, busy: str = "") -> Iterator[None]:
    """Run a block in one process and thread of this machine at a time.

    Waits for the lock. With a message `busy`, raises Conflict at once instead. The system frees the
    lock when its process ends, even if killed. A thread that already holds it must not ask again.
    """
    lock = FileLock(path, timeout=0 if busy else -1, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise Conflict(busy) from error
    try:
        yield
    finally:
        lock.release()


def is_locked(path: Path) -> bool:
    """Whether a process or thread holds the lock of `locked(path)`.

    The lock is taken for an instant, so do not ask for one that others take with `busy`.
    """
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")


def _sync(path: Path) -> None:
    """Flush a file's bytes or a directory's entries to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explain(error: OSError, path: Path) -> KronosError:
    if error.errno in _FULL:
        return KronosError(
            f"no space left for {path}; every file is whole, as it was before or new",
            code="NO_SPACE",
        )
    return KronosError(f"cannot write {path}: {error.strerror or error}", code="NOT_WRITABLE")
