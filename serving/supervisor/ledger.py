"""The ledger as the supervisor has it: opened when it is needed, and again after an outage."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from registry.errors import KronosError, NotReady
from registry.ledger.archive import Archive
from registry.settings import Settings
from serving.messages import Refusal

RETRY_S = 2.0  # for which a ledger that failed is not asked again
DOWN = "LEDGER_UNAVAILABLE"


class SharedLedger:
    """One pool of connections for all threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._archive: Archive | None = None
        self._failure = ""
        self._failed_at = float("-inf")

    @contextmanager
    def opened(self) -> Iterator[Archive]:
        """The ledger. Raises KronosError (LEDGER_UNAVAILABLE) if it cannot be used.

        For RETRY_S after a failure that is raised at once: a connection takes seconds to fail.
        """
        if time.monotonic() - self._failed_at < RETRY_S:
            raise NotReady(self._failure, code="LEDGER_UNAVAILABLE")
        try:
            yield self._opened()
        except KronosError as error:
            if error.code == DOWN:
                self._failure, self._failed_at = error.message, time.monotonic()
            raise

    def close(self) -> None:
        with self._lock:
            if self._archive is not None:
                self._archive.close()
            self._archive = None

    def _opened(self) -> Archive:
        with self._lock:
            if self._archive is None:
                self._archive = Archive(self._settings)
            return self._archive


def refusal_of(error: KronosError) -> Refusal:
    """An error as the gateway gets it."""
    return Refusal(code=error.code, message=error.message, status=error.status)
