"""The verb `forecast --issue`: options in; remarks on stderr, one line of JSON on stdout."""

import json
from collections.abc import Sequence

from rich.console import Console

from jobs.nightly.issue import JOB, issue
from jobs.nightly.issued import LISTED, Issued
from jobs.nightly.starting import unless_running
from jobs.running.progress import bar_per_label
from registry.forecast.history import Refused
from registry.settings import Settings
from registry.text import printable
from registry.versions.suitability import listed


def run(
    reference: str, *, data: str, as_of: str, since: str, until: str, horizon: int | None
) -> int:
    """Issue and say what was done; the exit code. Raises the errors of `issue`.

    The error of a version that was named is raised. Of several versions, the others go on.
    """
    settings = Settings()

    def work() -> int:
        with bar_per_label() as advance:
            done = issue(
                settings,
                [reference] if reference else [],
                data=data,
                as_of=as_of,
                since=since,
                until=until,
                horizon=horizon,
                progress=advance,
            )
        return _show(done, bool(reference))

    return unless_running(settings, JOB, work)


def _show(issued: Sequence[Issued], named: bool) -> int:
    """Print what was done; the exit code. Raises the error of a version that was named."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    for one in issued:
        for line in remarks(one):
            stderr.print(printable(line), markup=False)
        if one.error is not None and named:
            raise one.error
        if one.error is not None:
            line = f"failed: {one.reference}: {one.error.code}: {one.error.message}"
            stderr.print(printable(line), markup=False)
    errors = [one.error for one in issued if one.error is not None]
    print(json.dumps({"issued": [one.summary() for one in issued]}))
    return 1 if errors else 0


def remarks(done: Issued) -> list[str]:
    """What a person should know of the forecasts of a version."""
    of_version = f"{done.reference} on {done.data}" if done.data else done.reference
    lines = [*_of_nights(done, of_version), *_of_series(done.refused)]
    if done.already:
        cutoffs = listed([str(cutoff) for cutoff in done.already])
        lines.append(f"{of_version}: issued before: {cutoffs}")
    lines += [f"note: {of_version}: {text}" for text in done.notes.values()]
    return lines


def _of_nights(done: Issued, of_version: str) -> list[str]:
    nights = list(done.nights.items())
    lines = []
    for cutoff, error in nights[:LISTED]:
        lines.append(f"not issued: {of_version}: {cutoff}: {error.code}: {error.message}")
    if len(nights) > LISTED:
        lines.append(f"not issued: {of_version}: {len(nights) - LISTED} more cutoffs")
    return lines


def _of_series(refused: Sequence[Refused]) -> list[str]:
    lines = [f"refused: {one.code}: {one.message}" for one in refused[:LISTED]]
    if len(refused) > LISTED:
        lines.append(f"refused: {len(refused) - LISTED} more series")
    return lines
