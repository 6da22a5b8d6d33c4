"""Files and names that a model and its family need; checked before training."""

import ast
from collections.abc import Iterator
from pathlib import Path

import yaml

from jobs.training.families import TINY, Model
from registry.errors import BadConfig
from registry.settings import CHECKOUT

PARTS = {
    "settings.py": ("CONFIGS", "SEARCH", "spec"),
    "train.py": ("train",),
    "model.py": ("REQUIREMENTS", "save", "load"),
}
SECTIONS = ("Units", "Licence", "Limits")  # words that a card must have


def check(model: Model, checkout: Path = CHECKOUT) -> None:
    """Raise BadConfig for the first thing that is missing. The message says what to add."""
    missing = next(_missing(model, checkout), None)
    if missing is not None:
        raise BadConfig(f"{model.name} cannot be trained yet: {missing}")


def _missing(model: Model, checkout: Path) -> Iterator[str]:
    folder = model.config.parents[1]
    for part, expected in PARTS.items():
        path = folder / part
        defined = _defined(path) if path.is_file() else set()
        lacking = [name for name in expected if name not in defined]
        if lacking:
            yield f"{path} lacks {', '.join(lacking)}; see registry.training.Family"
    yield from _missing_of_card(folder / "README.md", model)
    if TINY not in model.stored():
        yield f"{model.config} lacks `{TINY}:`, the settings for its training in tests"
    entry_points = yaml.safe_load((checkout / "MLproject").read_text())["entry_points"]
    if f"train_{model.name}" not in entry_points:
        yield f"MLproject lacks the entry point train_{model.name}; copy train_nbeats"


def _missing_of_card(path: Path, model: Model) -> Iterator[str]:
    if not path.is_file():
        yield f"{path} is missing: the card of every version of the family"
        return
    card = path.read_text()
    heading = f"# Family `{model.family.name}`"
    if not card.startswith(heading):
        yield f"{path} does not begin with {heading}"
    lacking = [word for word in SECTIONS if word not in card]
    if lacking:
        yield f"{path} lacks {', '.join(lacking)}; write a paragraph on each"


def _defined(path: Path) -> set[str]:
    """Names that a module defines at its top level. It is parsed, since imports are slow."""
    defined: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined.add(node.target.id)
        elif isinstance(node, ast.Assign):
            defined |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {alias.asname or alias.name for alias in node.names}
    return defined
