"""Processes: which one made something, and whether it still lives. Standard library only.

A number alone does not name a process, since the system gives it to another one later. The time of
its start does, as Linux tells it: "boot id/clock ticks since boot". Elsewhere it is empty.
"""

import os
import re
import socket
from dataclasses import dataclass
from pathlib import Path

_MARK = re.compile(r"(.+)-(\d+)-([0-9a-f-]{36}|0)-(\d+)")


@dataclass(frozen=True)
class Process:
    """A process of a host."""

    host: str
    pid: int
    started: str

    @property
    def mark(self) -> str:
        """The process as text that may be part of a file name: host-pid-boot-ticks."""
        boot, _, ticks = self.started.partition("/")
        return f"{self.host}-{self.pid}-{boot or 0}-{ticks or 0}"


def this_process() -> Process:
    return Process(socket.gethostname(), os.getpid(), started(os.getpid()) or "")


def marked(text: str) -> Process | None:
    """The process of a mark; None for other text."""
    match = _MARK.fullmatch(text)
    if match is None:
        return None
    host, pid, boot, ticks = match.groups()
    return Process(host, int(pid), "" if boot == "0" else f"{boot}/{ticks}")


def lives(process: Process) -> bool | None:
    """Whether a process of this host lives; None for another host, which cannot be checked."""
    if process.host != socket.gethostname():
        return None
    if process.started:
        return started(process.pid) == process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists and belongs to another user
        return True
    return True


def started(pid: int) -> str | None:
    """When a running process started. None if it ended, is a zombie, or there is no /proc."""
    try:
        # The name in parentheses may hold any character; the state follows the last parenthesis.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"
