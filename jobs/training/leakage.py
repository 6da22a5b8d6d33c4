"""Leakage: sessions that a version was trained on and would be scored on."""

from collections.abc import Mapping

from registry import training
from registry.dates import is_date
from registry.errors import BadInput


def leakage(
    reference: str, tags: Mapping[str, str], config: training.Config, *, allowed: bool = False
) -> str:
    """Description of possible leakage according to the tags of a version; empty if none.

    Raises BadInput (code LEAKAGE) when it was trained on reported sessions, unless `allowed`.
    Pretraining elsewhere is only described, since nobody here can undo it.
    """
    reasons = []
    for key, verb in (("trained_until", "trained"), ("pretrained_until", "pretrained")):
        until = tags.get(key, "none")
        if until == "none" or (is_date(until) and until <= config.choose_until):
            continue
        if key == "trained_until" and not allowed:
            raise BadInput(
                f"{reference} was trained until {until}, the report starts after "
                f"{config.choose_until}; give a later choose_until "
                "(or --allow-leakage in an evaluation)",
                code="LEAKAGE",
            )
        reasons.append(f"{verb} until {until}")
    if not reasons:
        return ""
    return f"{', '.join(reasons)}; reported are sessions after {config.choose_until}"
