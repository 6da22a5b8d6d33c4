"""Errors as the gateway shows them: without passwords, paths and addresses."""

import re
from pathlib import PurePath

from registry.codes import CODES
from registry.errors import KronosError
from registry.masking import masked
from serving.messages import Refusal

LONGEST = 400  # characters
_PATH = re.compile(r"(?<![\w.:/])(?:file://)?/[^\s:;,'\"()]+")
# Their messages name servers and databases, which are no client's business. The log has them.
_INTERNAL = ("TRACKING_UNAVAILABLE", "LEDGER_UNAVAILABLE", "MLFLOW", "INTERNAL")


def refusal(error: KronosError) -> Refusal:
    """An error for the gateway."""
    return public(Refusal(code=error.code, message=shown(error.message), status=error.status))


def public(refusal: Refusal) -> Refusal:
    """A refusal that says nothing about the machines behind the gateway."""
    if refusal.code not in _INTERNAL:
        return refusal
    return Refusal(code=refusal.code, message=CODES[refusal.code].when, status=refusal.status)


def load_failed(message: str) -> Refusal:
    """A version that does not start."""
    return refusal(KronosError(message, code="LOAD_FAILED"))


def shown(text: str) -> str:
    """One line of limited length, with names of files in place of their paths."""
    line = " ".join(masked(text).split())
    return _PATH.sub(_name, line)[:LONGEST]


def _name(match: re.Match[str]) -> str:
    return PurePath(match[0]).name
