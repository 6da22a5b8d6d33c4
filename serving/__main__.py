"""python -m serving start|scorer|request|key: promoted versions behind HTTP."""

import json
import sys
from typing import Annotated

import typer

from registry import terminal

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)


@app.callback()
def serving() -> None:
    """Serve promoted versions."""


@app.command(epilog=terminal.EXIT_CODES)
def start(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="Registered models, or references like nbeats/3 or nbeats@challenger.",
        ),
    ],
    stage: Annotated[
        str, typer.Option(help="Stage of the models that are named without a version.")
    ] = "Production",
    host: Annotated[
        str | None, typer.Option(help="Address to listen on; default: KRONOS_HOST.")
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(min=0, max=65535, help="Port; 0 takes a free one; default: KRONOS_PORT."),
    ] = None,
) -> None:
    """Serve promoted versions by the gateway until interrupted.

    It follows promotions: a new version is started beside the old one and takes over when it is
    warm. When all models answer, it prints its address as one line of JSON on stdout.

    Example: python -m serving start nbeats har --port 8080
    KRONOS_MODE decides which model `kronos` means: kronos, simulated (kronos_simulated), or auto
    (kronos if it can be served, else kronos_simulated).
    """
    from serving.start import start

    start(models, stage, host, port)


@app.command(epilog=terminal.EXIT_CODES)
def scorer(
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
    """Serve a version by MLflow's bare scoring server until interrupted.

    When the server is ready, it prints its address as one line of JSON on stdout.
    Example: python -m serving scorer nbeats --port 5001
    KRONOS_MODE decides which model `kronos` means: kronos, simulated (kronos_simulated), or auto
    (kronos if it can be served, else kronos_simulated).
    """
    from serving.stock import serve

    serve(model, host, port)


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


@app.command(epilog=terminal.EXIT_CODES)
def key(
    name: Annotated[str, typer.Argument(help="Who will use it; the gateway logs this name.")],
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model that it may ask for; repeat it for several. Default: all."),
    ] = None,
) -> None:
    """Make an API key for the gateway and print it once, as one line of JSON.

    Nothing is stored. `setting` goes to the gateway, `key` to the client.

    Example: python -m serving key reports --model nbeats --model har
    """
    from serving.gateway.keys import create

    secret, entry = create(name, model or ())
    print(json.dumps({"name": name, "key": secret, "setting": entry.entry()}), flush=True)
    print(
        "Add `setting` to KRONOS_API_KEYS in .env, after a comma if it holds others, and restart "
        "the gateway. The client sends the header Authorization: Bearer KEY. "
        "The key cannot be shown again.",
        file=sys.stderr,
    )


if __name__ == "__main__":
    terminal.run(app)
