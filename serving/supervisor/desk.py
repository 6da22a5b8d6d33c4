"""What the supervisor asks the ledger, and writes into it, for the gateway."""

import threading
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from registry.errors import NotReady
from registry.forecast.spec import ModelSpec
from registry.settings import Settings
from serving.messages import Changed, Found, LookUp, Lost, Recorded, Served
from serving.supervisor import tables
from serving.supervisor.candidates import Candidate
from serving.supervisor.ledger import SharedLedger
from serving.supervisor.lookups import Lookups
from serving.supervisor.recording import Recorder
from serving.supervisor.refusals import public, refusal
from serving.supervisor.tables import Calibrations

Send = Callable[[Any], None]


class Desk:
    """A ledger that is down is opened again later; meanwhile look-ups are refused.

    Versions may come from several registries, as exported folders do; the ledger keeps them apart.
    `refresh` is for one thread at a time.
    """

    def __init__(self, settings: Settings, send: Send) -> None:
        self._settings = settings
        self._send = send
        self._ledger = SharedLedger(settings)
        self._lookups = Lookups(settings, self._ledger)
        self._calibrations: dict[str, Calibrations] = {}  # by registry
        self._recorders: dict[str, Recorder] = {}
        self._registries: dict[tuple[str, int], str] = {}  # of versions that were served
        self._sessions: dict[str, date] = {}  # calendars that were sent, and when
        self._making = threading.Lock()
        self._recorded = Recorded(recorded=0, dropped=0)  # as it was sent last

    def answer(self, request: LookUp, candidate: Candidate | None) -> Found | Lost:
        """The answer to a look-up for a version that runs."""
        if candidate is None:
            error = NotReady(f"{request.model}/{request.version} is not served any more")
            return Lost(id=request.id, refusal=refusal(error))
        spec = ModelSpec.from_json(candidate.spec)
        answer = self._lookups.answer(request, spec, candidate.facts)
        if isinstance(answer, Lost):
            return Lost(id=answer.id, refusal=public(answer.refusal))
        return answer

    # --- what was served

    def serves(self, candidate: Candidate) -> None:
        """A version is served from now on."""
        pointer = candidate.pointer
        self._registries[(pointer.name, pointer.version)] = candidate.registry

    def record(self, served: Sequence[Served]) -> None:
        """Write what was answered, in the background."""
        by_registry: dict[str, list[Served]] = {}
        for one in served:
            registry = self._registries.get((one.model, one.version), "")
            by_registry.setdefault(registry, []).append(one)
        for registry, group in by_registry.items():
            self._recorder(registry).put(group)

    def _recorder(self, registry: str) -> Recorder:
        with self._making:
            if registry not in self._recorders:
                recorder = Recorder(self._settings, registry)  # its writes delay no look-up
                self._recorders[registry] = recorder
            return self._recorders[registry]

    def _send_counts(self) -> None:
        counts = [recorder.counts for recorder in list(self._recorders.values())]
        recorded = sum(one.recorded for one in counts)
        dropped = sum(one.dropped + one.refused for one in counts)
        message = Recorded(recorded=recorded, dropped=dropped)
        if message != self._recorded:
            self._recorded = message
            self._send(message)

    def close(self, timeout_s: float) -> None:
        """Write what waits, as far as that is possible in this time."""
        for recorder in list(self._recorders.values()):
            recorder.close(timeout_s)
        self._ledger.close()

    # --- tables

    def refresh(self, candidates: Sequence[Candidate]) -> None:
        """Send what changed of the tables that these versions need.

        Raises NotReady (LEDGER_UNAVAILABLE) after the sessions, which need no ledger, are sent.
        """
        self._send_counts()
        self._send_sessions(candidates)
        for data in sorted(self._lookups.changed()):
            self._send(Changed(data=data))
            for calibrations in self._calibrations.values():
                calibrations.forget(data)
        self._send_calibrations(candidates)

    def _send_sessions(self, candidates: Sequence[Candidate]) -> None:
        now = datetime.now(UTC)
        for calendar in {str(candidate.spec["calendar"]) for candidate in candidates}:
            if self._sessions.get(calendar) != now.date():
                self._send(tables.sessions(calendar, now))
                self._sessions[calendar] = now.date()

    def _send_calibrations(self, candidates: Sequence[Candidate]) -> None:
        by_registry: dict[str, list[tuple[str, int, str]]] = {}
        for candidate in candidates:
            pointer = candidate.pointer
            served = (pointer.name, pointer.version, candidate.facts.get("data", ""))
            by_registry.setdefault(candidate.registry, []).append(served)
        for registry, group in by_registry.items():
            if registry not in self._calibrations:
                self._calibrations[registry] = Calibrations(self._ledger, registry)
            for message in self._calibrations[registry].changes(group):
                self._send(message)
