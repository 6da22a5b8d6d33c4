"""Looks at the registry again and again, in a thread of its own: it may hang."""

import threading
import time
from collections.abc import Callable, Mapping

from registry.errors import KronosError
from serving.supervisor.access import is_outage
from serving.supervisor.candidates import Pointer
from serving.supervisor.sources import Source

OnLooked = Callable[[str, list[Pointer]], None]
OnFailed = Callable[[str, KronosError, bool], None]  # model, error, and whether it is an outage


class Poller:
    """Tells for each model what its reference names; `wake` makes it look at once."""

    def __init__(
        self, sources: Mapping[str, Source], poll_s: float, looked: OnLooked, failed: OnFailed
    ) -> None:
        self._sources = sources
        self._poll_s = poll_s
        self._looked = looked
        self._failed = failed
        self._awake = threading.Event()
        self._looking_since: float | None = None  # on the monotonic clock

    def start(self) -> None:
        threading.Thread(target=self._poll, name="poll", daemon=True).start()

    def wake(self) -> None:
        self._awake.set()

    def silent_s(self) -> float:
        """For how long the look that is under way has had no answer."""
        since = self._looking_since
        return 0.0 if since is None else time.monotonic() - since

    def _poll(self) -> None:
        while True:
            self._awake.clear()
            for model, source in self._sources.items():
                self._look(model, source)
            self._awake.wait(self._poll_s)

    def _look(self, model: str, source: Source) -> None:
        self._looking_since = time.monotonic()
        try:
            pointers = source.look()
        except KronosError as error:
            self._failed(model, error, is_outage(error))
        except Exception as error:  # whatever it is, the next look may succeed
            unknown = KronosError(f"the look at {model} failed: {type(error).__name__}: {error}")
            self._failed(model, unknown, True)
        else:
            self._looked(model, pointers)
        finally:
            self._looking_since = None
