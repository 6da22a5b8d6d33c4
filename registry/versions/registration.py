"""The name and number of a version, in the file of its folder where MLflow writes them.

The file is no part of the version: it is not in the manifest, and whoever downloads
models:/NAME/NUMBER writes it anew. So it labels replies and decides nothing.
"""

import re
from pathlib import Path

from registry.forecast.identity import Identity
from registry.versions import manifest

_NAME = re.compile(r"^model_name: '?([a-z0-9_]{1,64})'?$", re.MULTILINE)
_NUMBER = re.compile(r"^model_version: '?(\d{1,9})'?$", re.MULTILINE)


def write(root: Path, name: str, number: int) -> None:
    """Write the file as MLflow does."""
    (root / manifest.MLFLOWS).write_text(text(name, number))


def text(name: str, number: int) -> str:
    """Content of the file of this version."""
    return f"model_name: {name}\nmodel_version: '{number}'\n"


def identity(root: Path, model: str) -> Identity:
    """The version at `root`. Without a readable file it is known by `model` and its manifest."""
    digest = manifest.sha256(root / manifest.MANIFEST)
    path = root / manifest.MLFLOWS
    content = path.read_text(errors="replace") if path.is_file() else ""
    name, number = _NAME.search(content), _NUMBER.search(content)
    if name is None or number is None:
        return Identity(model, None, digest)
    return Identity(name[1], int(number[1]), digest)
