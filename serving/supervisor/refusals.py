"""Errors as the gateway shows them: without passwords, and without paths of this machine."""

import re
from pathlib import PurePath

from registry.errors import KronosError
from registry.masking import masked
from serving.messages import Refusal

LONGEST = 400  # characters
_PATH = re.compile(r"(?<![\w.:/])(?:file://)?/[^\s:;,'\"()]+")


def refusal(error: KronosError) -> Refusal:
    """An error for the gateway."""
    return Refusal(code=error.code, message=shown(error.message), status=error.status)


def load_failed(message: str) -> Refusal:
    """A version that does not start."""
    return refusal(KronosError(message, code="LOAD_FAILED"))


def shown(text: str) -> str:
    """One line of limited length, with names of files in place of their paths."""
    line = " ".join(masked(text).split())
    return _PATH.sub(_name, line)[:LONGEST]


def _name(match: re.Match[str]) -> str:
    return PurePath(match[0]).name
