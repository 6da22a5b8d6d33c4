"""Moving versions between stages: promote, roll back, history. It can be killed at any point.

What is served is the alias `production`; it moves atomically. Before it moves, a row of the ledger claims the model;
after it moved, the steps below bring everything else in line. Each step does nothing where it was done before, so
whoever finds the claim of a dead process completes it first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from registry.errors import BadParameter, Conflict, Corrupt, NotFound
from registry.ledger.claims import user
from registry.ledger.promotions import Decision, Ledger, Record, busy
from registry.promotion import stages
from registry.promotion.stages import (
    ALIASES,
    ARCHIVED,
    PREVIOUS,
    PRODUCTION,
    STAGES,
    STAGING,
    State,
)
from registry.versions import tracking
from registry.versions.store import MANIFEST_TAG, Store
from registry.versions.version import Version

EXPERIMENT = "promotions"
PROMOTION_TAG = "kronos.promotion"  # the row's hash, on its audit run
METRICS = ("crps", "coverage_90", "skill_vs_fhs")
_MAX_WORDS = 1000  # characters of `who` and `why`; MLflow keeps 5000 of a tag


# --- what people ask for ----------------------------------------------------------------------


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
    """The completed ledger row that put a version in a stage; the older row when it is there already.

    Raises BadParameter, NotFound, Corrupt (its bytes are wrong: nothing was changed), Conflict (somebody is at it, or
    the version in Production was to leave it).
    """
    _check_words(who, why)
    _check_stage(stage)
    store.version(name, version)
    records = settle(store, ledger, name)
    decision = decide(store, records, name, version, stage)
    if decision is None:
        return _last_that_names(version, records)
    return _carry_out(store, ledger, records, decision, who=who, why=why)


def _last_that_names(version: int, records: list[Record]) -> Record:
    carried_out = [record for record in records if not stages.withdrawn(record)]
    return [r for r in carried_out if version in (r.version, r.from_version)][-1]


def decide(
    store: Store, records: list[Record], name: str, version: int, stage: str
) -> Decision | None:
    """What a promotion would write after `records`; None when the version is there already.

    Raises as `promote`.
    """
    _check_stage(stage)
    candidate = store.version(name, version)
    state = stages.expected(records)
    there = state.stages.get(version) == stage
    if there and (stage == ARCHIVED or store.aliases(name).get(ALIASES[stage]) == version):
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
        evidence=admit(store, candidate, stage),
    )


def rollback(store: Store, ledger: Ledger, name: str, *, who: str, why: str) -> Record:
    """The completed ledger row that put back what was in Production before.

    Raises Conflict when nothing was there before, NotFound, Corrupt as `promote` does.
    """
    _check_words(who, why)
    store.aliases(name)  # NotFound for an unknown model
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
        evidence=admit(store, target, PRODUCTION),
    )
    return _carry_out(store, ledger, records, decision, who=who, why=why)


def history(ledger: Ledger, name: str, at: datetime | None = None) -> list[Record]:
    """Rows of a model in sequence; with `at`, only the one that had put in Production what was there then.

    A naive `at` is taken as UTC. A move made outside counts from when it was noticed.
    """
    records = ledger.records(name)
    if at is None:
        return records
    instant = at.replace(tzinfo=UTC) if at.tzinfo is None else at
    found = stages.in_production(records, instant)
    return [found] if found else []


def admit(store: Store, version: Version, stage: str) -> dict[str, Any]:
    """Evidence that a version may enter a stage, for the ledger; raises what keeps it out. The gate belongs here.

    Today: its bytes are those that were registered, and what its run measured.
    """
    if stage == ARCHIVED:
        return {}
    store.fetch(version)
    measured = store.metrics(version)
    return {key: measured[key] for key in METRICS if key in measured} | {
        MANIFEST_TAG: version.tags[MANIFEST_TAG]
    }


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise BadParameter(
            f"stage is {stage!r}, expected one of {', '.join(STAGES)}", code="BAD_STAGE"
        )


def _check_words(who: str, why: str) -> None:
    for key, words in (("who", who), ("why", why)):
        if len(words) > _MAX_WORDS or "\0" in words:
            raise BadParameter(
                f"{key} is at most {_MAX_WORDS} characters without NUL, found {len(words)}"
            )
    if not who.strip():
        raise BadParameter("who is empty; a change is signed by user@host")


# --- claims -----------------------------------------------------------------------------------


def settle(store: Store, ledger: Ledger, name: str) -> list[Record]:
    """Rows of a model, all completed and in line with its aliases, before anything new is claimed.

    A dead claim is completed, and an alias that was moved outside is adopted: the alias is the truth. Raises Conflict
    while another process is at it.
    """
    records = ledger.records(name)
    if records and records[-1].completed_at is None:
        if not records[-1].abandoned:
            raise busy(records[-1])
        resume(store, ledger, records)
        records = ledger.records(name)
    for stage, alias in ALIASES.items():
        wanted, found = stages.expected(records).holder(stage), store.aliases(name).get(alias)
        if found is not None and found != wanted:
            adopt(store, ledger, records, name, stage, found)
            records = ledger.records(name)
    return records


def resume(store: Store, ledger: Ledger, records: list[Record]) -> Record:
    """Complete an abandoned claim, the last of `records`, or withdraw it when it must not be carried out any more."""
    record = ledger.take(records[-1])
    with ledger.holding(record):
        if _outdated(store, record):
            ledger.withdraw(record)
            return ledger.record(record.model, record.sequence)
    return _finish(store, ledger, [*records[:-1], record])


def _outdated(store: Store, record: Record) -> bool:
    """Whether a claim that moved nothing lost its ground: its alias was moved outside, or its version went bad."""
    alias = ALIASES.get(record.stage)
    found = store.aliases(record.model).get(alias or "")
    if alias is None or record.action == stages.ADOPT or found == record.version:
        return False
    if found not in (None, record.from_version):
        return record.moved_at is None
    try:
        store.fetch(store.version(record.model, record.version))
    except (Corrupt, NotFound):
        return True
    return False


def adopt(
    store: Store, ledger: Ledger, records: list[Record], name: str, stage: str, version: int
) -> Record:
    """Write down that an alias was moved outside, so that history and roll-back know."""
    decision = Decision(
        model=name,
        action=stages.ADOPT,
        stage=stage,
        version=version,
        from_version=stages.expected(records).holder(stage),
        evidence={},
    )
    why = f"alias {ALIASES[stage]} was moved outside the registry"
    return _carry_out(store, ledger, records, decision, who=user(), why=why)


def _carry_out(
    store: Store, ledger: Ledger, records: list[Record], decision: Decision, *, who: str, why: str
) -> Record:
    """Claim the row after `records`, then do what was decided."""
    last = records[-1] if records else None
    claimed = ledger.claim(decision, last, who=who, why=why)
    return _finish(store, ledger, [*records, claimed])


def _finish(store: Store, ledger: Ledger, records: list[Record]) -> Record:
    """Run all steps of the last record, which this process holds; let go of it when one fails."""
    record = records[-1]
    with ledger.holding(record):
        move = Move(store, ledger, record, expected(store, record.model, records))
        for step in STEPS:
            ledger.claims.check(record)
            step(move)
    return ledger.record(record.model, record.sequence)


def expected(store: Store, name: str, records: list[Record]) -> State:
    """What should be where, of the versions that still exist."""
    return stages.expected(records).among({v.version for v in store.versions(name)})


# --- steps ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Move:
    """A claimed row and what should be where once it is completed."""

    store: Store
    ledger: Ledger
    record: Record
    state: State


def move_alias(move: Move) -> None:
    """What is served changes here, at once. The time is written first: after a crash it cannot be known.

    An alias that was moved outside in the meantime is left alone: it is the truth, and adopted by whoever comes next.
    """
    row, alias = move.record, ALIASES.get(move.record.stage)
    found = move.store.aliases(row.model).get(alias or "")
    if alias is None or row.action == stages.ADOPT or found == row.version:
        return
    if found in (None, row.from_version):
        move.ledger.moving(row)
        move.store.set_alias(row.model, alias, row.version)
    elif row.moved_at is None:
        raise Conflict(
            f"{row.model}: alias {alias} was moved outside to version {found} just now; look, then try again"
        )


def move_previous(move: Move) -> None:
    """Where a roll-back goes from here."""
    point(move.store, move.record.model, PREVIOUS, move.state.previous)


def leave_staging(move: Move) -> None:
    """A version that went to another stage is in Staging no more."""
    row, alias = move.record, ALIASES[STAGING]
    if row.stage != STAGING and move.store.aliases(row.model).get(alias) == row.version:
        move.store.delete_alias(row.model, alias)


def write_tags(move: Move) -> None:
    """The tag that makes a version's stage searchable."""
    for version, stage in wrong_tags(move.store, move.record.model, move.state).items():
        move.store.set_tag(move.record.model, version, stages.TAG, stage)


def write_stages(move: Move) -> None:
    """MLflow's own stages, for models:/NAME/Production."""
    for version, stage in wrong_stages(move.store, move.record.model, move.state).items():
        move.store.set_stage(move.record.model, version, stage)


def write_audit(move: Move) -> None:
    """One MLflow run per row, found again by the row's hash."""
    row = move.ledger.record(move.record.model, move.record.sequence)
    facts = {"model": row.model, "version": row.version, "from": row.from_version or "none", "stage": row.stage,
             "action": row.action, "who": row.who, "why": row.why}  # fmt: skip
    run_id = tracking.record(
        move.store.settings, EXPERIMENT, f"{row.model} {row.action} {row.version}",
        key=(PROMOTION_TAG, row.hash), facts={k: str(v) for k, v in facts.items()},
        data=row.to_json(),
    )  # fmt: skip
    move.ledger.audited(row, run_id)


def complete(move: Move) -> None:
    move.ledger.complete(move.record)


STEPS: tuple[Callable[[Move], None], ...] = (
    move_alias, move_previous, leave_staging, write_tags, write_stages, write_audit, complete,
)  # fmt: skip


def point(store: Store, name: str, alias: str, version: int | None) -> None:
    """Let an alias name this version, or nothing."""
    found = store.aliases(name).get(alias)
    if version is not None and found != version:
        store.set_alias(name, alias, version)
    elif version is None and found is not None:
        store.delete_alias(name, alias)


def wrong_tags(store: Store, name: str, state: State) -> Mapping[int, str]:
    """Version -> stage that its tag should say."""
    return stages.corrections(
        state, {v.version: v.tags.get(stages.TAG, "") for v in store.versions(name)}
    )


def wrong_stages(store: Store, name: str, state: State) -> Mapping[int, str]:
    """Version -> stage that MLflow should hold it in."""
    return stages.corrections(state, {v.version: v.stage for v in store.versions(name)})
