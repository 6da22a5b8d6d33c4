"""The verb `nightly`: remarks on stderr, the standings and one line of JSON on stdout."""

import json

from rich.console import Console

from jobs.nightly import page, showing
from jobs.nightly.nightly import JOB, Done, nightly
from jobs.nightly.starting import unless_running
from jobs.running.progress import bar_per_label
from registry.settings import Settings
from registry.text import printable


def run(*, data: str, as_of: str, sessions: int) -> int:
    """Run the night and show it; the exit code. Raises the errors of `nightly`."""
    settings = Settings()

    def work() -> int:
        with bar_per_label() as advance:
            done = nightly(settings, data=data, as_of=as_of, sessions=sessions, progress=advance)
        _remark(done)
        showing.print_all(done.standings)
        page_path = str(settings.reports_dir / page.NAME)
        print(json.dumps({"page": page_path, **done.summary()}))
        return 1 if done.failed else 0

    return unless_running(settings, JOB, work)


def _remark(done: Done) -> None:
    """What a person should know of this start."""
    stderr = Console(stderr=True, highlight=False, soft_wrap=True)
    lines = []
    for name in done.loaded:
        lines.append(f"{name} was loaded into the ledger, which keeps what was known when")
    for name, number in done.nights.items():
        lines.append(f"{name}: {number} nights were issued" if number else f"{name}: nothing new")
    for name, lacking in done.without.items():
        for model in lacking:
            lines.append(
                f"note: no {model} was trained on {name}, so nothing is compared with it; "
                f"`python -m jobs train {model} --data {name}` trains it"
            )
    if backfills := done.forecasts.get("backfill"):
        lines.append(
            f"note: {backfills} forecasts are backfills: computed now, from what was known then"
        )
    if done.restated:
        lines.append(
            f"restated: {len(done.restated)} returns that were scored before; the first: "
            f"{done.restated[0]}"
        )
    for reference in done.left_out:
        lines.append(
            f"left out: {reference} names no data set that it was trained on; "
            "`python -m jobs nightly --data NAME` issues it on one"
        )
    for failure in done.failed:
        lines.append(
            f"failed: {failure['job']} of {failure['of']}: {failure['code']}: {failure['message']}"
        )
    for line in lines:
        stderr.print(printable(line), markup=False)
