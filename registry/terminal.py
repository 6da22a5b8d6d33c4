"""Output of our command lines: results on stdout, messages on stderr, one line for an error."""

import os
import sys
from collections.abc import Callable

from pydantic import ValidationError

from registry.errors import BadConfig, BadInput, KronosError, NotFound

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."


def exit_code(error: KronosError) -> int:
    """2 if the caller can correct the request, else 1."""
    return 2 if isinstance(error, BadInput | NotFound) else 1


def run(
    main: Callable[[], object], on_error: Callable[[KronosError], None] = lambda _: None
) -> None:
    """Call a typer app; print an error as `error: CODE: message` on stderr, without a traceback."""
    try:
        main()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as raised:
        error = _translated(raised)
        if error is None:
            raise
        on_error(error)
        print(f"error: {error.code}: {error.message}", file=sys.stderr)
        sys.exit(exit_code(error))


def tag_run(error: KronosError) -> None:
    """Under `mlflow run`, write the error to its run as a tag."""
    if os.environ.get("MLFLOW_RUN_ID"):
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
