"""python -m serving start|request MODEL: the Production version behind MLflow's scoring server."""

import json
import time
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from registry import terminal
from registry.text import printable

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


@app.callback()
def serving() -> None:
    """Serve promoted versions."""


@app.command(epilog=terminal.EXIT_CODES)
def start(
    model: Annotated[
        str,
        typer.Argument(help="Registered model, or a reference like nbeats/3 or nbeats@staging."),
    ],
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: KRONOS_SERVE_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, help="Port; 0 takes a free one; default: KRONOS_SERVE_PORT."
        ),
    ] = None,
) -> None:
    """Verify the version in Production and serve it until interrupted.

    When the server is ready, it prints its address as one line of JSON on stdout.
    Example: python -m serving start nbeats --port 5001
    KRONOS_MODE decides which model `kronos` means: kronos, simulated (kronos_simulated), or auto
    (kronos if it can be served, else kronos_simulated).
    """
    from registry.promotion.opening import open_ledger
    from registry.settings import Settings
    from registry.versions.store import Store
    from serving.modes import choose
    from serving.scorer import Scorer

    stderr = Console(stderr=True, highlight=False)
    settings = Settings()
    with stderr.status(escape(printable(f"verifying {model}"))):
        store = Store(settings)
        with open_ledger(store) as ledger:
            chosen = choose(store, ledger, model, settings.mode)
    version = chosen.version
    if chosen.instead:
        _warn(stderr, f"{model} cannot be served: {chosen.instead.message}")
    if chosen.mode == "simulated":
        mode = f"KRONOS_MODE={settings.mode}"
        _warn(stderr, f"serving {version.uri} for {model} ({mode}): simulated, not Kronos")
    with ExitStack() as stack:
        folder = stack.enter_context(store.private_copy(version))
        scorer = Scorer(
            settings,
            version,
            folder,
            host=settings.serve_host if host is None else host,
            port=settings.serve_port if port is None else port,
        )
        stack.enter_context(scorer)
        with stderr.status(f"starting {version.uri}") as status:
            scorer.wait_ready(
                lambda waited: status.update(f"starting {version.uri} ({waited:.0f} s)")
            )
        server = {
            "url": scorer.url,
            "model": version.name,
            "version": version.version,
            "pid": scorer.pid,
        }
        print(json.dumps(server | chosen.facts()), flush=True)
        stderr.print(
            f"{version.uri} answers on {scorer.url}/invocations; "
            "README.md, section Serve, shows a request. Ctrl-C stops it."
        )
        while scorer.exit_code() is None:
            time.sleep(0.5)
        scorer.raise_ended()


@app.command(epilog=terminal.EXIT_CODES)
def request(
    model: Annotated[
        str,
        typer.Argument(help="Registered model, or a reference like nbeats/3 or nbeats@staging."),
    ],
    data: Annotated[
        str, typer.Option(help="One of your data sets; default: the version's stored example.")
    ] = "",
    symbol: Annotated[str, typer.Option(help="Of that data set, as in AAPL or AAPL,KO.")] = "",
) -> None:
    """Print the body of an example request: real sessions, stored with the version.

    With --data it has the latest sessions of a symbol of yours.

    Example: python -m serving request nbeats > request.json
    """
    from registry.errors import BadParameter
    from registry.promotion.opening import open_ledger
    from registry.settings import Settings
    from registry.versions.store import Store
    from serving.modes import choose

    settings = Settings()
    store = Store(settings)
    with open_ledger(store) as ledger:
        version = choose(store, ledger, model, settings.mode).version
    if data:
        from serving.request import latest

        symbols = terminal.items_of(symbol, "--symbol")
        print(json.dumps(latest(settings, store, version, data, symbols)))
    elif symbol:
        raise BadParameter("--symbol names a series of a data set; add --data NAME")
    else:
        print(json.dumps(store.example_request(version)))


def _warn(stderr: Console, text: str) -> None:
    stderr.print(printable(f"warning: {text}"), style="bold yellow", markup=False, soft_wrap=True)


if __name__ == "__main__":
    terminal.run(app)
