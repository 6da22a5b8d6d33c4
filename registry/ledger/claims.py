"""Which process holds a claim, and whether it still lives. Where there is /proc, a reused pid is not taken for it."""

import getpass
import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Claimant:
    """A process: `started` is boot id and clock ticks since boot on Linux, empty elsewhere."""

    host: str
    pid: int
    started: str


def this_process() -> Claimant:
    return Claimant(socket.gethostname(), os.getpid(), _started(os.getpid()) or "")


def lives(claimant: Claimant) -> bool | None:
    """True or False for a process of this host; None for another host's, which cannot be asked."""
    if claimant.host != socket.gethostname():
        return None
    if Path("/proc/self/stat").exists():
        return _started(claimant.pid) == claimant.started
    try:
        os.kill(claimant.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is there, and somebody else's
        return True
    return True


def _started(pid: int) -> str | None:
    """Identity of a running process; None when it is gone or a zombie, or when there is no /proc."""
    try:
        # The name in parentheses may hold anything; the state and the rest follow the last one.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot}/{fields[19]}"


def user() -> str:
    """user@host, as a change is signed."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = f"uid{os.getuid()}"
    return f"{name}@{socket.gethostname()}"
