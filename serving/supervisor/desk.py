"""What the supervisor asks the ledger, and writes into it, for the gateway."""

from collections.abc import Callable, Sequence
from typing import Any

from registry.errors import KronosError
from registry.settings import Settings
from serving.messages import Found, LookUp, Lost, Served
from serving.supervisor.candidates import Candidate
from serving.supervisor.refusals import refusal


class Desk:
    """A ledger that is down is opened again later; meanwhile look-ups are refused."""

    def __init__(self, settings: Settings, send: Callable[[Any], None]) -> None:
        self._settings = settings
        self._send = send

    def answer(self, request: LookUp, candidate: Candidate | None) -> Found | Lost:
        """The answer to a look-up for a version that runs."""
        error = KronosError("the ledger cannot be reached", code="LEDGER_UNAVAILABLE")
        return Lost(id=request.id, refusal=refusal(error))

    def record(self, served: Sequence[Served]) -> None:
        """Write what was answered, in the background."""

    def refresh(self, candidates: Sequence[Candidate]) -> None:
        """Send sessions and calibrations of the versions that are served, if they changed."""

    def close(self, timeout_s: float) -> None:
        """Write what waits."""
