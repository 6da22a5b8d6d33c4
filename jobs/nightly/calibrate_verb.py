"""The verb `calibrate`: references in; progress and remarks on stderr, one JSON line on stdout."""

import json
import time
from collections.abc import Sequence
from typing import Any

import typer
from rich.markup import escape

from jobs.nightly import calibrate
from jobs.nightly.ranges import JOB
from jobs.running.progress import one_bar
from registry.errors import BadParameter, Conflict
from registry.settings import Settings
from registry.text import printable


def run(references: Sequence[str], **options: Any) -> None:
    """Calibrate, and say what was done. Ends with exit code 1 if one of several versions failed.

    Raises the error of a single version.
    """
    begun = time.monotonic()
    with one_bar() as (advance, say):

        def remark(line: str) -> None:
            say(escape(printable(line)))

        try:
            done = calibrate.calibrate(
                Settings(), references, **options, progress=advance, say=remark
            )
        except Conflict as error:
            if error.code != "ALREADY_RUNNING":
                raise
            remark(error.message)
            print(json.dumps({"already_running": JOB}))
            return
        if len(done) == 1 and done[0].error is not None:
            raise done[0].error
        for one in done:
            remark(one.line())
        if not done:
            remark("nothing is in Production; `python -m registry promote MODEL VERSION` first")
    summaries = [one.summary() for one in done]
    seconds = round(time.monotonic() - begun, 1)
    print(json.dumps({"calibrated": summaries, "seconds": seconds}))
    if any(one.error is not None for one in done):
        raise typer.Exit(1)


def roll_back(references: Sequence[str], data: str) -> None:
    """Roll back the calibration of one version."""
    if len(references) != 1:
        raise BadParameter(
            f"--rollback takes one version, found {len(references)}; name it, as in har or har/3"
        )
    print(json.dumps(calibrate.roll_back(Settings(), references[0], data)))
