"""One start of a nightly job at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from registry import files
from registry.errors import Conflict
from registry.settings import Settings


@contextmanager
def alone(settings: Settings, job: str) -> Iterator[None]:
    """Run a block while no other process of this machine runs the job.

    Raises Conflict (ALREADY_RUNNING) at once if one does.
    """
    lock = settings.state_dir / f"{job}.lock"
    files.make_folder(lock.parent)
    with ExitStack() as stack:
        try:
            stack.enter_context(files.locked(lock, busy=f"{job} is already running"))
        except Conflict as error:
            raise Conflict(error.message, code="ALREADY_RUNNING") from error
        yield
