"""What a fleet decides: messages to the gateway, and work for other threads of the supervisor."""

from dataclasses import dataclass

from serving.messages import Run, Serve, State, Stop
from serving.supervisor.candidates import Candidate, Key, Pointer
from serving.supervisor.runners import Runner


@dataclass(frozen=True)
class Fetch:
    """Verify the files of a version; `local` only looks at the copy on this disk."""

    model: str
    pointer: Pointer
    local: bool


@dataclass(frozen=True)
class Watch:
    """Ask a scorer again and again whether it answers, until it is stopped."""

    runner: Runner


@dataclass(frozen=True)
class WarmUp:
    """Send the stored example to a scorer that answers."""

    runner: Runner


@dataclass(frozen=True)
class Keep:
    """Remember on disk what is served now; copies of other versions are removed."""

    model: str
    candidate: Candidate
    in_use: frozenset[Key]


@dataclass(frozen=True)
class Mark:
    """Write in the registry why a version could not be served, or that it could: no reason."""

    model: str
    pointer: Pointer
    reason: str


Effect = Run | Stop | Serve | State | Fetch | Watch | WarmUp | Keep | Mark
