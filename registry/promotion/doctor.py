"""Find and repair disagreements between MLflow, the ledger and the stored files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from registry.errors import Corrupt, NotFound
from registry.ledger import faults
from registry.ledger.promotions import Ledger, Record
from registry.promotion import audit, evidence, gone, moves, stages
from registry.promotion.stages import ALIASES, PREVIOUS, PRODUCTION, State
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store, is_our_name
from registry.versions.version import Version


@dataclass(frozen=True)
class Finding:
    """One fault and a description of its repair; `repaired` tells whether the repair was done."""

    model: str
    code: str  # stable, for programs
    message: str
    repair: str
    repaired: bool = False


@dataclass(frozen=True)
class _Case:
    """A finding and its remedy; None if it must be repaired by hand."""

    finding: Finding
    remedy: Callable[[], object] | None = None


_Check = Callable[[Store, Ledger, str], Iterator[_Case]]


def examine(
    store: Store, ledger: Ledger, name: str | None = None, *, repair: bool = False
) -> list[Finding]:
    """Findings of one model, or of all that are ours (we logged a version of it, or promoted one)
    and of the rest of the ledger.

    With `repair`, each finding that has a remedy is repaired. The order of the checks is such that
    no repair undoes an earlier one.
    """
    names = [name] if name else _names(store, ledger)
    findings: list[Finding] = []
    for model in names:
        findings += _examine(store, ledger, model, repair)
    return findings if name else [*findings, *_of_ledger(ledger)]


def _of_ledger(ledger: Ledger) -> Iterator[Finding]:
    """What else is wrong in the ledger. No repair is ours: it needs the data sets and the jobs."""
    for fault in faults.find(ledger.engine):
        yield Finding(f"{fault.kind} {fault.data}", fault.code, fault.message, fault.repair)


def _examine(store: Store, ledger: Ledger, name: str, repair: bool) -> Iterator[Finding]:
    for check in _checks(store, ledger, name):
        for case in check(store, ledger, name):
            if repair and case.remedy is not None:
                case.remedy()
                yield replace(case.finding, repaired=True)
                continue
            yield case.finding
            if check in _FIRST:  # the other checks would report consequences only
                return


def _names(store: Store, ledger: Ledger) -> list[str]:
    """Models that we promoted or logged, without copies under names that ours may not have.

    Models that are gone come first: they are compared with those that have no rows yet.
    """
    logged = {version.name for version in store.logged()}
    ours = {name for name in logged if is_our_name(name)} | set(ledger.models())
    return sorted(ours, key=lambda name: (name in logged, name))


def _checks(store: Store, ledger: Ledger, name: str) -> Sequence[_Check]:
    """The checks of a model. Raises NotFound if neither MLflow nor the ledger knows it."""
    try:
        store.aliases(name)
    except NotFound:
        if name not in ledger.models():
            raise
        return _CHECKS_OF_GONE
    versions = store.versions(name)
    is_others = versions and all(version.foreign for version in versions)
    if not is_our_name(name) or (is_others and name not in ledger.models()):
        return ()
    return _CHECKS


def _chain(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Rows that were changed, by their hashes and by their audit runs."""
    try:
        ledger.verify_chain(name)
        audit.compare(store, ledger, name)
    except Corrupt as error:
        repair = (
            "none: compare the ledger with a backup and "
            "with the audit runs in the experiment `promotions`"
        )
        yield _Case(Finding(name, "BROKEN_CHAIN", error.message, repair))


def _unfinished(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    records = ledger.records(name)
    if not records or records[-1].completed_at is not None:
        return
    last = records[-1]
    time = f"{last.claimed_at:%Y-%m-%d %H:%M:%S} UTC"
    move = f"{last.action} of version {last.version} to {last.stage} by {last.who} at {time}"
    if last.abandoned:
        message = f"the {move} was never completed; its process is gone"
        finding = Finding(name, "UNFINISHED", message, "complete it")
        yield _Case(finding, partial(moves.resume, store, ledger, records))
    else:
        message = f"the {move} is in progress"
        yield _Case(Finding(name, "IN_PROGRESS", message, "wait, then look again"))


def _gone(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """A model with promotions that is no longer registered: deleted or renamed."""
    records = ledger.records(name)
    if gone.is_closed(records):
        return
    if records[-1].completed_at is None and not records[-1].abandoned:
        yield from _unfinished(store, ledger, name)
        return
    message = f"the ledger has promotions of {name}, which is no longer registered"
    repair = "record in the ledger that it is gone; its history is kept"
    why = f"{name} was deleted outside"
    renamed = gone.new_name(store, ledger, records)
    if renamed is not None:
        message += f"; {renamed} has its versions: it was renamed"
        if is_our_name(renamed):
            repair += f"; then {renamed} has a history of its own"
        else:
            repair += f"; nothing can be promoted under the name {renamed}"
        repair += f"; or rename it back to {name} in MLflow"
        why = f"{name} was renamed outside, to {renamed}"
    remedy = partial(gone.close, store, ledger, name, why)
    yield _Case(Finding(name, "MODEL_GONE", message, repair), remedy)


def _missing_rows(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    missing = audit.compare(store, ledger, name).without_row
    if not missing:
        return
    action, version, stage = (missing[-1].tags.get(key) for key in ("action", "version", "stage"))
    message = (
        f"promotions with an audit run in MLflow, but without a row in the ledger: {len(missing)}; "
        f"the last is a {action} of version {version} to {stage}"
    )
    repair = (
        "restore the ledger that KRONOS_LEDGER_URI names from a backup, "
        "or record that these rows are missing"
    )
    remedy = partial(moves.adopt_after_loss, store, ledger, name)
    yield _Case(Finding(name, "ROWS_MISSING", message, repair), remedy)


def _missing_runs(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    for row in audit.compare(store, ledger, name).without_run:
        message = (
            f"promotion {row.sequence} has no audit run in MLflow: the run was deleted there, or "
            "the row was inserted"
        )
        repair = "none: compare with a backup of MLflow"
        yield _Case(Finding(name, "AUDIT_GONE", message, repair))


def _lost_tags(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Promoted versions whose manifest tag was deleted, so that they look foreign."""
    records = ledger.records(name)
    for version in store.versions(name):
        promoted = evidence.promoted_manifest(records, version)
        if version.foreign and promoted is not None:
            message = f"version {version.version} lost its tag {MANIFEST_TAG}"
            repair = f"set it to {promoted[:12]}..., which its last promotion saw"
            remedy = partial(store.set_tag, name, version.version, MANIFEST_TAG, promoted)
            yield _Case(Finding(name, "TAG_LOST", message, repair), remedy)


def _capital_aliases(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Aliases as `Production`, which MLflow takes for another one than `production`."""
    aliases = store.aliases(name)
    for alias, version in aliases.items():
        meant = alias.lower()
        is_ours = meant in (*ALIASES.values(), PREVIOUS)
        if alias == meant or not is_ours or aliases.get(meant) == version:
            continue
        if moves.is_owners(store, ledger.records(name), name, version):
            continue
        message = (
            f"alias {alias} names version {version}, {meant} names {_version(aliases.get(meant))}; "
            f"models:/{name}@{alias} and models:/{name}@{meant} are two aliases in MLflow"
        )
        repair = f"delete alias {alias}; a promotion sets {meant}"
        remedy = partial(moves.point, store, name, alias, None)
        yield _Case(Finding(name, "ALIAS_CAPITALS", message, repair), remedy)


def _moved_aliases(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Aliases that were moved outside. The alias is the truth; the repair adopts it.

    An alias of a foreign version is its owner's, until one of ours was in the stage.
    """
    for stage, alias in ALIASES.items():
        # Read the records before the alias: if a promotion comes in between, the repair fails
        # instead of recording a false move.
        records = ledger.records(name)
        expected_version = stages.expected(records).holder(stage)
        aliased = store.aliases(name).get(alias)
        if aliased is None or aliased == expected_version:
            continue
        if expected_version is not None or not moves.is_owners(store, records, name, aliased):
            message = (
                f"alias {alias} names version {aliased}, "
                f"the ledger has {_version(expected_version)} in {stage}"
            )
            repair = f"record in the ledger that version {aliased} was moved to {stage} outside"
            remedy = partial(moves.adopt, store, ledger, records, name, stage, aliased)
            yield _Case(Finding(name, "ALIAS_MOVED", message, repair), remedy)


def _lost_aliases(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Aliases that were deleted, and a wrong `previous`, which follows from the ledger."""
    state = _state(store, ledger, name)
    aliases = store.aliases(name)
    existing = {version.version: version for version in store.versions(name)}
    for stage, alias in ALIASES.items():
        holder = state.holder(stage)
        if holder is None or alias in aliases:
            continue
        records = ledger.records(name)
        promoted = holder in existing and any(
            evidence.concerns(record, existing[holder]) for record in records
        )
        if promoted:
            message = f"alias {alias} is missing, the ledger has version {holder} in {stage}"
            fault = _fault(store, records, existing[holder])
            if fault:
                repair = f"none: promote another version; {fault}"
                yield _Case(Finding(name, "ALIAS_LOST", message, repair))
                continue
            finding = Finding(name, "ALIAS_LOST", message, f"set {alias} to version {holder} again")
            yield _Case(finding, partial(moves.point, store, name, alias, holder))
        else:
            yield _deleted(store, ledger, name, holder)
    aliased = aliases.get(PREVIOUS)
    # If `production` was moved outside, that is reported above and settled first.
    unsettled = aliases.get(ALIASES[PRODUCTION]) not in (None, state.production)
    records = ledger.records(name)
    owners = state.previous is None and moves.is_owners(store, records, name, aliased)
    if aliased != state.previous and not unsettled and not owners:
        target = _version(state.previous)
        message = f"alias {PREVIOUS} names {_version(aliased)}, a roll-back goes to {target}"
        finding = Finding(name, "WRONG_PREVIOUS", message, f"make it name {target}")
        yield _Case(finding, partial(moves.point, store, name, PREVIOUS, state.previous))


def _deleted(store: Store, ledger: Ledger, name: str, version: int) -> _Case:
    """The version in Production was deleted, maybe with its model, which was registered anew."""
    records, others = ledger.records(name), store.versions(name)
    kept = any(evidence.concerns(record, other) for record in records for other in others)
    deleted = "the version was deleted"
    if others and not kept:
        deleted = "its model was deleted and registered anew"
    message = (
        f"the ledger has version {version} in {PRODUCTION}, but {deleted}: "
        f"nothing is in {PRODUCTION}"
    )
    repair = f"record in the ledger that nothing is in {PRODUCTION}; or promote another version"
    stage = PRODUCTION if kept else stages.ARCHIVED
    remedy = partial(moves.vacate, store, ledger, name, version, stage)
    return _Case(Finding(name, "VERSION_GONE", message, repair), remedy)


def _fault(store: Store, records: list[Record], version: Version) -> str:
    """What is wrong with the files of a version; empty if they are those that were promoted."""
    try:
        evidence.fetch(store, records, version)
    except (Corrupt, NotFound) as error:
        return error.message
    return ""


def _tags(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    state = _state(store, ledger, name)
    for version, stage in moves.wrong_tags(store, name, state).items():
        message = f"the ledger has version {version} in {stage}, its tag `{stages.TAG}` differs"
        repair = f"set it to {stage}"
        if not stage:
            message = (
                f"version {version} was never promoted, but has a tag `{stages.TAG}`: MLflow "
                "copied it with the version, or it was set outside"
            )
            repair = "remove the tag"
        remedy = partial(moves.tag, store, name, version, stage)
        yield _Case(Finding(name, "WRONG_TAG", message, repair), remedy)


def _mlflow_stages(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    in_mlflow = {version.version: version.stage for version in store.versions(name)}
    state = _state(store, ledger, name)
    for version, stage in moves.wrong_stages(store, name, state).items():
        in_ledger = state.stages.get(version, "no stage")
        message = (
            f"MLflow has version {version} in stage {in_mlflow[version]}, the ledger in {in_ledger}"
        )
        finding = Finding(name, "WRONG_STAGE", message, f"move it to {stage}")
        yield _Case(finding, partial(store.set_stage, name, version, stage))


def _files(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    records = ledger.records(name)
    in_use = stages.expected(records)
    for version in store.versions(name):
        if version.foreign and evidence.promoted_manifest(records, version) is None:
            yield from _foreign(version, in_use)
            continue
        fault = _fault(store, records, version)
        if fault:
            repair = "none: do not serve it; restore its files from a backup, or train it again"
            yield _Case(Finding(name, "BAD_FILES", fault, repair))


def _foreign(version: Version, state: State) -> Iterator[_Case]:
    """A version that Kronos Registry did not log is left alone, unless it is in a stage."""
    for stage in ALIASES:
        if state.holder(stage) == version.version:
            message = (
                f"version {version.version} is in {stage}, but was not logged by Kronos Registry: "
                "it cannot be verified or served"
            )
            repair = "none: promote another version, or roll back"
            yield _Case(Finding(version.name, "FOREIGN_VERSION", message, repair))


# Each check reads the store and the ledger anew, after the repairs of the checks before it.
_FIRST = (_chain, _unfinished, _missing_rows)
_CHECKS = (
    *_FIRST, _missing_runs, _lost_tags, _capital_aliases, _moved_aliases, _lost_aliases, _tags,
    _mlflow_stages, _files,
)  # fmt: skip
_CHECKS_OF_GONE = (_chain, _gone)


def _state(store: Store, ledger: Ledger, name: str) -> State:
    return moves.expected(store, name, ledger.records(name))


def _version(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
