"""Signals that end a program: raised as one exception, and never in the middle of a write.

Ctrl-C, SIGTERM and SIGHUP become `Interrupted`. It is no KeyboardInterrupt, because libraries make
something else of that: Lightning raises SystemExit(1) and ignores every later Ctrl-C. Python runs
signal handlers in the main thread, so nothing happens in other threads. Standard library only.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Signal and the word for people.
ENDING = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "terminated",
    signal.SIGHUP: "hung up",
}

PATIENCE_S = 5.0


class Interrupted(BaseException):
    """The signal that ends this program."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(ENDING[number])
        self.number = number


class _State:
    """Signals belong to the process, and so does this."""

    received: signal.Signals | None = None
    since = 0.0  # when, on the monotonic clock
    pending = False  # received and not raised yet
    allowed = True


@contextmanager
def raised() -> Iterator[None]:
    """Within this block the first signal is raised as `Interrupted`.

    Those that follow within PATIENCE_S change nothing, because `make` and init repeat a signal. A
    later one ends the process at once, whatever it waits for.

    A signal that the process was started to ignore (nohup, a background job) stays ignored.
    """
    old = {}
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            old[number] = signal.signal(number, _handle)
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        _State.received, _State.pending = None, False


def received() -> signal.Signals | None:
    """The signal that ends this program, also if its exception was swallowed."""
    return _State.received


def check() -> None:
    """Raise again a signal whose exception was lost, in a destructor or by a library."""
    if _State.received and _State.allowed and _in_main_thread():
        raise Interrupted(_State.received)


@contextmanager
def deferred() -> Iterator[None]:
    """A signal is raised after this block, for a write that must be whole. Also a decorator."""
    with _allow(False):
        yield


@contextmanager
def allowed() -> Iterator[None]:
    """Inside `deferred`: a signal, including one received earlier, is raised here."""
    with _allow(True):
        yield


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Give back the signals that a library takes in this block, as Ray does when it starts."""
    handlers = {number: signal.getsignal(number) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if _in_main_thread():
                signal.signal(number, handler)


@contextmanager
def no_ctrl_c_for_children() -> Iterator[None]:
    """Programs started in this block never get Ctrl-C, which a terminal sends to them, too.

    This process decides when they end. It gets a Ctrl-C of this moment after the block.
    """
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


@contextmanager
def _allow(allowed: bool) -> Iterator[None]:
    if not _in_main_thread():
        yield
        return
    outer = _State.allowed
    try:
        _State.allowed = allowed
        _raise_if_due()
        yield
    finally:
        _State.allowed = outer
    _raise_if_due()


def _handle(number: int, _: FrameType | None) -> None:
    now = time.monotonic()
    if _State.received is None:
        _State.received, _State.pending, _State.since = signal.Signals(number), True, now
        _raise_if_due()
    elif now - _State.since > PATIENCE_S:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _raise_if_due() -> None:
    if _State.pending and _State.allowed and _State.received:
        _State.pending = False
        raise Interrupted(_State.received)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
