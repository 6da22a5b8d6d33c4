"""An incomplete model is refused before training; the message says what to add."""

import inspect
import shutil
from pathlib import Path

import pytest

from jobs.training import completeness, families
from jobs.training.families import Folder, Model
from registry.errors import BadConfig
from registry.settings import CHECKOUT
from registry.training import Family


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one family, a copy of `ssm`."""
    shutil.copytree(CHECKOUT / "mlprojects" / "ssm", tmp_path / "mlprojects" / "ssm")
    shutil.copy(CHECKOUT / "MLproject", tmp_path)
    return tmp_path


def refusal(checkout: Path, path: str, old: str, new: str) -> str:
    """The message after one edit of a file; an empty `old` removes the file."""
    file = checkout / path
    if old:
        content = file.read_text()
        assert old in content
        file.write_text(content.replace(old, new))
    else:
        file.unlink()
    with pytest.raises(BadConfig) as caught:
        completeness.check(
            Model.of(checkout / "mlprojects" / "ssm" / "configs" / "ssm.yaml"), checkout
        )
    assert "\n" not in caught.value.message
    return caught.value.message.replace(str(checkout) + "/", "")


FAMILY = "mlprojects/ssm"


@pytest.mark.parametrize(
    ("path", "old", "new", "missing"),
    [
        (
            "settings.py",
            "def spec(",
            "def needs(",
            f"{FAMILY}/settings.py lacks spec; see registry.training.Family",
        ),
        ("settings.py", "SEARCH:", "SPACE:", f"{FAMILY}/settings.py lacks SEARCH; see"),
        ("settings.py", "", "", f"{FAMILY}/settings.py lacks CONFIGS, SEARCH, spec; see"),
        ("train.py", "def train(", "def fit(", f"{FAMILY}/train.py lacks train; see"),
        ("model.py", "def save(", "def store(", f"{FAMILY}/model.py lacks save; see"),
        ("README.md", "", "", f"{FAMILY}/README.md is missing: the card of every version"),
        (
            "README.md",
            "# Family `ssm`",
            "# S4D",
            f"{FAMILY}/README.md does not begin with # Family `ssm`",
        ),
        ("README.md", "Limits", "Bounds", f"{FAMILY}/README.md lacks Limits; write a paragraph"),
        (
            "configs/ssm.yaml",
            "tiny:",
            "small:",
            f"{FAMILY}/configs/ssm.yaml lacks `tiny:`, the settings for its training",
        ),
        (
            "../../MLproject",
            "train_ssm:",
            "fit_ssm:",
            "MLproject lacks the entry point train_ssm; copy train_nbeats",
        ),
    ],
)
def test_what_is_missing_is_said_in_one_line(
    checkout: Path, path: str, old: str, new: str, missing: str
) -> None:
    message = refusal(checkout, f"{FAMILY}/{path}", old, new)
    assert message.startswith(f"ssm cannot be trained yet: {missing}")


@pytest.mark.parametrize("name", sorted(families.all_models()))
def test_nothing_is_missing_of_our_own(name: str) -> None:
    completeness.check(families.find(name))


@pytest.mark.parametrize(
    "name", sorted({model.family.name for model in families.all_models().values()})
)
def test_every_family_keeps_the_protocol(name: str) -> None:
    """Same names and order of parameters. A family may narrow the types of its settings."""
    folder = Folder(name)
    for part, function in (
        ("settings", "spec"),
        ("train", "train"),
        ("model", "save"),
        ("model", "load"),
    ):
        declared = list(inspect.signature(getattr(Family, function)).parameters)[1:]  # without self
        assert (
            list(inspect.signature(getattr(folder._module(part), function)).parameters) == declared
        ), part
    assert all(isinstance(requirement, str) for requirement in folder.requirements)
    assert set(folder.search) <= set(folder.configs)
