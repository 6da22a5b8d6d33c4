"""A word to the person who waits. Standard library only."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AFTER_S = 2.0


@contextmanager
def said(message: str) -> Iterator[None]:
    """Log a warning if the block takes longer than AFTER_S. Python prints warnings on stderr."""
    log = logging.getLogger(__name__)
    timer = threading.Timer(AFTER_S, log.warning, ["%s", message])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
