"""References to versions, as people write them: nbeats, nbeats/3, nbeats@challenger."""

import re

from registry.errors import BadParameter

# A name, and a number, `latest`, a stage or an alias.
_REFERENCE = re.compile(r"(models:/)?[a-z0-9_]{1,64}([/@][A-Za-z0-9_.-]{1,64})?")


def check_reference(reference: str) -> None:
    """Raise BadParameter (BAD_MODEL_NAME) for what can name no version."""
    if not _REFERENCE.fullmatch(reference):
        raise BadParameter(
            "a model is named as nbeats, nbeats/3 or nbeats@challenger: 1..64 of a-z, 0-9 and _, "
            "then a version or an alias",
            code="BAD_MODEL_NAME",
        )


def model_of(reference: str) -> str:
    """The model's name in a reference."""
    return re.split("[@/]", reference.removeprefix("models:/"))[0]
