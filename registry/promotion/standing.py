"""How a version stands against the one in Production and against fhs, in one sentence."""

from registry.versions import scored
from registry.versions.scored import Scores
from registry.versions.store import Store
from registry.versions.version import Version


def standing(store: Store, newcomer: Version, incumbent: Version | None) -> str:
    """The sentence for people. It judges nothing: no score keeps a version out of Production."""
    scores = scored.latest(store, newcomer)
    if not scores:
        return f"{newcomer.reference} was never scored; {_remedy(store, newcomer, incumbent)}"
    if incumbent is None:
        return f"{_alone(newcomer, scores[0])}; nothing is in Production to compare it with"
    others = scored.latest(store, incumbent)
    for own in scores:
        for other in others:
            if scored.same(own, other):
                return _beside(newcomer, own, incumbent, other)
    alone = _alone(newcomer, scores[0])
    if not others:
        reason = f"{incumbent.reference} in Production was never scored"
    else:
        facts = ", ".join(scored.differing((scores[0].rows, others[0].rows))) or "unknown rows"
        reason = f"{incumbent.reference} in Production was scored on other rows ({facts})"
    return f"{alone}; {reason}; {_remedy(store, newcomer, incumbent)}"


def _beside(newcomer: Version, own: Scores, incumbent: Version, other: Scores) -> str:
    crps, of_incumbent = own.metrics["crps"], other.metrics["crps"]
    sentence = (
        f"{_alone(newcomer, own)}; on the same rows {incumbent.reference} in Production has "
        f"{of_incumbent:.6f}"
    )
    if not of_incumbent:
        return sentence
    return f"{sentence}, so the newcomer is {_better(1 - crps / of_incumbent)}"


def _alone(version: Version, scores: Scores) -> str:
    text = f"{version.reference} has CRPS {scores.metrics['crps']:.6f}"
    skill = scores.metrics.get("skill_vs_fhs")
    return f"{text}, {_better(skill)} than fhs" if skill is not None else text


def _better(share: float) -> str:
    return f"{abs(share):.2%} {'better' if share >= 0 else 'worse'}"


def _remedy(store: Store, newcomer: Version, incumbent: Version | None) -> str:
    references = newcomer.reference
    if incumbent is not None:
        if _apart(store, newcomer, incumbent):
            return (
                f"they are of other data sets ({newcomer.tags['data']}, {incumbent.tags['data']})"
            )
        references += f" {incumbent.reference}"
    return f"`python -m jobs evaluate {references}` scores on equal rows"


def _apart(store: Store, one: Version, other: Version) -> bool:
    """Whether no data set suits both: their own have another calendar or universe."""
    data = [version.tags.get("data") for version in (one, other)]
    if None in data or data[0] == data[1]:
        return False
    return _sessions_and_market(store, one) != _sessions_and_market(store, other)


def _sessions_and_market(store: Store, version: Version) -> tuple[str | None, str | None]:
    """Calendar and universe that a version was trained on, as far as they are known."""
    tags = store.client.get_run(version.run_id).data.tags
    return tags.get("calendar"), tags.get("universe")
