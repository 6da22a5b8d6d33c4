"""A second start of a nightly verb: it says so and ends well, because the work is being done."""

import json
import sys
from collections.abc import Callable

from jobs.nightly.alone import alone
from registry.errors import Conflict
from registry.settings import Settings


def unless_running(settings: Settings, job: str, work: Callable[[], int]) -> int:
    """The exit code of the work; 0 if another process does it."""
    try:
        with alone(settings, job):
            return work()
    except Conflict as error:
        if error.code != "ALREADY_RUNNING":
            raise
        print(error.message, file=sys.stderr)
        print(json.dumps({"already_running": job}))
        return 0
