"""The provenance of a version: where it comes from, in a file that is sealed with its other files.

The tags of a version are what a person reads in the UI, and what programs search for or compare.
All facts, digests and revisions among them, are in the file. Versions from before 2026-11-27 have
no such file: their tags hold all.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from registry.errors import Corrupt
from registry.versions.version import RECIPE_TAG

PROVENANCE = "provenance.json"
# Facts that are tags, too. Programs search for the recipe; the others are for people.
TAGS = ("family", "data", "weights", "trained_until", "pretrained_until", "pretrained_until_source",
        "horizon", "licence", "leakage", "simulated", "synthetic", RECIPE_TAG)  # fmt: skip


def tags(facts: Mapping[str, str]) -> dict[str, str]:
    """The facts that become tags of a version."""
    return {key: facts[key] for key in TAGS if key in facts}


def write(root: Path, facts: Mapping[str, str]) -> None:
    """Write the facts of the version at `root`, which is sealed afterwards."""
    (root / PROVENANCE).write_text(json.dumps(dict(facts), indent=1, sort_keys=True) + "\n")


def read(path: Path) -> dict[str, str]:
    """The facts in a file whose bytes were verified. Raises Corrupt."""
    try:
        facts: dict[str, str] = json.loads(path.read_bytes())
    except ValueError as error:
        raise Corrupt(f"{path} cannot be read as JSON") from error
    return facts
