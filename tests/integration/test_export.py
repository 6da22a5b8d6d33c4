"""`python -m registry export`: a checked folder that serves a version without its registry."""

import json
import shutil
from pathlib import Path

import httpx
import pytest

from registry.errors import Corrupt, NotFound
from registry.promotion import moves
from registry.promotion.exporting import export
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import exported, manifest
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from serving.scorer import Scorer


def promote(bench, name, version, stage="Production"):
    moves.promote(bench.store, bench.ledger, name, version, stage, who="tests", why="")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "exports" / "model"


def names(directory):
    return sorted(path.name for path in directory.iterdir())


def test_what_is_in_production_is_exported_whole(bench, answer, folder):
    name = bench.model(2)
    promote(bench, name, 1)
    result = answer("export", name, "--stage", "Production", "--to", folder)
    version = bench.store.version(name, 1)
    written = exported.read(folder)
    assert result["changed"] is True
    assert result["model_dir"] == str(folder / "model") == str(written.root)
    assert (result["name"], result["version"], result["stage"]) == (name, 1, "Production")
    assert json.loads((folder / "exported.json").read_text()) == written.to_json()
    assert (written.name, written.version, written.stage) == (name, 1, "Production")
    assert written.manifest_sha256 == version.tags[MANIFEST_TAG]
    assert written.registry == bench.ledger.registry
    assert written.facts == bench.store.facts(version)
    assert written.facts["stage"] == "Production"
    assert manifest.read(written.root) == manifest.read(bench.store.fetch(version))
    assert names(folder.parent) == ["model"]


def test_a_sentence_says_what_was_done_and_when_nothing_was(bench, cli, folder):
    name = bench.model(1)
    promote(bench, name, 1)
    code, out, err = cli("export", name, "--to", folder)
    assert (code, out) == (0, f"models:/{name}/1 is in {folder}\n")
    assert err == f"verifying models:/{name}/1 and copying its files\n"
    before = exported.read(folder)
    code, out, _ = cli("export", name, "--to", folder)
    at = f"{before.exported_at:%Y-%m-%d %H:%M} UTC"
    sentence = f"models:/{name}/1 is in {folder} already, exported {at} in Production\n"
    assert (code, out) == (0, sentence)
    assert exported.read(folder) == before


def test_a_version_is_named_by_stage_number_or_alias(bench, answer, tmp_path):
    name = bench.model(3)
    promote(bench, name, 1)
    promote(bench, name, 2, "Staging")
    by_reference = {name: 1, f"{name}@staging": 2, f"{name}/3": 3, f"{name}/latest": 3}
    for number, (reference, version) in enumerate(by_reference.items()):
        result = answer("export", reference, "--to", tmp_path / f"by_reference_{number}")
        assert result["version"] == version
        assert result["stage"] == {1: "Production", 2: "Staging", 3: ""}[version]
    result = answer("export", name, "--stage", "staging", "--to", tmp_path / "by_stage")
    assert result["version"] == 2


@pytest.mark.parametrize(
    ("reference", "stage", "message"),
    [
        ("har/3", "Production", "error: BAD_PARAMETER: har/3 names a version, so leave --stage "),
        ("har@staging", "Staging", "error: BAD_PARAMETER: har@staging names a version"),
        ("har", "Archived", "error: BAD_STAGE: stage is 'Archived', expected one of Production, S"),
        ("har", "best", "error: BAD_STAGE: stage is 'Best', expected one of Production, Staging"),
        ("no_such_model", "", "error: NOT_FOUND: no model 'no_such_model' is registered"),
    ],
)
def test_a_wrong_request_is_refused(cli, folder, reference, stage, message):
    words = ("--stage", stage) if stage else ()
    code, out, err = cli("export", reference, *words, "--to", folder)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert not folder.exists()


def test_a_folder_that_is_in_use_is_refused(bench, cli, folder):
    name = bench.model(2)
    promote(bench, name, 1)
    assert cli("export", name, "--to", folder)[0] == 0
    code, out, err = cli("export", f"{name}/2", "--to", folder)
    assert (code, out) == (1, "")
    assert f"error: CONFLICT: {folder} holds {name}/1 (manifest " in err
    code, out, err = cli("export", name, "--to", folder.parent)
    assert (code, out) == (1, "")
    assert f"error: CONFLICT: {folder.parent} is not empty and no exported version" in err
    assert exported.read(folder).version == 1


def test_an_exchanged_version_is_not_exported(bench, cli, folder):
    """Files, manifest and tag were exchanged together after a promotion: only the ledger knows."""
    version = bench.model_of_its_own()
    promote(bench, version.name, 1)
    root = bench.store.fetch(version)
    (root / "artifacts" / "model" / "config.json").write_text('{"kind": "naive"}\n')
    bench.store.set_tag(version.name, 1, MANIFEST_TAG, manifest.seal(root))
    bench.store.fetch(bench.store.version(version.name, 1))
    code, out, err = cli("export", version.name, "--to", folder)
    assert (code, out) == (1, "")
    assert f"error: CORRUPT: {version.uri} is not what promotion 1 saw" in err
    assert not folder.parent.exists()


def test_a_damaged_or_foreign_version_is_not_exported(bench, folder):
    damaged = bench.model_of_its_own()
    (bench.store.fetch(damaged) / "MLmodel").write_text("flavors: {}\n")
    with pytest.raises(Corrupt, match="MLmodel differs"):
        export(bench.store, bench.ledger, damaged, folder)
    foreign = bench.store.version(bench.model(1), 1)
    bench.store.delete_tag(foreign.name, 1, MANIFEST_TAG)
    with pytest.raises(NotFound, match="it was not logged by Kronos Registry"):
        export(bench.store, bench.ledger, bench.store.version(foreign.name, 1), folder)
    assert not folder.parent.exists()


def test_an_export_is_served_where_its_registry_is_gone(registered: Settings, folder: Path):
    """The stock server on the folder alone. Its replies name the version."""
    store = Store(registered)
    version = store.resolve("ewma/1")
    with open_ledger(store) as ledger:
        written = export(store, ledger, version, folder)
    request = store.example_request(version)
    shutil.rmtree(store.fetch(version))
    with Scorer(registered, version, written.root, host="127.0.0.1", port=0) as scorer:
        scorer.wait_ready()
        reply = httpx.post(f"{scorer.url}/invocations", json=request, timeout=60)
    assert reply.status_code == 200, reply.text
    assert {row["notes"] for row in reply.json()["predictions"]} == {"ewma version 1"}
    assert exported.read(folder) == written  # bytecode that the server wrote does no harm
