"""The verb `mature`: restated returns on stderr, one line of JSON on stdout."""

import json

from rich.console import Console

from jobs.nightly.mature import JOB, LISTED, Summary, mature
from jobs.nightly.starting import unless_running
from jobs.running.progress import bar_per_label
from registry.settings import Settings
from registry.text import printable


def run(*, data: str, as_of: str) -> int:
    """Score and say what was done; the exit code. Raises the errors of `mature`."""
    settings = Settings()

    def work() -> int:
        with bar_per_label() as advance:
            done = mature(settings, data=data, as_of=as_of, progress=advance)
        stderr = Console(stderr=True, highlight=False, soft_wrap=True)
        for line in remarks(done):
            stderr.print(printable(line), markup=False)
        print(json.dumps(done.summary()))
        return 0

    return unless_running(settings, JOB, work)


def remarks(done: Summary) -> list[str]:
    """The restated returns."""
    lines = []
    for one in done.restated[:LISTED]:
        change = f"from {one.before:+.6f} to {one.after:+.6f}"
        lines.append(f"restated: {one.symbol} of {one.data} on {one.session}: {change}")
    if len(done.restated) > LISTED:
        lines.append(f"restated: {len(done.restated) - LISTED} more returns")
    return lines
