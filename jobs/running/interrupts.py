"""Ctrl-C at moments of our choice: in the middle of a write it would leave a database's session broken."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Within `with Interrupts() as interrupts`, Ctrl-C raises KeyboardInterrupt only where it is `heard`.

    Elsewhere it is kept until then. Python runs signal handlers in the main thread: other threads are not concerned.
    """

    def __init__(self) -> None:
        self._pending = self._open = False
        self._before: object = None

    def __enter__(self) -> "Interrupts":
        if _main():
            self._before = signal.signal(signal.SIGINT, self._came)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Ctrl-C, including one received earlier, is raised here."""
        with self._set(True):
            yield

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within `heard`, here it is kept."""
        with self._set(False):
            yield

    @contextmanager
    def _set(self, open_: bool) -> Iterator[None]:
        if not _main():
            yield
            return
        before = self._open
        try:
            self._open = open_
            self._raise_if_due()
            yield
        finally:
            self._open = before
        self._raise_if_due()

    def _came(self, _: int, __: FrameType | None) -> None:
        self._pending = True
        self._raise_if_due()

    def _raise_if_due(self) -> None:
        if self._pending and self._open:
            self._pending = False
            raise KeyboardInterrupt


def _main() -> bool:
    return threading.current_thread() is threading.main_thread()
