"""python -m registry <verb>: list, compare, promote, mirror, push and check registered models."""

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

if TYPE_CHECKING:  # importing mlflow and SQLAlchemy takes seconds; --help must be fast
    from registry.hub.mirror import Official
    from registry.versions.store import Store
    from registry.versions.version import Version

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__
)

Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]
Model = Annotated[str, typer.Argument(help="Name of a registered model, for example nbeats.")]
Why = Annotated[str, typer.Option(help="Reason for the change, kept for ever.")]
COMPARED = ("crps", "coverage_90", "skill_vs_fhs", "dm_p_hln", "dm_p_bartlett")


@app.command("list", epilog=terminal.EXIT_CODES)
def list_models(as_json: Json = False) -> None:
    """List registered models and the versions in their stages.

    Example: python -m registry list
    """
    store = _store()
    rows = []
    for name in store.names():
        aliases = store.aliases(name)
        numbers = [version.version for version in store.versions(name)]
        row = {"model": name, "versions": len(numbers), "latest": max(numbers, default=None)}
        for alias in ("production", "previous", "staging"):
            row[alias] = aliases.get(alias)
        rows.append(row)
    _emit(rows, as_json, empty="no model is registered; `make demo` trains the first ones")


@app.command(epilog=terminal.EXIT_CODES)
def show(
    reference: Annotated[
        str,
        typer.Argument(metavar="MODEL[/VERSION]", help="nbeats, nbeats/3 or nbeats@staging."),
    ],
    as_json: Json = False,
) -> None:
    """Show a model's versions, or all facts of one version.

    Example: python -m registry show nbeats/3
    """
    store = _store()
    if "/" not in reference and "@" not in reference:
        rows = []
        for version in store.versions(reference):
            created = f"{version.created_at:%Y-%m-%d %H:%M}"
            rows.append(_row(version) | {"created": created, "run": version.run_id})
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
        list[str], typer.Argument(metavar="MODEL[/VERSION]...", help="For example: nbeats fhs/1.")
    ],
    as_json: Json = False,
) -> None:
    """Compare versions by the metrics of their runs, sorted by data set, best CRPS first.

    Example: python -m registry compare nbeats fhs
    """
    from registry.hub.push import scored_rows

    store = _store()
    rows, scored = [], []
    for version in _versions(store, references):
        metrics = {key: store.metrics(version).get(key) for key in COMPARED}
        rows.append(_row(version) | {"data": version.tags.get("data")} | metrics)
        if any(value is not None for value in metrics.values()):
            scored.append(scored_rows(store, version))
    rows.sort(key=lambda row: (row["data"] is None, row["data"], row["crps"] is None, row["crps"]))
    _warn_unless_comparable(scored)
    _emit(rows, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def promote(
    model: Model,
    version: Annotated[
        str, typer.Argument(help="A number, `latest`, or an alias such as `staging`.")
    ],
    stage: Annotated[str, typer.Option(help="Production, Staging or Archived.")] = "Production",
    why: Why = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, change nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a version's bytes and move it to a stage.

    Example: python -m registry promote nbeats 3 --stage Production --why "better CRPS since March"
    """
    from registry.ledger.claims import user
    from registry.promotion import moves
    from registry.promotion.opening import open_ledger

    store = _store()
    number = store.resolve(f"{model}/{version}").version
    stage = stage.capitalize()
    with open_ledger(store) as ledger:
        if dry_run:
            decision = moves.plan(store, ledger, model, number, stage)
            if decision:
                plan = {"changes": True, **asdict(decision)}
                sentence = f"{model} version {number} would go to {stage}"
            else:
                plan = {"changes": False}
                sentence = f"{model} version {number} is in {stage} already"
            _emit_one(plan, sentence, as_json)
            return
        before = {r.sequence for r in ledger.records(model) if r.completed_at is not None}
        record = moves.promote(store, ledger, model, number, stage, who=user(), why=why)
        changed = record.sequence not in before
        sentence = f"{model} version {number} is in {stage}"
        if not changed:
            sentence += " already: nothing was changed"
        _emit_one({"changed": changed, **record.to_json()}, sentence, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def rollback(model: Model, why: Why = "", as_json: Json = False) -> None:
    """Return the previous version to Production.

    Example: python -m registry rollback nbeats --why "coverage fell to .80"
    """
    from registry.ledger.claims import user
    from registry.promotion import moves
    from registry.promotion.opening import open_ledger

    store = _store()
    with open_ledger(store) as ledger:
        record = moves.rollback(store, ledger, model, who=user(), why=why)
        sentence = (
            f"{model} version {record.version} is in Production again, "
            f"instead of version {record.from_version}"
        )
        _emit_one({"changed": True, **record.to_json()}, sentence, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def history(
    model: Model,
    at: Annotated[
        str,
        typer.Option(
            help="Show what was in Production at this time: ISO 8601, UTC if it has no time zone."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Show who moved which version, when and why; exit 1 if a row was changed since.

    Example: python -m registry history nbeats --at 2026-11-22T10:00
    """
    from registry.promotion import audit, moves
    from registry.promotion.opening import open_ledger

    instant = _instant(at) if at else None
    broken: Corrupt | None = None
    store = _store()
    with open_ledger(store) as ledger:
        records = moves.history(ledger, model, instant)
        if model not in ledger.models():
            store.aliases(model)  # raises NotFound for an unknown model
        try:
            audit.check(store, ledger, model)
        except Corrupt as error:
            broken = error
    if not records and instant is not None:
        raise NotFound(f"nothing was in Production of {model} at {at}")
    columns = ("sequence", "moved_at", "action", "stage", "version", "from_version", "who", "why")
    rows = []
    for record in records:
        row = record.to_json()
        if not as_json:
            row = {key: row[key] for key in columns} | {"state": _state(row)}
        rows.append(row)
    _emit(rows, as_json, empty=f"{model} was never promoted")
    if broken is not None:
        raise broken


@app.command(epilog=terminal.EXIT_CODES)
def verify(
    references: Annotated[
        list[str], typer.Argument(metavar="MODEL[/VERSION]...", help="For example: nbeats fhs/1.")
    ],
    as_json: Json = False,
) -> None:
    """Compare every byte of versions with the registered checksums; exit 1 if one differs.

    Versions that were promoted are also compared with the manifest in the ledger.

    Example: python -m registry verify nbeats/3
    """
    from registry.promotion import evidence
    from registry.promotion.opening import open_ledger

    store = _store()
    rows = []
    with open_ledger(store) as ledger:
        for version in _versions(store, references):
            row = {"model": version.name, "version": version.version}
            try:
                evidence.fetch(store, ledger.records(version.name), version)
                rows.append(row | {"ok": True, "message": ""})
            except (Corrupt, NotFound) as error:
                rows.append(row | {"ok": False, "message": error.message})
    _emit(rows, as_json)
    if not all(row["ok"] for row in rows):
        raise typer.Exit(1)


@app.command(epilog=terminal.EXIT_CODES)
def doctor(
    model: Annotated[str, typer.Argument(help="One model; all by default.")] = "",
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
    as_json: Json = False,
) -> None:
    """Find differences between MLflow, the ledger and the files; exit 1 if any remains.

    Without MODEL, also what killed processes of this host left behind.

    Example: python -m registry doctor nbeats --repair
    """
    from registry.promotion import litter
    from registry.promotion.doctor import examine
    from registry.promotion.opening import open_ledger

    store = _store()
    with open_ledger(store) as ledger:
        findings = examine(store, ledger, model or None, repair=repair)
    if not model:
        findings += litter.examine(store, repair=repair)
    _emit([asdict(finding) for finding in findings], as_json, empty="all in line")
    if not all(finding.repaired for finding in findings):
        raise typer.Exit(1)


@app.command(epilog=terminal.EXIT_CODES)
def mirror(
    model_id: Annotated[
        str, typer.Argument(metavar="ORG/NAME", help="Weights; KRONOS_MODEL_ID by default.")
    ] = "",
    tokenizer: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="Tokenizer that the weights were trained with.")
    ] = "",
    revision: Annotated[
        str, typer.Option(help="Commit, branch or tag of the weights; main by default.")
    ] = "",
    tokenizer_revision: Annotated[str, typer.Option(help="The same for the tokenizer.")] = "",
    pretrained_until: Annotated[
        str, typer.Option(metavar="DATE", help="Last session in their training data.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Register weights from the Hugging Face Hub as a version of kronos that needs no network.

    Commits are pinned, every byte is checked, and an interrupted download continues.
    The same commits, code and settings are registered once.
    HF_TOKEN opens private and gated repositories; HF_ENDPOINT names another Hub.

    Example: python -m registry mirror NeoQuasar/Kronos-small
    """
    from registry.hub.mirror import Source
    from registry.hub.mirror import mirror as mirror_version
    from registry.settings import Settings

    settings, official = Settings(), _official()
    weights = model_id or settings.model_id or official.MODEL_ID
    source = Source(weights, revision, tokenizer, tokenizer_revision, pretrained_until)
    with _bytes_bar() as progress:
        result = mirror_version(settings, source, official, progress)
    if result.ruined:
        _say(f"warning: {result.ruined}; its commits were registered again")
    if result.version.tags["pretrained_until"] == "unknown":
        _say(
            f"warning: until when {result.predictor.repo} was pretrained is unknown, so no report "
            "on it counts as out of sample; set --pretrained-until DATE if you know it"
        )
    sentence = f"{result.version.uri} is {result.predictor} with {result.tokenizer}"
    if not result.registered:
        sentence += " already: nothing was registered"
    _emit_one(result.summary(), sentence, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def push(
    model: Model,
    version: Annotated[
        str, typer.Option(help="A number, `latest`, or an alias such as `production`.")
    ],
    repo: Annotated[
        str,
        typer.Option(metavar="ORG/NAME", help="Repository of the weights; created if missing."),
    ],
    tokenizer_repo: Annotated[
        str, typer.Option(metavar="ORG/NAME", help="REPO-Tokenizer by default.")
    ] = "",
    private: Annotated[
        bool, typer.Option("--private", help="Create private repositories; refuse public ones.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Verify a version of kronos and send it to the Hugging Face Hub.

    Weights and tokenizer go to two repositories, each with a card.
    HF_TOKEN needs write access; HF_ENDPOINT names another Hub.

    Example: python -m registry push kronos --version 3 --repo acme/kronos-us-stocks --private
    """
    from registry.hub.push import push as push_version
    from registry.settings import Settings

    with _bytes_bar() as progress:
        pushed = push_version(
            Settings(),
            f"{model}/{version}",
            repo,
            tokenizer_repo,
            official=_official(),
            private=private,
            progress=progress,
        )
    sentence = (
        f"{pushed.version.uri} is {pushed.repo} at {pushed.revision[:12]} "
        f"with {pushed.tokenizer_repo} at {pushed.tokenizer_revision[:12]}"
    )
    _emit_one(pushed.summary(), sentence, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def ui(
    port: Annotated[int | None, typer.Option(help="Port. [default: KRONOS_UI_PORT]")] = None,
) -> None:
    """Serve the MLflow UI on loopback until interrupted.

    Example: python -m registry ui --port 5000
    """
    import subprocess

    from registry import interrupts
    from registry.attached import attached
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
    # A database URI may hold a password. The process list shows arguments, so it is in a variable.
    environment = {**process_environment(settings), "MLFLOW_BACKEND_STORE_URI": settings.tracking}
    with interrupts.no_ctrl_c_for_children():
        server = subprocess.Popen(attached(command), env=environment)
    with server:
        try:
            code = server.wait()
        finally:
            server.terminate()
    raise typer.Exit(code)


# --- shared by the verbs ----------------------------------------------------------------------


def _official() -> "Official":
    """Kronos' facts about its weights on the Hub."""
    from registry.forecast.model_folder import family_module

    official: Official = family_module("kronos", "official")
    return official


def _store() -> "Store":
    from registry.settings import Settings
    from registry.versions.store import Store

    return Store(Settings())


def _versions(store: "Store", references: Sequence[str]) -> list["Version"]:
    """'nbeats' stands for all its versions, 'nbeats/3' and 'nbeats@staging' for one."""
    versions: list[Version] = []
    for reference in references:
        if "/" in reference or "@" in reference:
            versions.append(store.resolve(reference))
        else:
            versions += store.versions(reference)
    return versions


def _row(version: "Version") -> dict[str, Any]:
    return {
        "model": version.name,
        "version": version.version,
        "stage": version.tags.get("stage"),
        "aliases": list(version.aliases),
    }


def _warn_unless_comparable(scored: Sequence[Mapping[str, str]]) -> None:
    """Warn if the known facts about the scored rows differ between versions."""
    values: dict[str, set[str]] = {}
    for facts in scored:
        for key, value in facts.items():
            values.setdefault(key, set()).add(value)
    differing = [key for key in values if len(values[key]) > 1]
    if differing:
        _say(
            "warning: these versions were scored on different rows "
            f"({', '.join(differing)} differ), so their numbers cannot be compared, "
            "only skill_vs_fhs within one data set; "
            "`python -m jobs evaluate` scores on equal rows"
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
    """Pairs of key and value; nested facts get keys like tags.family and metrics.crps."""
    pairs: list[tuple[str, Any]] = []
    for key, value in facts.items():
        if isinstance(value, Mapping):
            pairs += [(f"{key}.{name}", nested) for name, nested in sorted(value.items())]
        else:
            pairs.append((key, value))
    return pairs


# --- messages on stderr, results on stdout ----------------------------------------------------


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


@contextmanager
def _bytes_bar() -> Iterator[Callable[[str, int, int], None]]:
    """Progress on stderr: `advance(transfer, done, total)` in bytes; each transfer has a line."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        lines: dict[str, TaskID] = {}

        def advance(transfer: str, done: int, total: int) -> None:
            if transfer not in lines:
                lines[transfer] = bar.add_task(transfer, total=total)
            bar.update(lines[transfer], completed=done)

        yield advance


def _emit_one(row: Mapping[str, Any], sentence: str, as_json: bool) -> None:
    """Print a result: JSON for programs, a sentence for people."""
    print(json.dumps(row) if as_json else sentence)


def _emit(rows: Sequence[Mapping[str, Any]], as_json: bool, *, empty: str = "") -> None:
    """Print rows as JSON, as a table on a terminal, or tab-separated otherwise."""
    if as_json:
        print(json.dumps(rows))
    elif not rows:
        _say(empty)
    elif sys.stdout is not None and sys.stdout.isatty():
        table = Table(*rows[0])
        for row in rows:
            table.add_row(*map(_text, row.values()))
        Console(highlight=False, markup=False).print(table)
    else:
        print("\t".join(rows[0]))
        for row in rows:
            print("\t".join(map(_text, row.values())))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


if __name__ == "__main__":
    terminal.run(app, on_error=terminal.tag_run)
