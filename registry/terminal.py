"""How our command lines talk: the result on stdout, talk on stderr, an error as one line and an exit code."""

import os
import sys
from collections.abc import Callable

from pydantic import ValidationError

from registry.errors import BadConfig, BadInput, KronosError, NotFound

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."


def exit_code(error: KronosError) -> int:
    """2 when the caller can mend it by asking differently, else 1."""
    return 2 if isinstance(error, BadInput | NotFound) else 1


def run(
    main: Callable[[], object], on_error: Callable[[KronosError], None] = lambda _: None
) -> None:
    """Call a typer app; what goes wrong becomes `error: CODE: message` on stderr, without a traceback."""
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
    """Under `mlflow run`, say on its run why nothing came of it."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from registry.settings import Settings
        from registry.versions import tracking

        tracking.tag_project_run(Settings(), f"{error.code}: {error.message}")


def _translated(error: Exception) -> KronosError | None:
    """The error of ours that it is: itself, a wrong setting, or what MLflow says (no connection, another schema)."""
    if isinstance(error, KronosError):
        return error
    if isinstance(error, ValidationError) and error.title == "Settings":
        first = error.errors()[0]
        name = "KRONOS_" + "_".join(str(part) for part in first["loc"]).upper()
        return BadConfig(f"{name}: {first['msg']}; .env.example lists all settings")
    if type(error).__module__.startswith(
        "mlflow."
    ):  # importing MLflow to name its class costs seconds
        return KronosError(" ".join(str(error).split())[:500], code="MLFLOW")
    return None
