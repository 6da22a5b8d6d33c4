"""References to versions, as people write them: nbeats, nbeats/3, nbeats@challenger."""

import re


def model_of(reference: str) -> str:
    """The model's name in a reference."""
    return re.split("[@/]", reference.removeprefix("models:/"))[0]
