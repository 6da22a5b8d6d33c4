"""Output of our command lines: results on stdout, messages on stderr, one line for an error."""

import io
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from registry import files, interrupts
from registry.errors import BadConfig, BadInput, BadParameter, KronosError, NotFound
from registry.masking import masked
from registry.text import is_text, printable

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed, 2 wrong usage or input, "
    "129, 130 or 143 ended by hang-up, Ctrl-C or SIGTERM."
)
_PROJECT_RUN = "MLFLOW_RUN_ID"  # set by `mlflow run`
_ERROR_TAG = "kronos.error"  # tracking.ERROR_TAG; importing MLflow takes seconds
_PREFIXES = ("KRONOS_", "MLFLOW_", "HF_")  # of the environment variables that programs read
_OF_SQLITE = re.compile(r"\(sqlite3\.OperationalError\) ([^\[(]+)")
_FULL = ("database or disk is full", "disk I/O error")  # the second: beyond a limit of a file
_LONGEST = 2000  # characters of an error line


def exit_code(error: KronosError) -> int:
    """2 if the caller can correct the request, else 1."""
    return 2 if isinstance(error, BadInput | NotFound) else 1


def items_of(text: str, option: str) -> list[str]:
    """Items of an option that takes several, as in A,B. Raises BadParameter for an empty one."""
    items = [item.strip() for item in text.split(",")] if text else []
    if not all(items):
        raise BadParameter(f"{option} is {text[:80]!r}, expected items between commas, as in A,B")
    return items


def run(
    main: Callable[[], object], on_error: Callable[[KronosError], None] = lambda _: None
) -> None:
    """Call a typer app; print an error as `error: CODE: message` on stderr, without a traceback.

    A program that got a signal never ends with 0, whatever a library made of the signal.
    """
    project_run = os.environ.get(_PROJECT_RUN, "")
    _escape_unknown_characters()
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
        _check_text()
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
        print(_line(error), file=sys.stderr)
        with suppress(Exception):  # the error is told; MLflow may be what failed
            on_error(error)
        return exit_code(error)
    return 0


def _line(error: KronosError) -> str:
    text = printable(f"error: {error.code}: {masked(error.message)}")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."


def _escape_unknown_characters() -> None:
    """Print what the terminal's encoding lacks as an escape, not as a UnicodeEncodeError."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _check_text() -> None:
    """Raise BadParameter for an argument, BadConfig for a setting, whose bytes are not UTF-8.

    Python has surrogates for such bytes, which no database, URL or file of JSON takes.
    """
    for number, argument in enumerate(sys.argv[1:], start=1):
        if not is_text(argument):
            raise BadParameter(f"argument {number} is not UTF-8 text: {argument[:100]}")
    for name, value in os.environ.items():
        if name.startswith(_PREFIXES) and not is_text(value):
            raise BadConfig(f"{printable(name)} is not UTF-8 text")


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
    if error.code != "TRACKING_UNAVAILABLE":
        tag_project_run({_ERROR_TAG: f"{error.code}: {masked(error.message)}"})


def tag_project_run(tags: Mapping[str, str]) -> None:
    """Under `mlflow run`, tag its run, unless this program logged to it."""
    if os.environ.get(_PROJECT_RUN):
        from registry.settings import Settings
        from registry.versions import tracking

        tracking.tag_project_run(Settings(), tags)


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
    if isinstance(error, OSError) and files.of_the_disk(error):
        return files.explained(error, Path(error.filename or "a file"))
    # The classes are not named, because importing MLflow or SQLAlchemy takes seconds.
    if not type(error).__module__.startswith(("mlflow.", "sqlalchemy.")):
        return None
    text = " ".join(str(error).split())
    reason = _OF_SQLITE.search(text)
    return _of_database(reason[1].strip()) if reason else KronosError(text[:500], code="MLFLOW")


def _of_database(reason: str) -> KronosError:
    """SQLite's reason, with the file: MLflow's. The ledger names its own."""
    from registry.settings import Settings

    file = Settings().tracking.removeprefix("sqlite:///")
    if reason in _FULL:
        return KronosError(f"no space left for {file}: {reason}; free some", code="NO_SPACE")
    return KronosError(f"{file} cannot be used: {reason}", code="MLFLOW")
