"""Where MLflow, the ledger and the stored files disagree, and what brings them back in line."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from registry.errors import Corrupt, NotFound
from registry.ledger.promotions import Ledger
from registry.promotion import moves, stages
from registry.promotion.stages import ALIASES, PREVIOUS, PRODUCTION, State
from registry.versions.store import Store


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, and its repair in words; `repaired` once it was done."""

    model: str
    code: str  # stable, for programs
    message: str
    repair: str
    repaired: bool = False


@dataclass(frozen=True)
class _Case:
    """A finding and what repairs it; None if it must be repaired by hand."""

    finding: Finding
    remedy: Callable[[], object] | None = None


def examine(
    store: Store, ledger: Ledger, name: str | None = None, *, repair: bool = False
) -> list[Finding]:
    """Findings of one model or of all. With `repair`, what can be repaired is, in an order in which each holds."""
    names = [name] if name else sorted(set(store.names()) | set(ledger.models()))
    return [finding for each in names for finding in _examine(store, ledger, each, repair)]


def _examine(store: Store, ledger: Ledger, name: str, repair: bool) -> Iterator[Finding]:
    if name not in store.names() and ledger.records(name):
        message = f"the ledger has promotions of {name}, which is not registered any more"
        yield Finding(
            name,
            "MODEL_GONE",
            message,
            "none needed if it was deleted on purpose; its history is kept",
        )
        return
    store.aliases(name)  # NotFound for an unknown model
    # Each check looks anew, after the repairs of those before it.
    for check in (
        _chain,
        _unfinished,
        _moved_aliases,
        _lost_aliases,
        _tags,
        _mlflow_stages,
        _files,
    ):
        for case in check(store, ledger, name):
            if repair and case.remedy is not None:
                case.remedy()
                yield replace(case.finding, repaired=True)
                continue
            yield case.finding
            if check is _unfinished:  # the rest would only say so in other words
                return


def _chain(_: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    try:
        ledger.verify_chain(name)
    except Corrupt as error:
        repair = "none: compare the ledger with a backup and with the audit runs in the experiment `promotions`"
        yield _Case(Finding(name, "BROKEN_CHAIN", error.message, repair))


def _unfinished(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    records = ledger.records(name)
    if not records or records[-1].completed_at is not None:
        return
    last = records[-1]
    when = f"{last.claimed_at:%Y-%m-%d %H:%M:%S} UTC"
    what = f"{last.action} of version {last.version} to {last.stage} by {last.who} at {when}"
    if last.abandoned:
        finding = Finding(
            name,
            "UNFINISHED",
            f"the {what} was never completed; its process is gone",
            "complete it",
        )
        yield _Case(finding, partial(moves.resume, store, ledger, records))
    else:
        yield _Case(
            Finding(name, "IN_PROGRESS", f"the {what} is under way", "wait, then look again")
        )


def _moved_aliases(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Aliases that somebody moved outside: the alias is the truth, the ledger learns it."""
    for stage, alias in ALIASES.items():
        records = ledger.records(
            name
        )  # before the alias is read: a promotion in between makes the repair fail, not lie
        wanted, found = stages.expected(records).holder(stage), store.aliases(name).get(alias)
        if found is not None and found != wanted:
            message = (
                f"alias {alias} names version {found}, the ledger has {_version(wanted)} in {stage}"
            )
            repair = f"write down in the ledger that version {found} was moved to {stage} outside"
            remedy = partial(moves.adopt, store, ledger, records, name, stage, found)
            yield _Case(Finding(name, "ALIAS_MOVED", message, repair), remedy)


def _lost_aliases(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    """Aliases that somebody deleted, and `previous`, which follows from the ledger."""
    state, aliases = _state(store, ledger, name), store.aliases(name)
    existing = {v.version for v in store.versions(name)}
    for stage, alias in ALIASES.items():
        wanted = state.holder(stage)
        if wanted is None or alias in aliases:
            continue
        if wanted in existing:
            message = f"alias {alias} is gone, the ledger has version {wanted} in {stage}"
            finding = Finding(
                name, "ALIAS_LOST", message, f"let {alias} name version {wanted} again"
            )
            yield _Case(finding, partial(moves.point, store, name, alias, wanted))
        else:
            message = (
                f"version {wanted}, in {stage} by the ledger, was deleted: nothing is in {stage}"
            )
            yield _Case(Finding(name, "VERSION_GONE", message, "promote another version"))
    found = aliases.get(PREVIOUS)
    unsettled = aliases.get(ALIASES[PRODUCTION]) not in (
        None,
        state.production,
    )  # moved outside, reported above
    if found != state.previous and not unsettled:
        message = f"alias {PREVIOUS} names {_version(found)}, a roll-back goes to {_version(state.previous)}"
        finding = Finding(
            name, "WRONG_PREVIOUS", message, f"let it name {_version(state.previous)}"
        )
        yield _Case(finding, partial(moves.point, store, name, PREVIOUS, state.previous))


def _tags(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    for version, stage in moves.wrong_tags(store, name, _state(store, ledger, name)).items():
        message = f"the tag `{stages.TAG}` of version {version} does not say {stage}, where the ledger has it"
        finding = Finding(name, "WRONG_TAG", message, f"set it to {stage}")
        yield _Case(finding, partial(store.set_tag, name, version, stages.TAG, stage))


def _mlflow_stages(store: Store, ledger: Ledger, name: str) -> Iterator[_Case]:
    found = {v.version: v.stage for v in store.versions(name)}
    for version, stage in moves.wrong_stages(store, name, _state(store, ledger, name)).items():
        message = f"MLflow has version {version} in stage {found[version]}, the ledger in {stage}"
        finding = Finding(name, "WRONG_STAGE", message, f"move it to {stage}")
        yield _Case(finding, partial(store.set_stage, name, version, stage))


def _files(store: Store, _: Ledger, name: str) -> Iterator[_Case]:
    for version in store.versions(name):
        try:
            store.fetch(version)
        except (Corrupt, NotFound) as error:
            repair = "none: do not serve it; restore its files from a backup, or train it again"
            yield _Case(Finding(name, "BAD_FILES", error.message, repair))


def _state(store: Store, ledger: Ledger, name: str) -> State:
    return moves.expected(store, name, ledger.records(name))


def _version(number: int | None) -> str:
    return "no version" if number is None else f"version {number}"
