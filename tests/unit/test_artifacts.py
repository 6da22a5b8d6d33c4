"""The manifest: every byte of a version is compared before anything is loaded."""

import json
from pathlib import Path

import pytest

from registry import artifacts
from registry.contract import ModelSpec
from registry.errors import CodeMismatch, Corrupt
from registry.settings import CHECKOUT


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """A folder laid out like a logged version: the real code of `baselines`, a model, MLflow's files."""
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
    artifacts.seal(root)
    return root


def test_a_sealed_version_verifies_and_lists_every_file(version: Path) -> None:
    manifest = artifacts.verify(version, manifest_sha256=artifacts.sha256(version / "manifest.json"))
    found = {p.relative_to(version).as_posix() for p in version.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == found - {"manifest.json"}
    assert manifest["files"]["MLmodel"] == {"sha256": artifacts.sha256(version / "MLmodel"), "size": 12}


def test_one_flipped_byte_in_any_file_is_refused_with_its_name(version: Path) -> None:
    expected = artifacts.sha256(version / "manifest.json")
    for path in [p for p in version.rglob("*") if p.is_file()]:
        whole = path.read_bytes()
        for position in {0, len(whole) // 2, len(whole) - 1}:
            path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
            with pytest.raises(Corrupt, match=path.name):
                artifacts.verify(version, manifest_sha256=expected)
        path.write_bytes(whole)
    artifacts.verify(version, manifest_sha256=expected)


def test_a_missing_an_added_and_a_linked_file_are_refused(version: Path, tmp_path: Path) -> None:
    config = version / "artifacts" / "model" / "config.json"
    config.rename(tmp_path / "elsewhere.json")
    with pytest.raises(Corrupt, match=r"config\.json is missing"):
        artifacts.verify(version)
    config.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(Corrupt, match=r"config\.json differs"):
        artifacts.verify(version)
    config.unlink()
    (tmp_path / "elsewhere.json").rename(config)
    (version / "code" / "sitecustomize.py").write_text("")
    with pytest.raises(Corrupt, match=r"sitecustomize\.py does not belong"):
        artifacts.verify(version)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1}', '{"format": 99, "files": {}}', "\x00"])
def test_an_unreadable_manifest_is_refused(version: Path, content: str) -> None:
    (version / "manifest.json").write_text(content)
    with pytest.raises(Corrupt, match=r"manifest\.json"):
        artifacts.verify(version)


def test_what_mlflow_writes_beside_a_version_is_no_part_of_it(version: Path) -> None:
    (version / "registered_model_meta").write_text("model_name: ewma\n")
    (version / "__pycache__").mkdir()
    (version / "__pycache__" / "loader.pyc").write_bytes(b"\x00")
    assert "registered_model_meta" not in artifacts.verify(version)["files"]


def test_the_running_code_is_the_code_of_a_version_staged_from_it(version: Path) -> None:
    manifest = artifacts.verify(version)
    artifacts.check_code(manifest)
    assert manifest["code_digest"] == artifacts.code_digest(CHECKOUT, "baselines")


def test_other_code_is_refused_by_the_name_of_its_module(version: Path) -> None:
    source = version / "code" / "mlprojects" / "baselines" / "model.py"
    source.write_text(source.read_text() + "# another commit\n")
    artifacts.seal(version)
    with pytest.raises(CodeMismatch, match=r"mlprojects\.baselines\.model would run from"):
        artifacts.check_code(artifacts.verify(version))


def test_a_version_holds_only_the_code_that_inference_needs(version: Path) -> None:
    code = {name for name in json.loads((version / "manifest.json").read_text())["files"] if name.startswith("code/")}
    assert "code/registry/store.py" not in code
    assert "code/mlprojects/__init__.py" not in code
    assert {"code/registry/pyfunc.py", "code/mlprojects/baselines/model.py"} <= code
