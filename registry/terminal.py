"""Output of our command lines: results on stdout, messages on stderr, one line for an error."""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress

from pydantic import ValidationError

from registry import interrupts
from registry.errors import BadConfig, BadInput, KronosError, NotFound
from registry.masking import masked

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, "
    "129, 130 or 143 ended by hang-up, Ctrl-C or SIGTERM."
)
_PROJECT_RUN = "MLFLOW_RUN_ID"  # set by `mlflow run`


def exit_code(error: KronosError) -> int:
    """2 if the caller can correct the request, else 1."""
    return 2 if isinstance(error, BadInput | NotFound) else 1


def run(
    main: Callable[[], object], on_error: Callable[[KronosError], None] = lambda _: None
) -> None:
    """Call a typer app; print an error as `error: CODE: message` on stderr, without a traceback.

    A program that got a signal never ends with 0, whatever a library made of the signal.
    """
    project_run = os.environ.get(_PROJECT_RUN, "")
    with interrupts.raised():
        try:
            code = _called(main, on_error)
        except interrupts.Interrupted as raised:
            code = 128 + raised.number
        number = interrupts.received()
        if number is not None:
            code = 128 + number
            _kill_runs(project_run)
            with suppress(OSError):  # after a hang-up there is no terminal
                print(interrupts.ENDING[number], file=sys.stderr)
    sys.exit(code)


def _called(
    main: Callable[[], object], on_error: Callable[[KronosError], None]
) -> int | str | None:
    """The exit code of an app, which ends by SystemExit."""
    try:
        main()
    except SystemExit as ended:
        return ended.code
    except KeyboardInterrupt:  # not from a signal: those are raised as Interrupted
        print(interrupts.ENDING[signal.SIGINT], file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as raised:
        if interrupts.received():  # the consequence of a signal
            return 1
        error = _translated(raised)
        if error is None:
            print(masked(traceback.format_exc()), end="", file=sys.stderr)
            return 1
        print(f"error: {error.code}: {masked(error.message)}", file=sys.stderr)
        with suppress(Exception):  # the error is told; MLflow may be what failed
            on_error(error)
        return exit_code(error)
    return 0


def _kill_runs(project_run: str) -> None:
    """End the runs of an interrupted program as KILLED, as far as MLflow answers.

    The exit code must be that of the signal, so no error counts here; `registry doctor` finds what
    is left. If MLflow was not even imported, there is only the run that `mlflow run` opened.
    """
    if not project_run and "registry.versions.tracking" not in sys.modules:
        return
    with suppress(Exception):
        from registry.settings import Settings
        from registry.versions import tracking

        tracking.kill(Settings(), project_run)


def tag_run(error: KronosError) -> None:
    """Under `mlflow run`, write the error to its run as a tag, if MLflow can be reached."""
    if os.environ.get(_PROJECT_RUN) and error.code != "TRACKING_UNAVAILABLE":
        from registry.settings import Settings
        from registry.versions import tracking

        tracking.tag_project_run(Settings(), f"{error.code}: {error.message}")


def _translated(error: Exception) -> KronosError | None:
    """A KronosError for our own errors, wrong settings and MLflow's errors; None for others.

    MLflow's errors include a lost connection and another database schema.
    """
    if isinstance(error, KronosError):
        return error
    if isinstance(error, ValidationError) and error.title == "Settings":
        first = error.errors()[0]
        name = "KRONOS_" + "_".join(str(part) for part in first["loc"]).upper()
        return BadConfig(f"{name}: {first['msg']}; .env.example lists all settings")
    # The class is not named, because importing MLflow takes seconds.
    if type(error).__module__.startswith("mlflow."):
        return KronosError(" ".join(str(error).split())[:500], code="MLFLOW")
    return None
