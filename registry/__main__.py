"""python -m registry <verb>: list, compare and promote registered models, mirror and push them, check them."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from registry import terminal
from registry.errors import BadParameter, Corrupt, NotFound

if TYPE_CHECKING:  # mlflow and SQLAlchemy cost seconds: --help does without
    from registry.hub.mirror import Official
    from registry.ledger.promotions import Ledger
    from registry.versions.store import Store
    from registry.versions.version import Version

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Model = Annotated[str, typer.Argument(help="Name of a registered model, as in nbeats.")]
Why = Annotated[str, typer.Option(help="The reason, in words; kept for ever.")]
COMPARED = ("crps", "coverage_90", "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett")


@app.command("list", epilog=terminal.EXIT_CODES)
def list_models(as_json: Json = False) -> None:
    """Registered models and what is in their stages. Example: python -m registry list"""
    store = _store()
    rows = []
    for name in store.names():
        aliases = store.aliases(name)
        versions = [v.version for v in store.versions(name)]
        held = {key: aliases.get(key) for key in ("production", "previous", "staging")}
        rows.append(
            {
                "model": name,
                "versions": len(versions),
                "latest": max(versions, default=None),
                **held,
            }
        )
    _emit(rows, as_json, empty="no model is registered; `make demo` trains the first ones")


@app.command(epilog=terminal.EXIT_CODES)
def show(
    reference: Annotated[
        str,
        typer.Argument(metavar="MODEL[/VERSION]", help="As in nbeats, nbeats/3, nbeats@staging."),
    ],
    as_json: Json = False,
) -> None:
    """Versions of a model, or everything known of one. Example: python -m registry show nbeats/3"""
    store = _store()
    if "/" not in reference and "@" not in reference:
        rows = [
            _row(v) | {"created": f"{v.created_at:%Y-%m-%d %H:%M}", "run": v.run_id}
            for v in store.versions(reference)
        ]
        _emit(rows, as_json, empty=f"{reference} has no versions")
        return
    version = store.resolve(reference)
    facts = asdict(version) | {"uri": version.uri, "created_at": version.created_at.isoformat()}
    facts["metrics"] = store.metrics(version)
    if as_json:
        print(json.dumps(facts))
        return
    _emit([{"": key, "value": value} for key, value in _flat(facts)], as_json)


@app.command(epilog=terminal.EXIT_CODES)
def compare(
    references: Annotated[
        list[str], typer.Argument(metavar="MODEL[/VERSION]...", help="As in nbeats fhs/1.")
    ],
    as_json: Json = False,
) -> None:
    """Versions side by side by the metrics of their runs: by data set, best CRPS first.

    Example: python -m registry compare nbeats fhs
    """
    from registry.hub.push import reported

    store = _store()
    rows, measured_on = [], []
    for version in _versions(store, references):
        measured = {key: store.metrics(version).get(key) for key in COMPARED}
        rows.append(_row(version) | {"data": version.tags.get("data")} | measured)
        if any(value is not None for value in measured.values()):
            measured_on.append(reported(store, version))
    rows.sort(key=lambda row: (row["data"] is None, row["data"], row["crps"] is None, row["crps"]))
    _warn_unless_comparable(measured_on)
    _emit(rows, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def promote(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="A number, `latest`, or an alias as in `staging`.")
    ],
    stage: Annotated[str, typer.Option(help="Production, Staging or Archived.")] = "Production",
    why: Why = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Move a version to a stage, after its bytes were verified.

    Example: python -m registry promote nbeats 3 --stage Production --why "better CRPS since March"
    """
    from registry.ledger.claims import user
    from registry.promotion import moves

    store = _store()
    number = store.resolve(f"{model}/{version}").version
    stage = stage.capitalize()
    with _ledger() as ledger:
        if dry_run:
            decision = moves.decide(store, ledger.records(model), model, number, stage)
            said = f"{model} version {number} " + (
                f"would go to {stage}" if decision else f"is in {stage} already"
            )
            _emit_one(
                {"changes": decision is not None, **(asdict(decision) if decision else {})},
                said,
                as_json,
            )
            return
        before = {r.sequence for r in ledger.records(model) if r.completed_at is not None}
        record = moves.promote(store, ledger, model, number, stage, who=user(), why=why)
        changed = record.sequence not in before
        said = f"{model} version {number} is in {stage}" + (
            "" if changed else " already: nothing was changed"
        )
        _emit_one({"changed": changed, **record.to_json()}, said, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def rollback(model: Model, why: Why = "", as_json: Json = False) -> None:
    """Put back what was in Production before.

    Example: python -m registry rollback nbeats --why "coverage fell to .80"
    """
    from registry.ledger.claims import user
    from registry.promotion import moves

    store = _store()
    with _ledger() as ledger:
        record = moves.rollback(store, ledger, model, who=user(), why=why)
        said = f"{model} version {record.version} is in Production again, instead of version {record.from_version}"
        _emit_one({"changed": True, **record.to_json()}, said, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def history(
    model: Model,
    at: Annotated[
        str, typer.Option(help="Only what was in Production then: ISO 8601, UTC unless it says.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Who moved what, when and why. Example: python -m registry history nbeats --at 2026-11-22T10:00"""
    from registry.promotion import moves

    instant = _instant(at) if at else None
    with _ledger() as ledger:
        records = moves.history(ledger, model, instant)
    if not records:
        _store().aliases(model)  # NotFound for an unknown model
        if instant is not None:
            raise NotFound(f"nothing was in Production of {model} at {at}")
    rows = [r.to_json() for r in records]
    if not as_json:
        kept = ("sequence", "moved_at", "action", "stage", "version", "from_version", "who", "why")
        rows = [{key: row[key] for key in kept} | {"state": _state(row)} for row in rows]
    _emit(rows, as_json, empty=f"{model} was never promoted")


@app.command(epilog=terminal.EXIT_CODES)
def verify(
    references: Annotated[
        list[str], typer.Argument(metavar="MODEL[/VERSION]...", help="As in nbeats, nbeats/3.")
    ],
    as_json: Json = False,
) -> None:
    """Compare every byte of versions with what was registered; exit 1 if one differs.

    Example: python -m registry verify nbeats/3
    """
    store = _store()
    rows = []
    for version in _versions(store, references):
        row = {"model": version.name, "version": version.version}
        try:
            store.fetch(version)
            rows.append(row | {"ok": True, "message": ""})
        except (Corrupt, NotFound) as error:
            rows.append(row | {"ok": False, "message": error.message})
    _emit(rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command(epilog=terminal.EXIT_CODES)
def doctor(
    model: Annotated[str, typer.Argument(help="One model; all when left out.")] = "",
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
    as_json: Json = False,
) -> None:
    """What is out of line between MLflow, the ledger and the files; exit 1 while something is.

    Example: python -m registry doctor nbeats --repair
    """
    from registry.promotion.doctor import examine

    store = _store()
    with _ledger() as ledger:
        findings = examine(store, ledger, model or None, repair=repair)
    _emit([asdict(finding) for finding in findings], as_json, empty="all in line")
    if not all(finding.repaired for finding in findings):
        raise typer.Exit(1)


@app.command(epilog=terminal.EXIT_CODES)
def mirror(
    model_id: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Weights; KRONOS_MODEL_ID when left out.")
    ] = "",
    tokenizer: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="Tokenizer that they were trained with.")
    ] = "",
    revision: Annotated[
        str, typer.Option(help="Commit, branch or tag of the weights; main when left out.")
    ] = "",
    tokenizer_revision: Annotated[str, typer.Option(help="The same of the tokenizer.")] = "",
    pretrained_until: Annotated[
        str, typer.Option(metavar="DATE", help="Last session that they have seen.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Register weights of the Hugging Face Hub as a version of kronos; from then on it needs no network.

    Its commits are pinned, every byte is checked, a cut download is continued, and the same commits are registered
    once by the same code and settings. HF_TOKEN opens private and gated repositories; HF_ENDPOINT names another Hub.

    Example: python -m registry mirror NeoQuasar/Kronos-mini --tokenizer NeoQuasar/Kronos-Tokenizer-2k
    """
    from registry.hub.mirror import Source
    from registry.hub.mirror import mirror as mirror_version
    from registry.settings import Settings

    settings, official = Settings(), _official()
    weights = model_id or settings.model_id or official.MODEL_ID
    source = Source(weights, revision, tokenizer, tokenizer_revision, pretrained_until)
    with _bytes_bar() as progress:
        found = mirror_version(settings, source, official, progress)
    if found.ruined:
        _say(f"warning: {found.ruined}; its commits were registered anew")
    said = f"{found.version.uri} is {found.predictor} with {found.tokenizer}"
    _emit_one(
        found.summary(),
        said + ("" if found.registered else " already: nothing was registered"),
        as_json,
    )


@app.command(epilog=terminal.EXIT_CODES)
def push(
    model: Model,
    version: Annotated[
        str, typer.Option(help="A number, `latest`, or an alias as in `production`.")
    ],
    repo: Annotated[
        str,
        typer.Option(metavar="ORG/NAME", help="Repository of the weights; made if there is none."),
    ],
    tokenizer_repo: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="REPO-Tokenizer when left out.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Make private repositories; refuse public ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send a version of kronos, verified, to the Hugging Face Hub: weights, tokenizer and a card of each.

    HF_TOKEN is a token that may write; HF_ENDPOINT names another Hub.

    Example: python -m registry push kronos --version 3 --repo acme/kronos-us-stocks --private
    """
    from registry.hub.push import push as push_version
    from registry.settings import Settings

    with _bytes_bar() as progress:
        reference = f"{model}/{version}"
        pushed = push_version(
            Settings(),
            reference,
            repo,
            tokenizer_repo,
            official=_official(),
            private=private,
            progress=progress,
        )
    said = (
        f"{pushed.version.uri} is {pushed.repo} at {pushed.revision[:12]} "
        f"with {pushed.tokenizer_repo} at {pushed.tokenizer_revision[:12]}"
    )
    _emit_one(pushed.summary(), said, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def ui(
    port: Annotated[int | None, typer.Option(help="Port. [default: KRONOS_UI_PORT]")] = None,
) -> None:
    """The MLflow UI on what is registered, on loopback, until interrupted.

    Example: python -m registry ui --port 5000
    """
    import os

    from registry.settings import Settings
    from registry.versions.tracking import process_environment

    settings = Settings()
    if settings.tracking.startswith("http"):
        print(settings.tracking)  # a server is running already
        return
    port = settings.ui_port if port is None else port
    print(f"http://127.0.0.1:{port}", flush=True)
    serve = ["server", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", *serve, "--workers", "1"]
    # In the environment: a database URI may hold a password, and the process list shows arguments.
    told = {**process_environment(settings), "MLFLOW_BACKEND_STORE_URI": settings.tracking}
    os.execve(sys.executable, command, told)


# --- what the verbs share ---------------------------------------------------------------------


def _official() -> "Official":
    """What Kronos knows of its weights on the Hub."""
    from registry.forecast.model_folder import family_module

    official: Official = family_module("kronos", "official")
    return official


def _store() -> "Store":
    from registry.settings import Settings
    from registry.versions.store import Store

    return Store(Settings())


@contextmanager
def _ledger() -> Iterator["Ledger"]:
    from registry.ledger.promotions import Ledger
    from registry.settings import Settings

    with Ledger(Settings()) as ledger:
        yield ledger


def _versions(store: "Store", references: Sequence[str]) -> list["Version"]:
    """'nbeats' is all versions of it, 'nbeats/3' and 'nbeats@staging' one."""
    one = ("/", "@")
    found = [
        [store.resolve(r)] if any(c in r for c in one) else store.versions(r) for r in references
    ]
    return [version for versions in found for version in versions]


def _row(version: "Version") -> dict[str, Any]:
    return {
        "model": version.name,
        "version": version.version,
        "stage": version.tags.get("stage"),
        "aliases": list(version.aliases),
    }


def _warn_unless_comparable(measured_on: Sequence[Mapping[str, str]]) -> None:
    """Say it when what is known of the scored rows differs between versions."""
    known = {
        key: {one[key] for one in measured_on if key in one} for one in measured_on for key in one
    }
    if differing := [key for key, values in known.items() if len(values) > 1]:
        _say(
            f"warning: these versions were scored on different rows ({', '.join(differing)} differ), so their numbers "
            "cannot be compared, only skill_vs_fhs within one data set; `python -m jobs evaluate` scores on equal rows"
        )


def _state(row: Mapping[str, Any]) -> str:
    if row["completed_at"] is None:
        return "unfinished"
    return "done" if row["moved_at"] else "withdrawn"


def _instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise BadParameter(
            f"--at is {text!r}, expected a time like 2026-11-22T10:00", code="BAD_TIME"
        ) from error


def _flat(facts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Nested facts, one per line: tags.family, metrics.crps, ..."""
    found: list[tuple[str, Any]] = []
    for key, value in facts.items():
        found += (
            [(f"{key}.{k}", v) for k, v in sorted(value.items())]
            if isinstance(value, Mapping)
            else [(key, value)]
        )
    return found


# --- talk on stderr, results on stdout --------------------------------------------------------


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def _bytes_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Progress on stderr: `advance(what, done, total)` in bytes, a line for each file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        lines: dict[str, TaskID] = {}

        def advance(what: str, done: int, total: int) -> None:
            if what not in lines:
                lines[what] = bar.add_task(what, total=total)
            bar.update(lines[what], completed=done)

        yield advance


def _emit_one(row: Mapping[str, Any], said: str, as_json: bool) -> None:
    """What was done: an object for programs, a sentence for people."""
    print(json.dumps(row) if as_json else said)


def _emit(rows: Sequence[Mapping[str, Any]], as_json: bool, *, empty: str = "") -> None:
    """Rows as JSON, as a table on a terminal, else tab-separated."""
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        _say(empty)
    elif sys.stdout.isatty():
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*map(_text, row.values()))
        Console(highlight=False, markup=False).print(table)
    else:
        print(
            "\n".join(
                "\t".join(map(_text, line)) for line in (rows[0], *(row.values() for row in rows))
            )
        )


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


if __name__ == "__main__":
    terminal.run(app, on_error=terminal.tag_run)
