"""Processes: which one made something, and whether it still lives. Standard library only.

A number alone does not name a process, since the system gives it to another one later. The time of
its start does, as Linux tells it: "boot id/clock ticks since boot/place". The place is the machine
and its namespace of processes: containers and machines may share a host name. Elsewhere than on
Linux all this is empty.
"""

import hashlib
import os
import re
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MARK = re.compile(r"(.+)-(\d+)-([0-9a-f-]{36}-\d+-[0-9a-f]{8}|0)")
_PLACE = 8  # digits


@dataclass(frozen=True)
class Process:
    """A process of a host."""

    host: str
    pid: int
    started: str

    @property
    def mark(self) -> str:
        """The process as text that may be part of a file name: host-pid-boot-ticks-place."""
        return f"{self.host}-{self.pid}-{self.started.replace('/', '-') or 0}"


def this_process() -> Process:
    return Process(socket.gethostname(), os.getpid(), started(os.getpid()) or "")


def marked(text: str) -> Process | None:
    """The process of a mark; None for other text."""
    match = _MARK.fullmatch(text)
    if match is None:
        return None
    host, pid, start = match.groups()
    return Process(host, int(pid), "" if start == "0" else "/".join(start.rsplit("-", 2)))


def lives(process: Process) -> bool | None:
    """Whether a process lives; None if that cannot be known from here: another host or container.

    Nor can it be of another user's process, where the system hides those.
    """
    if process.host != socket.gethostname():
        return None
    start, _, place = process.started.rpartition("/")
    if "/" in start and place != _place():
        return None
    current = started(process.pid)
    if current is not None and process.started:
        # Older claims have no place.
        return process.started in (current, current.rpartition("/")[0])
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and belongs to another user
        return None if process.started else True
    return not process.started  # on Linux, one that can be signalled but not seen is a zombie


def started(pid: int) -> str | None:
    """When a running process started. None if it ended, is a zombie, or there is no /proc."""
    try:
        # The name in parentheses may hold any character; the state follows the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}/{_place()}"


def _place() -> str:
    """Digits for this machine and its namespace of processes."""
    parts = []
    with suppress(OSError):  # a container may have none
        parts.append(Path("/etc/machine-id").read_text())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:_PLACE]
