"""The name and number of a version, as MLflow writes them beside its files."""

from pathlib import Path

import pytest
from mlflow.utils.yaml_utils import write_yaml

from registry.forecast.identity import Identity
from registry.versions import manifest, registration


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / manifest.MANIFEST).write_text("{}\n")
    return tmp_path


@pytest.fixture
def digest(root: Path) -> str:
    return manifest.sha256(root / manifest.MANIFEST)


@pytest.mark.parametrize(("name", "number"), [("nbeats", "12"), ("nbeats", 12), ("007", "12")])
def test_what_mlflow_writes_is_read(root: Path, digest: str, name: str, number: str | int) -> None:
    meta = {"model_name": name, "model_version": number}
    write_yaml(str(root), manifest.MLFLOWS, meta, ensure_yaml_extension=False)
    identity = registration.identity(root, "trained_as")
    assert identity == Identity(name, 12, digest)
    assert identity.note == f"{name} version 12"


def test_our_file_is_that_of_mlflow(root: Path, digest: str) -> None:
    meta = {"model_name": "nbeats", "model_version": "12"}
    write_yaml(str(root), "expected", meta, ensure_yaml_extension=False)
    registration.write(root, "nbeats", 12)
    assert (root / manifest.MLFLOWS).read_text() == (root / "expected").read_text()
    assert registration.identity(root, "nbeats") == Identity("nbeats", 12, digest)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "model_name: nbeats\n",
        "model_version: '3'\n",
        "model_name: </script>\nmodel_version: '3'\n",
        "model_name: nbeats\nmodel_version: '3 or so'\n",
        "model_name: nbeats\nmodel_version: -3\n",
    ],
)
def test_without_a_readable_file_a_version_is_known_by_its_manifest(
    root: Path, digest: str, text: str | None
) -> None:
    if text is not None:
        (root / manifest.MLFLOWS).write_text(text)
    identity = registration.identity(root, "nbeats")
    assert identity == Identity("nbeats", None, digest)
    assert identity.note == f"nbeats manifest {digest[:12]}"
    assert identity.fields == {"model": "nbeats", "version": None, "manifest": digest[:12]}
