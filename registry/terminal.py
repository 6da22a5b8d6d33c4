"""How our command lines talk: the result on stdout, talk on stderr, an error as one line and an exit code."""

import sys
from collections.abc import Callable

from registry.errors import BadInput, KronosError, NotFound

EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 wrong usage or input, 130 interrupted."


def exit_code(error: KronosError) -> int:
    """2 when the caller can mend it by asking differently, else 1."""
    return 2 if isinstance(error, BadInput | NotFound) else 1


def run(main: Callable[[], object], on_error: Callable[[KronosError], None] = lambda _: None) -> None:
    """Call a typer app; errors of ours become `error: CODE: message` on stderr, without a traceback."""
    try:
        main()
    except KronosError as error:
        on_error(error)
        print(f"error: {error.code}: {error.message}", file=sys.stderr)
        sys.exit(exit_code(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
