"""python -m serving start|request MODEL: what is in Production behind MLflow's own scoring server."""

import json
import signal
import time
from typing import Annotated

import typer
from rich.console import Console

from registry import terminal

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def serving() -> None:
    """Serve promoted versions."""


@app.command(epilog=terminal.EXIT_CODES)
def start(
    model: Annotated[str, typer.Argument(help="Registered model, or a reference like nbeats/3 or nbeats@staging.")],
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: KRONOS_SERVE_HOST]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 takes a free one. [default: KRONOS_SERVE_PORT]")] = None,
) -> None:
    """Verify what is in Production and serve it until interrupted.

    Once ready, one line of JSON on stdout says where. Example: python -m serving start nbeats --port 5001
    """
    from registry.settings import Settings
    from registry.store import Store
    from serving.scorer import Scorer

    talk = Console(stderr=True, highlight=False)
    settings = Settings()
    with talk.status(f"verifying {model}"):
        store = Store(settings)
        version = store.resolve(model)
        store.fetch(version)
    scorer = Scorer(
        settings,
        version,
        host=settings.serve_host if host is None else host,
        port=settings.serve_port if port is None else port,
    )
    for number in STOPPING:
        signal.signal(number, _interrupt)
    with scorer:
        with talk.status(f"starting {version.uri}") as status:
            scorer.wait_ready(lambda waited: status.update(f"starting {version.uri} ({waited:.0f} s)"))
        print(
            json.dumps({"url": scorer.url, "model": version.name, "version": version.version, "pid": scorer.pid}),
            flush=True,
        )
        talk.print(f"{version.uri} answers on {scorer.url}/invocations; the README shows a request. Ctrl-C stops it.")
        while scorer.exit_code() is None:
            time.sleep(0.5)
        scorer.raise_ended()


@app.command(epilog=terminal.EXIT_CODES)
def request(
    model: Annotated[str, typer.Argument(help="Registered model, or a reference like nbeats/3 or nbeats@staging.")],
) -> None:
    """Print the body of a request that this version answers: real sessions, stored with it.

    Example: python -m serving request nbeats > request.json
    """
    from registry.settings import Settings
    from registry.store import Store

    store = Store(Settings())
    print(json.dumps(store.example_request(store.resolve(model))))


def _interrupt(*_: object) -> None:
    """Stop once: `make` passes a signal on that the terminal has sent already, and stopping must not be interrupted."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


if __name__ == "__main__":
    terminal.run(app)
