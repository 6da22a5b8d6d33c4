"""The store and the ledger of this process: opened when needed, and again after an outage."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import make_url

from registry.errors import BadInput, Corrupt, KronosError, NotFound, NotReady
from registry.ledger.promotions import Ledger
from registry.masking import masked
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store

_OF_LIBRARIES = ("mlflow.", "sqlalchemy.", "requests.", "urllib3.", "psycopg2.", "botocore.")


class RegistryAccess:
    """Any thread may use it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._store: Store | None = None
        self._ledger: Ledger | None = None
        self._opening = threading.Lock()

    def store(self) -> Store:
        """Raises KronosError (TRACKING_UNAVAILABLE)."""
        with self._opening:
            return self._opened_store()

    def ledger(self) -> Ledger:
        """The promotions of this registry. Raises KronosError (LEDGER_UNAVAILABLE)."""
        with self._opening:
            if self._ledger is None:
                self._ledger = open_ledger(self._opened_store())
            return self._ledger

    def _opened_store(self) -> Store:
        if self._store is None:
            _check_there(self.settings)
            self._store = Store(self.settings)
        return self._store


def _check_there(settings: Settings) -> None:
    """Raise NotReady if MLflow's database is a file that is missing or empty.

    MLflow would fill it with an empty registry, in which every model is missing.
    """
    if not settings.tracking.startswith("sqlite"):
        return
    path = make_url(settings.tracking).database
    if path is None or not Path(path).exists() or not Path(path).stat().st_size:
        raise NotReady(
            f"there is no database {path}; train and promote a model first, or bring it back",
            code="TRACKING_UNAVAILABLE",
        )


@contextmanager
def translated() -> Iterator[None]:
    """Turn errors of MLflow, databases and the network into a KronosError."""
    try:
        yield
    except KronosError:
        raise
    except Exception as error:
        of_library = type(error).__module__.startswith(_OF_LIBRARIES)
        if not (of_library or isinstance(error, OSError)):
            raise
        text = masked(" ".join(str(error).split()))
        raise NotReady(text[:500], code="TRACKING_UNAVAILABLE") from error


def is_outage(error: Exception) -> bool:
    """Whether an error says nothing about the version: the registry or this machine fails."""
    if isinstance(error, Corrupt | NotFound | BadInput):
        return False
    return not (isinstance(error, KronosError) and error.code == "PACKAGE_MISSING")
