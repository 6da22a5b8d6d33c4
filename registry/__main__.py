"""python -m registry <verb>: list, compare, promote, export, mirror, push and check models."""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
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

from registry import dates, terminal
from registry.errors import BadParameter, Corrupt, NotFound
from registry.masking import masked
from registry.rows import emit, emit_facts, say

if TYPE_CHECKING:  # importing mlflow and SQLAlchemy takes seconds; --help must be fast
    from registry.hub.mirror import Official
    from registry.ledger.promotions import Ledger, Record
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

    The origin is kronos, foreign (logged by other programs), mixed, or empty.

    Example: python -m registry list
    """
    store = _store()
    rows = []
    for model in store.models():
        numbers = [version.version for version in model.versions]
        row: dict[str, Any] = {"model": model.name, "versions": len(numbers)}
        row["latest"] = max(numbers, default=None)
        for alias in ("production", "previous", "staging"):
            row[alias] = model.aliases.get(alias)
        row["origin"] = model.origin
        rows.append(row)
    emit(rows, as_json, empty="no model is registered; `make demo` trains the first ones")


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
            row: dict[str, Any] = {"data": version.tags.get("data"), "created": created}
            row |= {"run": version.run_id, "foreign": version.foreign}
            rows.append(_row(version) | row)
        emit(rows, as_json, empty=f"{reference} has no versions")
        return
    version = store.resolve(reference)
    facts: dict[str, Any] = asdict(version) | {"foreign": version.foreign}
    facts |= {"uri": version.uri, "created_at": version.created_at.isoformat()}
    facts["metrics"] = store.metrics(version)
    facts["provenance"] = _provenance(store, version)
    emit_facts(facts, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def compare(
    references: Annotated[
        list[str], typer.Argument(metavar="MODEL[/VERSION]...", help="For example: nbeats fhs/1.")
    ],
    as_json: Json = False,
) -> None:
    """Compare versions by the metrics of their runs, best CRPS first among the same rows.

    Versions that were scored on the same rows are one group, in which they are ranked.

    Example: python -m registry compare nbeats fhs
    """
    from registry.versions import scored

    store = _store()
    rows: list[dict[str, Any]] = []
    for version in _versions(store, references):
        scores = scored.of_training(store, version)
        measured = scores.metrics if scores else {}
        metrics = {key: measured.get(key) for key in COMPARED}
        row = _row(version) | {"data": version.tags.get("data")} | metrics
        rows.append(row | {"scored_on": dict(scores.rows) if scores else None})
    rows = _ranked(rows)
    _say_groups({row["group"]: row["scored_on"] for row in rows if row["group"]})
    if not as_json:
        rows = [{key: row[key] for key in row if key != "scored_on"} for row in rows]
    emit(rows, as_json)


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
    newcomer = store.resolve(f"{model}/{version}")
    number = newcomer.version
    stage = stage.capitalize()
    with open_ledger(store) as ledger:
        judgement = _standing(store, newcomer, stage)
        named = f"{model} version {number}{_trained_on(newcomer)}"
        if dry_run:
            decision = moves.plan(store, ledger, model, number, stage)
            if decision:
                plan = {"changes": True, "standing": judgement, **asdict(decision)}
                say(judgement)
                sentence = f"{named} would go to {stage}"
            else:
                plan = {"changes": False}
                sentence = f"{named} is in {stage} already"
            _emit_one(plan, sentence, as_json)
            return
        before = {r.sequence for r in ledger.records(model) if r.completed_at is not None}
        record = moves.promote(store, ledger, model, number, stage, who=user(), why=why)
        changed = record.sequence not in before
        sentence = f"{named} is in {stage}"
        if changed:
            say(judgement)
            say(_new_data(store, record))
        else:
            sentence += " already: nothing was changed"
        facts = {"changed": changed, "standing": judgement, **record.to_json()}
        _emit_one(facts, sentence, as_json)


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
        trained_on = _trained_on(store.version(model, record.version))
        sentence = f"{model} version {record.version}{trained_on} is in Production again"
        if record.from_version is not None:  # else that version was deleted
            sentence += f", instead of version {record.from_version}"
        say(_new_data(store, record))
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

    instant = dates.read_time(at, "--at") if at else None
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
    emit(rows, as_json, empty=f"{model} was never promoted")
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

    Versions that were promoted are also compared with the manifest in the ledger. Foreign ones have
    no checksums: beside ours they are passed over, by number they are refused.

    Example: python -m registry verify nbeats/3
    """
    from registry.promotion.opening import open_ledger

    store = _store()
    rows = []
    with open_ledger(store) as ledger:
        for reference in references:
            rows += _verified(store, ledger, _versions(store, [reference]))
    emit(rows, as_json)
    if any(row["ok"] is False for row in rows):
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
    empty = _nothing_found(store, model) if model and not findings else "all in line"
    emit([asdict(finding) for finding in findings], as_json, empty=empty)
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
        say(f"warning: {result.ruined}; its commits were registered again")
    if result.version.tags["pretrained_until"] == "unknown":
        say(
            f"warning: until when {result.predictor.repo} was pretrained is unknown, so no report "
            "on it counts as out of sample; set --pretrained-until DATE if you know it"
        )
    sentence = f"{result.version.uri} is {result.predictor} with {result.tokenizer}"
    if not result.registered:
        sentence += " already: nothing was registered"
        terminal.tag_project_run({"registered_before": result.version.uri})
    _emit_one(result.summary(), sentence, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def prune(
    before: Annotated[str, typer.Option(metavar="DATE", help="Cutoffs before this date go.")],
    source: Annotated[
        str, typer.Option(help="nightly, served, shadow or backfill; all by default.")
    ] = "",
    data: Annotated[str, typer.Option(metavar="NAME", help="Data set; all by default.")] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count forecasts, remove nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove old forecasts and their scores from the ledger. Promotions and prices stay.

    Example: python -m registry prune --before 2020-01-01 --source served --dry-run
    """
    from registry.ledger import retention
    from registry.ledger.database import Opened
    from registry.settings import Settings

    with Opened(Settings()) as ledger:
        if dry_run:
            number = len(retention.old(ledger.engine, before, data=data, source=source))
        else:
            number = retention.prune(ledger.engine, before, data=data, source=source)
    verb = "would be removed" if dry_run else "were removed"
    sentence = f"{number} forecasts with a cutoff before {before} {verb}"
    _emit_one({"forecasts": number, "removed": not dry_run}, sentence, as_json)


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
def export(
    model: Annotated[
        str,
        typer.Argument(help="Registered model, or a reference like nbeats/3 or nbeats@staging."),
    ],
    to: Annotated[Path, typer.Option(metavar="DIR", help="A new or empty folder.")],
    stage: Annotated[
        str, typer.Option(help="Production (default) or Staging; not beside a reference.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Verify a version and write it to a folder that serves it where there is no registry.

    DIR/model is what `mlflow models serve -m DIR/model` takes. DIR/exported.json says what it is.
    A folder that holds this very version already is verified and left alone.

    Example: python -m registry export nbeats --stage Production --to var/export/nbeats
    """
    from registry.promotion.exporting import export as export_version
    from registry.promotion.opening import open_ledger

    begun = datetime.now(UTC)
    store = _store()
    version = store.resolve(_in_stage(model, stage))
    say(f"verifying {version.uri} and copying its files")
    with open_ledger(store) as ledger:
        exported = export_version(store, ledger, version, to)
    changed = exported.exported_at >= begun
    sentence = f"{version.uri} is in {exported.root.parent}"
    if not changed:
        sentence += f" already, exported {exported.exported_at:%Y-%m-%d %H:%M} UTC"
        sentence += f" in {exported.stage}" if exported.stage else ""
    facts = {"changed": changed, "model_dir": str(exported.root), **exported.to_json()}
    _emit_one(facts, sentence, as_json)


@app.command(epilog=terminal.EXIT_CODES)
def ui(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; default: KRONOS_UI_PORT.")
    ] = None,
) -> None:
    """Serve the MLflow UI on loopback until interrupted.

    Example: python -m registry ui --port 5000
    """
    import subprocess

    from registry import interrupts
    from registry.attached import attached
    from registry.settings import Settings
    from registry.versions import environments
    from registry.versions.connection import connect

    settings = Settings()
    connect(settings)
    if settings.tracking.startswith("http"):
        print(masked(settings.tracking))  # a server is running already
        return
    port = settings.ui_port if port is None else port
    print(f"http://127.0.0.1:{port}", flush=True)
    serve = ["server", "--host", "127.0.0.1", "--port", str(port)]
    command = [sys.executable, "-m", "mlflow", *serve, "--workers", "1"]
    # A database URI may hold a password. The process list shows arguments, so it is in a variable.
    environment = {
        **environments.of_programs(settings),
        "MLFLOW_BACKEND_STORE_URI": settings.tracking,
    }
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


def _in_stage(model: str, stage: str) -> str:
    """The reference of a model's version in a stage, Production by default.

    A `model` that is a reference already stays as it is. Raises BadParameter.
    """
    from registry.promotion import stages

    if "/" in model or "@" in model:
        if stage:
            raise BadParameter(f"{model} names a version, so leave --stage {stage} out")
        return model
    stage = stage.capitalize() or stages.PRODUCTION
    if stage not in stages.ALIASES:
        raise BadParameter(
            f"stage is {stage!r}, expected one of {', '.join(stages.ALIASES)}", code="BAD_STAGE"
        )
    return f"{model}/{stage}"


def _standing(store: "Store", newcomer: "Version", stage: str) -> str:
    """How a version stands against the one in Production; empty if it is archived."""
    from registry.promotion.standing import standing

    number = store.aliases(newcomer.name).get("production")
    if stage == "Archived" or number == newcomer.version or newcomer.foreign:
        return ""
    incumbent = store.version(newcomer.name, number) if number is not None else None
    return standing(store, newcomer, incumbent)


def _trained_on(version: "Version") -> str:
    return f" (data {version.tags['data']})" if "data" in version.tags else ""


def _new_data(store: "Store", record: "Record") -> str:
    """Says that Production now forecasts another data set; empty if it does not, or is unknown."""
    if record.stage != "Production" or record.from_version is None:
        return ""
    data = {version.version: version.tags.get("data") for version in store.versions(record.model)}
    before, now = data.get(record.from_version), data.get(record.version)
    if None in (before, now) or before == now:
        return ""
    return f"{record.model} now forecasts {now} in place of {before}, unless --data is given"


def _versions(store: "Store", references: Sequence[str]) -> list["Version"]:
    """'nbeats' stands for all its versions, 'nbeats/3' and 'nbeats@staging' for one."""
    versions: list[Version] = []
    for reference in references:
        if "/" in reference or "@" in reference:
            versions.append(store.resolve(reference))
        else:
            versions += store.versions(reference)
    return versions


def _nothing_found(store: "Store", model: str) -> str:
    """What doctor says of a model without findings."""
    try:
        versions = store.versions(model)
    except NotFound:
        return f"{model} is no longer registered; its history is kept"
    if versions and all(version.foreign for version in versions):
        return f"no version of {model} was logged by Kronos Registry: it is left alone"
    return "all in line"


def _verified(
    store: "Store", ledger: "Ledger", versions: Sequence["Version"]
) -> list[dict[str, Any]]:
    """Rows of `verify`; `ok` is None for a foreign version beside some of ours."""
    from registry.promotion import evidence

    without_checksums = False if all(version.foreign for version in versions) else None
    rows = []
    for version in versions:
        ok: bool | None = True
        message = ""
        try:
            evidence.fetch(store, ledger.records(version.name), version)
        except NotFound as error:
            ok, message = without_checksums, error.message
        except Corrupt as error:
            ok, message = False, error.message
        rows.append(
            {"model": version.name, "version": version.version, "ok": ok, "message": message}
        )
    return rows


def _row(version: "Version") -> dict[str, Any]:
    from registry.promotion import stages

    return {
        "model": version.name,
        "version": version.version,
        "stage": stages.shown(version.aliases, version.tags.get(stages.TAG)),
        "aliases": list(version.aliases),
    }


def _provenance(store: "Store", version: "Version") -> dict[str, str]:
    """Facts of a version that are no tags; empty, with a warning, if its files are damaged."""
    try:
        facts = store.facts(version)
    except Corrupt as error:
        say(f"warning: {error.message}")
        return {}
    return {key: value for key, value in facts.items() if key not in version.tags}


def _ranked(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows by group and CRPS, numbered; those without scores come last, without a group.

    A group was scored on the same rows. There is no rank where nothing is known of these.
    """
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: (row["scored_on"] is None, row["crps"] or 0.0)):
        groups.setdefault(json.dumps(row["scored_on"], sort_keys=True), []).append(row)
    ranked = []
    for number, key in enumerate(sorted(groups, key=_group_order), start=1):
        for rank, row in enumerate(groups[key], start=1):
            group = None if key == "null" else number
            place = {"group": group, "rank": None if key in ("null", "{}") else rank}
            ranked.append(place | dict(row))
    return ranked


def _group_order(key: str) -> tuple[bool, bool, str, str]:
    """By data set; unknown rows later, versions without scores last."""
    scored_on = json.loads(key)
    return scored_on is None, not scored_on, (scored_on or {}).get("data", "~"), key


def _say_groups(groups: Mapping[int, Mapping[str, str]]) -> None:
    """Say which rows each group was scored on, if there are several."""
    from registry.versions import scored

    if len(groups) < 2:
        return
    for number, scored_on in groups.items():
        words = scored.described(scored_on)
        if words and scored.ROWS_TAG not in scored_on:
            words += " (the scored rows were not recorded)"
        say(f"group {number}: {words or 'unknown rows'}")
    facts = ", ".join(scored.differing(groups.values()))
    say(
        f"the groups were scored on different rows ({facts} differ): compare within a group only; "
        "`python -m jobs evaluate` scores on equal rows"
    )


def _state(row: Mapping[str, Any]) -> str:
    if row["completed_at"] is None:
        return "unfinished"
    return "done" if row["moved_at"] else "withdrawn"


# --- messages on stderr, results on stdout ----------------------------------------------------


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


if __name__ == "__main__":
    terminal.run(app, on_error=terminal.tag_run)
