"""The environment of the programs that tests start."""

import os
from pathlib import Path

from registry.settings import Settings

ROOT = Path(__file__).parents[2]


def environment(settings: Settings) -> dict[str, str]:
    """Environment of `python -m registry` under these settings."""
    fields = settings.model_dump().items()
    variables = {f"KRONOS_{key.upper()}": str(value) for key, value in fields if value}
    return os.environ | variables | {"PYTHONPATH": str(ROOT)}
