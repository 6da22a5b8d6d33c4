"""The manifest: every byte of a version is compared before anything is loaded."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.errors import CodeMismatch, Corrupt
from registry.forecast.spec import ModelSpec
from registry.settings import CHECKOUT
from registry.versions import artifacts, manifest


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A folder like a logged version: the real code of `baselines`, a model, MLflow's files."""
    staged = tmp_path / "staged"
    artifacts.stage(
        staged,
        CHECKOUT,
        ModelSpec("ewma", "baselines", 60, 1000, 5),
        lambda model: (model / "config.json").write_text("{}"),
    )
    root = tmp_path / "version"
    (root / "artifacts").mkdir(parents=True)
    (staged / "code").rename(root / "code")
    (staged / "model").rename(root / "artifacts" / "model")
    (staged / "loader.py").rename(root / "loader.py")
    (root / "MLmodel").write_text("flavors: {}\n")
    manifest.seal(root)
    return root


def test_a_sealed_version_verifies_and_lists_every_file(version: Path) -> None:
    listed = manifest.verify(version, manifest_sha256=manifest.sha256(version / "manifest.json"))
    files = {p.relative_to(version).as_posix() for p in version.rglob("*") if p.is_file()}
    assert set(listed["files"]) == files - {"manifest.json"}
    assert listed["files"]["MLmodel"] == {
        "sha256": manifest.sha256(version / "MLmodel"),
        "size": 12,
    }


def test_one_flipped_byte_in_any_file_is_refused_with_its_name(version: Path) -> None:
    expected = manifest.sha256(version / "manifest.json")
    for path in [p for p in version.rglob("*") if p.is_file()]:
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            flipped = bytes([content[position] ^ 0x10])
            path.write_bytes(content[:position] + flipped + content[position + 1 :])
            with pytest.raises(Corrupt, match=path.name):
                manifest.verify(version, manifest_sha256=expected)
        path.write_bytes(content)
    manifest.verify(version, manifest_sha256=expected)


def test_a_missing_an_added_and_a_linked_file_are_refused(version: Path, tmp_path: Path) -> None:
    config = version / "artifacts" / "model" / "config.json"
    config.rename(tmp_path / "elsewhere.json")
    with pytest.raises(Corrupt, match=r"config\.json is missing"):
        manifest.verify(version)
    config.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(Corrupt, match=r"config\.json .*is no regular file"):
        manifest.verify(version)
    config.unlink()
    (tmp_path / "elsewhere.json").rename(config)
    (version / "code" / "sitecustomize.py").write_text("")
    with pytest.raises(Corrupt, match=r"sitecustomize\.py does not belong"):
        manifest.verify(version)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "files": {}}', "\x00"]
)
def test_an_unreadable_manifest_is_refused(version: Path, content: str) -> None:
    (version / "manifest.json").write_text(content)
    with pytest.raises(Corrupt, match=r"manifest\.json"):
        manifest.verify(version)


def test_what_mlflow_and_python_write_beside_a_version_is_no_part_of_it(version: Path) -> None:
    (version / "registered_model_meta").write_text("model_name: ewma\n")
    cache = version / "code" / "registry" / "__pycache__"
    cache.mkdir()
    (cache / "errors.cpython-311.pyc").write_bytes(b"\x00")
    (cache / "codes.cpython-311.pyc.140003").touch()  # Python is writing it
    files = manifest.verify(version)["files"]
    assert not [name for name in files if "meta" in name or "__pycache__" in name]
    assert (cache / "errors.cpython-311.pyc").exists()  # verify changes nothing


def link(path: Path) -> None:
    path.symlink_to(path.parent)


STRANGE: list[tuple[str, Callable[[Path], None]]] = [
    *((name, link) for name in ("__pycache__", "registered_model_meta", "more", "code/more")),
    *((name, os.mkfifo) for name in ("__pycache__", "registered_model_meta", "code/more")),
    *((name, Path.mkdir) for name in ("registered_model_meta", "more", "artifacts/model/more")),
    *((name, Path.touch) for name in ("__pycache__", "code/__pycache__", "more.py")),
    ("code/registered_model_meta", Path.touch),
    ("artifacts/model/manifest.json", Path.touch),
]


@pytest.mark.parametrize(("name", "make"), STRANGE)
def test_nothing_but_files_that_the_manifest_names_is_in_a_version(
    version: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(version / name)
    with pytest.raises(Corrupt, match=f"{name} does not belong to this version"):
        manifest.verify(version)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("errors.py", Path.touch),
        ("fast.so", Path.touch),
        ("a.pyc.so", Path.touch),
        ("a.pyc", Path.mkdir),
        ("a.pyc", link),
        ("a.pyc", os.mkfifo),
    ],
)
def test_a_bytecode_cache_holds_bytecode_only(
    version: Path, name: str, make: Callable[[Path], None]
) -> None:
    cache = version / "code" / "__pycache__"
    cache.mkdir()
    make(cache / name)
    with pytest.raises(Corrupt, match=f"{name} does not belong to this version"):
        manifest.verify(version)


def test_a_private_copy_holds_what_the_manifest_names_and_no_bytecode(
    version: Path, tmp_path: Path
) -> None:
    registered = manifest.sha256(version / "manifest.json")
    (version / "registered_model_meta").write_text("model_name: ewma\n")
    cache = version / "code" / "registry" / "__pycache__"
    cache.mkdir()
    (cache / "errors.cpython-311.pyc").write_bytes(b"\x00")
    copied = tmp_path / "copied"
    copied.mkdir()
    manifest.private_copy(version, copied, registered)
    files = {path.relative_to(copied).as_posix() for path in copied.rglob("*") if path.is_file()}
    assert files == {"manifest.json", *manifest.read(version)["files"]}
    (tmp_path / "other").mkdir()
    with pytest.raises(Corrupt, match="is not the manifest that was registered"):
        manifest.private_copy(version, tmp_path / "other", "0" * 64)


def test_the_running_code_is_the_code_of_a_version_staged_from_it(version: Path) -> None:
    listed = manifest.verify(version)
    manifest.check_code(listed)
    assert listed["code_digest"] == artifacts.code_digest(CHECKOUT, "baselines")


def test_other_code_is_refused_by_the_name_of_its_module(version: Path) -> None:
    source = version / "code" / "mlprojects" / "baselines" / "model.py"
    source.write_text(source.read_text() + "# another commit\n")
    manifest.seal(version)
    with pytest.raises(CodeMismatch, match=r"mlprojects\.baselines\.model would run from"):
        manifest.check_code(manifest.verify(version))


def test_code_that_was_edited_while_this_process_ran_is_other_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module in memory is still the old one."""
    source = tmp_path / "edited_later.py"
    source.write_text("ANSWER = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = {"files": {"code/edited_later.py": {"sha256": manifest.sha256(source)}}}
    manifest.check_code(before)
    source.write_text("ANSWER = 2\n")
    after = {"files": {"code/edited_later.py": {"sha256": manifest.sha256(source)}}}
    with pytest.raises(CodeMismatch, match="edited_later would run from"):
        manifest.check_code(after)
    manifest.check_code(before)


def test_a_version_holds_only_the_code_that_inference_needs(version: Path) -> None:
    files = json.loads((version / "manifest.json").read_text())["files"]
    code = {name for name in files if name.startswith("code/")}
    assert "code/registry/versions/store.py" not in code
    assert "code/mlprojects/__init__.py" not in code
    assert {"code/registry/versions/pyfunc.py", "code/mlprojects/baselines/model.py"} <= code
