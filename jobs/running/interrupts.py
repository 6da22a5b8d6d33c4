"""Ctrl-C only at safe moments: in the middle of a write it would break a database session."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Within `with Interrupts() as interrupts`, Ctrl-C is raised only where it is `allowed`.

    Elsewhere it is deferred: KeyboardInterrupt is raised at the next `allowed`. Python runs signal
    handlers in the main thread, so nothing happens in other threads.
    """

    def __init__(self) -> None:
        self._pending = self._allowed = False
        self._old_handler: object = None

    def __enter__(self) -> "Interrupts":
        if _in_main_thread():
            self._old_handler = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._old_handler is not None:
            signal.signal(signal.SIGINT, self._old_handler)  # type: ignore[arg-type]

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Ctrl-C, including one received earlier, is raised here."""
        with self._allow(True):
            yield

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside `allowed`: Ctrl-C is raised after this block."""
        with self._allow(False):
            yield

    @contextmanager
    def _allow(self, allowed: bool) -> Iterator[None]:
        if not _in_main_thread():
            yield
            return
        outer = self._allowed
        try:
            self._allowed = allowed
            self._raise_if_due()
            yield
        finally:
            self._allowed = outer
        self._raise_if_due()

    def _handle(self, _: int, __: FrameType | None) -> None:
        self._pending = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._pending and self._allowed:
            self._pending = False
            raise KeyboardInterrupt


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
