"""Which files of this project a module runs, by reading the sources."""

from pathlib import Path

import pytest

from registry.errors import KronosError
from registry.versions.closure import closure


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Packages `registry` and `mlprojects.family` whose files import nothing yet."""
    for name in (
        "registry/__init__.py",
        "registry/errors.py",
        "registry/store.py",
        "mlprojects/family/model.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def imported(checkout: Path, source: str) -> set[str]:
    """Files, beside its own, that a model with this source runs."""
    model = checkout / "mlprojects" / "family" / "model.py"
    model.write_text(source)
    files = {path.as_posix() for path in closure(checkout, "mlprojects.family.model")}
    return files - {"mlprojects/family/model.py"}


ERRORS = {"registry/__init__.py", "registry/errors.py"}


@pytest.mark.parametrize(
    ("source", "files"),
    [
        ("import json, numpy\n", set()),
        ("import registry.errors\n", ERRORS),
        ("from registry import errors\n", ERRORS),
        ("from registry.errors import KronosError\n", ERRORS),
        ("def load():\n    from registry import errors\n", ERRORS),
        ("try:\n    import registry.errors\nexcept ImportError:\n    pass\n", ERRORS),
        ("if TYPE_CHECKING:\n    import registry.store\n", set()),
        (
            "if typing.TYPE_CHECKING:\n    import registry.store\n"
            "else:\n    import registry.errors\n",
            ERRORS,
        ),
        ("if not TYPE_CHECKING:\n    import registry.errors\n", ERRORS),
        ("from registry import nothing_of_this_name\n", {"registry/__init__.py"}),
    ],
)
def test_what_a_module_runs_is_what_it_imports(
    checkout: Path, source: str, files: set[str]
) -> None:
    assert imported(checkout, source) == files


def test_imports_of_imports_count_and_circles_end(checkout: Path) -> None:
    (checkout / "registry" / "errors.py").write_text("import registry.store\n")
    (checkout / "registry" / "store.py").write_text("import registry.errors\n")
    assert imported(checkout, "import registry.errors\n") == {*ERRORS, "registry/store.py"}


def test_an_edited_file_is_read_again(checkout: Path) -> None:
    assert imported(checkout, "import registry.errors\n") == ERRORS
    other_size = "import json  # and nothing of ours, in a file of another size\n"
    assert imported(checkout, other_size) == set()


def test_a_relative_import_is_refused(checkout: Path) -> None:
    with pytest.raises(KronosError, match=r"model\.py:2: a relative import; name the package"):
        imported(checkout, "\nfrom .blocks import head\n")
