"""Move versions between stages: promote, roll back, history. A move can be killed at any point.

The alias `production` decides which version is served, and it moves atomically. Before it moves, a
row of the ledger claims the model. After it moved, the steps below bring everything else in line.
Each step does nothing if it was done before. So the next process that finds the claim of a dead
process completes that claim first.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.errors import BadParameter, Conflict, Corrupt, NotFound
from registry.ledger.claims import user
from registry.ledger.promotions import Decision, Ledger, Record, busy
from registry.masking import masked
from registry.promotion import audit, evidence, stages
from registry.promotion.stages import (
    ALIASES,
    ARCHIVED,
    PREVIOUS,
    PRODUCTION,
    STAGES,
    STAGING,
    State,
)
from registry.text import is_text
from registry.versions import describing
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store, check_name, not_ours
from registry.versions.version import Version

METRICS = ("crps", "coverage_90", "skill_vs_fhs")
_MAX_WORDS = 1000  # characters of `who` and of `why`; MLflow keeps 5000 of a tag


# --- public verbs -----------------------------------------------------------------------------


def promote(
    store: Store,
    ledger: Ledger,
    name: str,
    version: int,
    stage: str = PRODUCTION,
    *,
    who: str,
    why: str,
) -> Record:
    """The completed ledger row that put a version in a stage.

    If the version is in the stage already, this is the older row. Raises BadParameter, NotFound,
    Corrupt if the version's bytes are wrong (nothing is changed then), and Conflict if another
    process changes the model or if the version in Production would leave Production.
    """
    _check_words(who, why)
    _check_stage(stage)
    _check_ours(store, ledger, name, version)
    records = settle(store, ledger, name, stage)
    decision = decide(store, records, name, version, stage)
    if decision is None:
        return _last_that_names(version, records)
    return _carry_out(store, ledger, records, decision, who=who, why=why)


def _last_that_names(version: int, records: list[Record]) -> Record:
    carried_out = [record for record in records if not stages.withdrawn(record)]
    naming = [record for record in carried_out if version in (record.version, record.from_version)]
    return naming[-1]


def plan(store: Store, ledger: Ledger, name: str, version: int, stage: str) -> Decision | None:
    """The decision that `promote` would write, or None if the version is in the stage already.

    Nothing is changed. Raises the errors of `promote`.
    """
    _check_stage(stage)
    _check_ours(store, ledger, name, version)
    audit.check(store, ledger, name)
    return decide(store, ledger.records(name), name, version, stage)


def decide(
    store: Store, records: list[Record], name: str, version: int, stage: str
) -> Decision | None:
    """The decision that follows `records`, or None if the version is in the stage already."""
    candidate = store.version(name, version)
    facts = admit(store, records, candidate, stage)
    state = stages.expected(records)
    recorded = state.stages.get(version) == stage
    if recorded and (stage == ARCHIVED or store.aliases(name).get(ALIASES[stage]) == version):
        return None
    if stage != PRODUCTION and state.production == version:
        raise Conflict(
            f"{name} version {version} is in Production; promote another version or roll back first"
        )
    return Decision(
        model=name,
        action=stages.PROMOTE,
        stage=stage,
        version=version,
        from_version=state.holder(stage),
        evidence=facts,
    )


def rollback(store: Store, ledger: Ledger, name: str, *, who: str, why: str) -> Record:
    """The completed ledger row that put the previous version back in Production.

    Raises Conflict if there is no previous version, and NotFound and Corrupt as `promote` does.
    """
    _check_words(who, why)
    _check_ours(store, ledger, name)
    records = settle(store, ledger, name)
    state = expected(store, name, records)
    if state.previous is None:
        raise Conflict(
            f"nothing was in Production of {name} before {state.production or 'now'}",
            code="NOTHING_BEFORE",
        )
    target = store.version(name, state.previous)
    decision = Decision(
        model=name,
        action=stages.ROLLBACK,
        stage=PRODUCTION,
        version=target.version,
        from_version=state.production,
        evidence=admit(store, records, target, PRODUCTION),
    )
    return _carry_out(store, ledger, records, decision, who=who, why=why)


def history(ledger: Ledger, name: str, at: datetime | None = None) -> list[Record]:
    """Rows of a model in sequence.

    With `at`, only the row that put the version in Production that was there at that instant. A
    naive `at` is UTC. A move that was made outside counts from the time when it was adopted.
    """
    records = ledger.records(name)
    if at is None:
        return records
    instant = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    record = stages.in_production(records, instant)
    return [record] if record else []


def admit(store: Store, records: Sequence[Record], version: Version, stage: str) -> dict[str, Any]:
    """The gate: the ledger's evidence that a version may enter a stage, or the error that bars it.

    The version's bytes must be those that were registered and promoted before. The evidence is
    their manifest's hash and the METRICS of the version's run.
    """
    if stage == ARCHIVED:
        return {}
    evidence.fetch(store, records, version)
    metrics = store.metrics(version)
    facts: dict[str, Any] = {key: metrics[key] for key in METRICS if key in metrics}
    facts[MANIFEST_TAG] = version.tags[MANIFEST_TAG]
    return facts


def _check_ours(store: Store, ledger: Ledger, name: str, number: int | None = None) -> None:
    """Raise NotFound unless we logged or moved this version, or any version if `number` is None.

    So a model of another team is left alone. Also raises BadParameter if our models may not have
    this name: a version of ours can be copied to any.
    """
    versions = store.versions(name) if number is None else [store.version(name, number)]
    moved = {record.version for record in ledger.records(name)}
    if all(version.foreign and version.version not in moved for version in versions):
        raise not_ours(versions[0]) if versions else NotFound(f"{name} has no versions")
    check_name(name)


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise BadParameter(
            f"stage is {stage!r}, expected one of {', '.join(STAGES)}", code="BAD_STAGE"
        )


def _check_words(who: str, why: str) -> None:
    for key, words in (("who", who), ("why", why)):
        if len(words) > _MAX_WORDS or "\0" in words or not is_text(words):
            raise BadParameter(
                f"{key} is UTF-8 text of at most {_MAX_WORDS} characters without NUL, "
                f"found {len(words)}"
            )
        hidden = masked(words)
        if hidden != words:
            raise BadParameter(
                f"{key} seems to hold a password or key, and rows of the ledger stay for ever; "
                f"leave out what is *** here: {hidden}"
            )
    if not who.strip():
        raise BadParameter("who is empty; a change is signed by user@host")


# --- claims -----------------------------------------------------------------------------------


def settle(store: Store, ledger: Ledger, name: str, taken: str = "") -> list[Record]:
    """Rows of a model, all completed and in line with its aliases. Call this before a new claim.

    It completes a dead claim. It adopts an alias that was moved outside: the alias is the truth.
    The alias of a foreign version is its owner's, unless the claim takes its stage, `taken`.
    Raises Conflict while another process changes the model, and Corrupt for rows that were changed:
    nothing is appended to a broken chain.
    """
    audit.check(store, ledger, name)
    records = ledger.records(name)
    if records and records[-1].completed_at is None:
        if not records[-1].abandoned:
            raise busy(records[-1])
        resume(store, ledger, records)
        records = ledger.records(name)
    for stage, alias in ALIASES.items():
        expected_version = stages.expected(records).holder(stage)
        aliased = store.aliases(name).get(alias)
        if aliased is None or aliased == expected_version:
            continue
        taken_from_us = expected_version is not None
        if stage == taken or taken_from_us or not is_owners(store, records, name, aliased):
            adopt(store, ledger, records, name, stage, aliased)
            records = ledger.records(name)
    return records


def is_owners(store: Store, records: Sequence[Record], name: str, number: int | None) -> bool:
    """Whether a version is foreign and the ledger never moved it: its aliases are its owner's."""
    if number in {None, *(record.version for record in records)}:
        return False
    return any(version.version == number and version.foreign for version in store.versions(name))


def resume(store: Store, ledger: Ledger, records: list[Record]) -> Record:
    """Complete an abandoned claim, the last of `records`, or withdraw it if it is outdated."""
    record = ledger.take(records[-1])
    with ledger.holding(record):
        if _outdated(store, record):
            ledger.withdraw(record)
            return ledger.record(record.model, record.sequence)
    return _finish(store, ledger, [*records[:-1], record])


def _outdated(store: Store, record: Record) -> bool:
    """Whether a claim must be withdrawn.

    It must be if its alias was moved outside before the claim moved it, or if the alias has yet to
    move and the version is corrupt or no longer exists. With an audit run, all but the completion
    was done.
    """
    alias = ALIASES.get(record.stage)
    aliased = store.aliases(record.model).get(alias or "")
    if record.action == stages.GONE:  # it is there: its model is
        return record.audit_run_id is None
    if (
        alias is None
        or record.audit_run_id
        or record.action == stages.ADOPT
        or aliased == record.version
    ):
        return False
    if aliased not in (None, record.from_version):
        return record.moved_at is None
    try:
        evidence.fetch(store, [record], store.version(record.model, record.version))
    except (Corrupt, NotFound):
        return True
    return False


def adopt(
    store: Store, ledger: Ledger, records: list[Record], name: str, stage: str, version: int
) -> Record:
    """Record that an alias was moved outside, so that history and roll-back include it."""
    why = f"alias {ALIASES[stage]} was moved outside the registry"
    return _adopt(store, ledger, records, name, stage, version, why, {})


def vacate(store: Store, ledger: Ledger, name: str, version: int, stage: str) -> Record:
    """Record that the version in Production was deleted outside, so that nothing is in it.

    With stage Archived, all other versions that the ledger knows were deleted, too.
    """
    decision = Decision(
        model=name,
        action=stages.GONE,
        stage=stage,
        version=version,
        from_version=version,
        evidence={},
    )
    why = f"version {version} was deleted outside"
    return _carry_out(store, ledger, ledger.records(name), decision, who=user(), why=why)


def adopt_after_loss(store: Store, ledger: Ledger, name: str) -> None:
    """Record that rows of the ledger are missing, and what the aliases name since.

    Without an alias, the version of the last missing row counts as archived. The last adoption
    names the missing rows: if this is killed before, they are still missing.
    """
    missing = audit.compare(store, ledger, name).without_row
    if not missing:
        return
    why = f"rows of the ledger are missing; audit runs without a row: {len(missing)}"
    aliases = store.aliases(name)
    places = [(stage, aliases[alias]) for stage, alias in ALIASES.items() if alias in aliases]
    *others, last = places or [(ARCHIVED, int(missing[-1].tags["version"]))]
    for place in others:
        _adopt(store, ledger, ledger.records(name), name, *place, why, {})
    _adopt(store, ledger, ledger.records(name), name, *last, why, audit.loss(missing))


def _adopt(
    store: Store,
    ledger: Ledger,
    records: list[Record],
    name: str,
    stage: str,
    version: int,
    why: str,
    facts: Mapping[str, Any],
) -> Record:
    decision = Decision(
        model=name,
        action=stages.ADOPT,
        stage=stage,
        version=version,
        from_version=stages.expected(records).holder(stage),
        evidence=facts,
    )
    return _carry_out(store, ledger, records, decision, who=user(), why=why)


def _carry_out(
    store: Store, ledger: Ledger, records: list[Record], decision: Decision, *, who: str, why: str
) -> Record:
    """Claim the row after `records`, then carry out the decision."""
    last = records[-1] if records else None
    claimed = ledger.claim(decision, last, who=who, why=why)
    return _finish(store, ledger, [*records, claimed])


def _finish(store: Store, ledger: Ledger, records: list[Record]) -> Record:
    """Run all steps of the last record, which this process holds. A failed step releases it."""
    record = records[-1]
    with ledger.holding(record):
        move = Move(store, ledger, record, expected(store, record.model, records))
        for step in STEPS:
            ledger.claims.check(record)
            step(move)
    return ledger.record(record.model, record.sequence)


def expected(store: Store, name: str, records: list[Record]) -> State:
    """The state that the records prescribe for those of our versions that still exist."""
    existing = {version.version for version in store.versions(name) if not version.foreign}
    return stages.expected(records).among(existing)


# --- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A claimed row and the state once the row is completed."""

    store: Store
    ledger: Ledger
    record: Record
    state: State


def move_alias(move: Move) -> None:
    """Set the alias: the served version changes here, atomically.

    The time is written first, because it cannot be known after a crash. If the alias was moved
    outside in the meantime, it stays: it is the truth, and the next process adopts it.
    """
    row = move.record
    alias = ALIASES.get(row.stage)
    aliased = move.store.aliases(row.model).get(alias or "")
    outside = row.action in (stages.ADOPT, stages.GONE)
    if alias is None or outside or aliased == row.version:
        return
    if aliased in (None, row.from_version):
        move.ledger.moving(row)
        move.store.set_alias(row.model, alias, row.version)
    elif row.moved_at is None:
        raise Conflict(
            f"{row.model}: alias {alias} was moved outside to version {aliased} just now; "
            "look, then try again"
        )


def move_previous(move: Move) -> None:
    """Set the alias of the version that a roll-back returns to."""
    store, name = move.store, move.record.model
    aliased = store.aliases(name).get(PREVIOUS)
    records = move.ledger.records(name)
    if move.state.previous is None and is_owners(store, records, name, aliased):
        return
    point(store, name, PREVIOUS, move.state.previous)


def leave_staging(move: Move) -> None:
    """Delete the alias `staging` if its version went to another stage."""
    row = move.record
    alias = ALIASES[STAGING]
    if row.stage != STAGING and move.store.aliases(row.model).get(alias) == row.version:
        move.store.delete_alias(row.model, alias)


def write_tags(move: Move) -> None:
    """Set the tag that makes a version's stage searchable."""
    for version, stage in wrong_tags(move.store, move.record.model, move.state).items():
        tag(move.store, move.record.model, version, stage)


def write_stages(move: Move) -> None:
    """Set MLflow's own stages, for models:/NAME/Production."""
    for version, stage in wrong_stages(move.store, move.record.model, move.state).items():
        move.store.set_stage(move.record.model, version, stage)


def describe(move: Move) -> None:
    """Say in the descriptions that people read in MLflow what is in Production now."""
    describing.update(move.store, move.record.model)


def write_audit(move: Move) -> None:
    """Write one MLflow run per row."""
    row = move.ledger.record(move.record.model, move.record.sequence)
    move.ledger.audited(row, audit.write(move.store, row))


def complete(move: Move) -> None:
    """Seal the row: first its audit run, then the row itself."""
    row = move.ledger.record(move.record.model, move.record.sequence)
    move.ledger.complete(audit.completed(move.store, row))


STEPS: tuple[Callable[[Move], None], ...] = (
    move_alias, move_previous, leave_staging, write_tags, write_stages, describe, write_audit,
    complete,
)  # fmt: skip


def point(store: Store, name: str, alias: str, version: int | None) -> None:
    """Set an alias to this version; delete the alias if the version is None."""
    aliased = store.aliases(name).get(alias)
    if version is not None and aliased != version:
        store.set_alias(name, alias, version)
    elif version is None and aliased is not None:
        store.delete_alias(name, alias)


def tag(store: Store, name: str, version: int, stage: str) -> None:
    """Set the tag of a version's stage; remove it if the stage is empty."""
    if stage:
        store.set_tag(name, version, stages.TAG, stage)
    else:
        store.delete_tag(name, version, stages.TAG)


def wrong_tags(store: Store, name: str, state: State) -> Mapping[int, str]:
    """Version -> right stage, empty for none, of each version whose tag is wrong.

    Tags of foreign versions that the ledger never moved mean what their owners say.
    """
    tagged = {}
    for version in store.versions(name):
        if not version.foreign or version.version in state.stages:
            tagged[version.version] = version.tags.get(stages.TAG, "")
    return stages.corrections(state, tagged, unmoved="")


def wrong_stages(store: Store, name: str, state: State) -> Mapping[int, str]:
    """Version -> right stage, of each version whose stage in MLflow is wrong.

    A foreign version that the ledger never moved may stay where none of ours is.
    """
    in_mlflow = {}
    for version in store.versions(name):
        contested = state.holder(version.stage) is not None
        if not version.foreign or version.version in state.stages or contested:
            in_mlflow[version.version] = version.stage
    return stages.corrections(state, in_mlflow, unmoved=ARCHIVED)
