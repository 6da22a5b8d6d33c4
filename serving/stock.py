"""One version behind MLflow's bare scoring server, in the foreground."""

import json
import time
from contextlib import ExitStack

from rich.console import Console
from rich.markup import escape

from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.text import printable
from registry.versions.store import Store
from serving.modes import Choice, choose
from serving.scorer import Scorer


def serve(model: str, host: str | None, port: int | None) -> None:
    """Verify the version that `model` names and serve it until interrupted.

    Host and port are by default those of the settings. When the server is ready, its address is
    printed as one line of JSON on stdout.
    """
    stderr = Console(stderr=True, highlight=False)
    settings = Settings()
    with stderr.status(escape(printable(f"verifying {model}"))):
        store = Store(settings)
        with open_ledger(store) as ledger:
            chosen = choose(store, ledger, model, settings.mode)
    _warn_of_simulator(stderr, model, chosen, settings.mode)
    with ExitStack() as stack:
        folder = stack.enter_context(store.private_copy(chosen.version))
        scorer = Scorer(
            settings,
            chosen.version,
            folder,
            host=settings.serve_host if host is None else host,
            port=settings.serve_port if port is None else port,
        )
        stack.enter_context(scorer)
        _watch(stderr, scorer, chosen)


def _watch(stderr: Console, scorer: Scorer, chosen: Choice) -> None:
    """Wait until the server is ready, say so, and wait for its end, which is an error."""
    version = chosen.version
    with stderr.status(f"starting {version.uri}") as status:
        scorer.wait_ready(lambda waited: status.update(f"starting {version.uri} ({waited:.0f} s)"))
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


def _warn_of_simulator(stderr: Console, model: str, chosen: Choice, mode: str) -> None:
    if chosen.instead:
        _warn(stderr, f"{model} cannot be served: {chosen.instead.message}")
    if chosen.mode == "simulated":
        reason = f"KRONOS_MODE={mode}"
        uri = chosen.version.uri
        _warn(stderr, f"serving {uri} for {model} ({reason}): simulated, not Kronos")


def _warn(stderr: Console, text: str) -> None:
    stderr.print(printable(f"warning: {text}"), style="bold yellow", markup=False, soft_wrap=True)
