"""Where the supervisor takes versions from: registry, exported folder, and its own copies."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from registry.errors import BadConfig, Corrupt, KronosError, NotFound
from registry.processes import this_process
from registry.promotion import moves
from registry.promotion.exporting import export
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions import exported, manifest
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.store import Store
from registry.versions.version import Version
from serving.supervisor.access import RegistryAccess, is_outage
from serving.supervisor.candidates import Candidate, Pointer
from serving.supervisor.sources import FolderSource, RegistrySource, Source, source_of

Log = Callable[..., Version]


@pytest.fixture
def store(new_registry: Callable[[Path], Settings], tmp_path: Path, log_a_version: Log) -> Store:
    """A registry on SQLite with ewma/1 in Production, ewma/2 in Staging and ewma/3."""
    store = Store(new_registry(tmp_path / "var"))
    for _ in range(3):
        log_a_version(store.settings, store, {"crps": 0.005})
    promote(store, 1)
    promote(store, 2, "Staging")
    return store


def promote(store: Store, number: int, stage: str = "Production", name: str = "ewma") -> None:
    with open_ledger(store) as ledger:
        moves.promote(store, ledger, name, number, stage, who="tests", why="")


def source(settings: Settings, reference: str = "ewma", stage: str = "Production") -> Source:
    return source_of(settings, RegistryAccess(settings), reference, stage)


def only(pointers: list[Pointer]) -> Pointer:
    [pointer] = pointers
    return pointer


def flip(path: Path) -> None:
    """Change one bit of a file."""
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def config_of(root: Path) -> Path:
    return root / manifest.MODEL_DIR / "config.json"


@pytest.mark.parametrize(
    ("reference", "stage", "version", "shown"),
    [
        ("ewma", "Production", 1, "Production"),
        ("ewma", "staging", 2, "Staging"),
        ("ewma@staging", "Production", 2, "Staging"),
        ("ewma/3", "Staging", 3, ""),
        ("models:/ewma/1", "Staging", 1, "Production"),
    ],
)
def test_a_reference_names_a_version_and_its_stage(
    store: Store, reference: str, stage: str, version: int, shown: str
) -> None:
    pointer = only(source(store.settings, reference, stage).look())
    assert (pointer.name, pointer.version, pointer.stage) == ("ewma", version, shown)
    assert pointer.manifest == store.version("ewma", version).tags[MANIFEST_TAG]


def test_a_fetched_version_lies_in_a_verified_folder_of_its_own(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = only(of_ewma.look())
    candidate = of_ewma.fetch(pointer)
    folder = store.settings.var_dir / "serving" / "ewma" / f"1-{pointer.manifest[:12]}"
    assert candidate.root == folder.resolve() / "model"
    manifest.verify(candidate.root, manifest_sha256=pointer.manifest)
    assert candidate.spec == store.spec(store.version("ewma", 1)).to_json()
    assert candidate.facts["family"] == "baselines"
    with open_ledger(store) as ledger:
        assert candidate.registry == ledger.registry


def test_a_look_is_cheap_and_reads_no_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    of_ewma = source(store.settings)
    of_ewma.look()
    monkeypatch.setattr(manifest, "sha256", lambda _: pytest.fail("a file was read"))
    begun = time.monotonic()
    for _ in range(20):
        of_ewma.look()
    assert time.monotonic() - begun < 2
    assert not (store.settings.var_dir / "serving").exists()


def test_an_intact_copy_is_not_made_again(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = only(of_ewma.look())
    root = of_ewma.fetch(pointer).root
    before = root.stat().st_ino
    shutil.rmtree(store.fetch(store.version("ewma", 1)))  # the artifact store is not asked again
    assert of_ewma.fetch(pointer).root == root
    assert root.stat().st_ino == before


def test_a_damaged_copy_is_refused_and_made_again_from_the_registry(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = only(of_ewma.look())
    candidate = of_ewma.fetch(pointer)
    flip(config_of(candidate.root))
    with pytest.raises(Corrupt, match="differs from what was registered"):
        of_ewma.copies.verified(pointer)
    again = of_ewma.fetch(pointer)
    assert again == candidate
    assert of_ewma.copies.verified(pointer) == candidate


def test_a_flipped_byte_in_the_registry_is_refused(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = only(of_ewma.look())
    flip(config_of(store.fetch(store.version("ewma", 1))))
    with pytest.raises(Corrupt, match="differs from what was registered") as raised:
        of_ewma.fetch(pointer)
    assert not is_outage(raised.value)
    assert not of_ewma.copies.path(pointer).exists()


@pytest.mark.parametrize("copied", [False, True])
def test_files_that_were_exchanged_with_their_manifest_and_tag_are_refused(
    store: Store, *, copied: bool
) -> None:
    """Only the promotion in the ledger shows it, whether or not there is a copy."""
    of_ewma = source(store.settings)
    version = store.version("ewma", 1)
    root = store.fetch(version)
    config_of(root).write_text(config_of(root).read_text() + "\n")
    store.set_tag("ewma", 1, MANIFEST_TAG, manifest.seal(root))
    pointer = only(of_ewma.look())
    if copied:
        copy = of_ewma.copies.path(pointer)
        exported.write(
            root, copy, store.version("ewma", 1), stage="Production", facts={}, registry=""
        )
    with pytest.raises(Corrupt, match="is not what promotion 1 saw"):
        of_ewma.fetch(pointer)


def test_a_version_whose_manifest_changed_after_the_look_is_looked_at_again(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = replace(only(of_ewma.look()), manifest="0" * 64)
    with pytest.raises(KronosError, match="another manifest than a moment ago") as raised:
        of_ewma.fetch(pointer)
    assert is_outage(raised.value)


def test_nothing_in_a_stage_is_no_outage(store: Store) -> None:
    with pytest.raises(NotFound) as raised:
        source(store.settings, "ewma@challenger").look()
    assert not is_outage(raised.value)


def test_the_reason_of_a_failure_is_a_tag_until_the_version_is_served(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = only(of_ewma.look())
    of_ewma.mark(pointer, "CORRUPT: " + "x" * 1000)
    tag = store.version("ewma", 1).tags["load_failed"]
    assert tag.startswith("CORRUPT: xxx")
    assert len(tag) == 400
    of_ewma.mark(pointer, "")
    of_ewma.mark(pointer, "")
    assert "load_failed" not in store.version("ewma", 1).tags


# --- copies


def fetched(of_model: Source, pointer: Pointer) -> Candidate:
    candidate = of_model.fetch(pointer)
    of_model.copies.keep(pointer, {candidate.key})
    return candidate


def test_what_is_served_and_the_one_before_are_kept_and_others_removed(store: Store) -> None:
    of_ewma = source(store.settings)
    pointers = []
    for number in (1, 2, 3):
        promote(store, number)
        pointers.append(only(of_ewma.look()))
        fetched(of_ewma, pointers[-1])
    folder = of_ewma.copies.folder
    names = {path.name for path in folder.iterdir()}
    assert names == {"current.json", *(pointer.folder_name for pointer in pointers[1:])}
    assert of_ewma.copies.served_last() == pointers[2]
    of_ewma.copies.keep(pointers[2], ())  # a restart of the same version forgets nothing
    assert {path.name for path in folder.iterdir()} == names


def test_copies_that_are_in_use_are_kept(store: Store) -> None:
    of_ewma = source(store.settings)
    keys = []
    for number in (1, 2, 3):
        promote(store, number)
        pointer = only(of_ewma.look())
        keys.append(of_ewma.fetch(pointer).key)
        of_ewma.copies.keep(pointer, keys)
    assert len(list(of_ewma.copies.folder.iterdir())) == 4


def test_a_copy_that_another_gateway_uses_is_not_removed(store: Store) -> None:
    """Both have the same folder. The other one is behind: it has not taken up what is promoted."""
    other, of_ewma = source(store.settings), source(store.settings)
    old = only(other.look())
    candidate = fetched(other, old)
    for number in (2, 3):
        promote(store, number)
        fetched(of_ewma, only(of_ewma.look()))
    assert other.copies.verified(old).root == candidate.root
    fetched(other, only(other.look()))  # it takes up ewma/3, so nobody holds the copy of ewma/1
    assert not candidate.root.exists()


def test_what_a_killed_removal_or_copy_left_is_replaced_or_swept(store: Store) -> None:
    of_ewma = source(store.settings)
    pointer = only(of_ewma.look())
    candidate = of_ewma.fetch(pointer)
    (candidate.root.parent / exported.RECORD).unlink()  # the first file that went
    assert of_ewma.fetch(pointer) == candidate
    dead = replace(this_process(), started="").mark.replace(f"-{os.getpid()}-", "-999999999-")
    unfinished = of_ewma.copies.folder / f"2-{'a' * 12}@{dead}@x"
    unfinished.mkdir()
    of_ewma.copies.keep(pointer, {candidate.key})
    assert not unfinished.exists()
    assert candidate.root.exists()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"served": {"name": "ewma"}}', "\x00"])
def test_a_record_that_cannot_be_read_is_none(store: Store, content: str) -> None:
    copies = source(store.settings).copies
    assert copies.served_last() is None
    copies.folder.mkdir(parents=True)
    (copies.folder / "current.json").write_text(content)
    assert copies.served_last() is None


def test_with_the_tracking_database_gone_the_version_served_last_is_there(store: Store) -> None:
    before = source(store.settings)
    pointer = only(before.look())
    candidate = fetched(before, pointer)
    down = Settings(
        var_dir=store.settings.var_dir,
        tracking_uri="postgresql+psycopg2://nobody@127.0.0.1:9/none",
    )
    after = source(down)
    with pytest.raises(KronosError) as raised:
        after.look()
    assert raised.value.code == "TRACKING_UNAVAILABLE"
    assert is_outage(raised.value)
    last = after.copies.served_last()
    assert last == pointer
    assert after.copies.verified(last) == candidate
    flip(config_of(candidate.root))
    with pytest.raises(Corrupt):
        after.copies.verified(last)


def test_with_the_ledger_gone_a_look_succeeds_and_a_fetch_is_an_outage(store: Store) -> None:
    down = Settings(
        var_dir=store.settings.var_dir,
        ledger_uri="postgresql+psycopg2://nobody@127.0.0.1:9/none",
    )
    of_ewma = source(down)
    pointer = only(of_ewma.look())
    with pytest.raises(KronosError) as raised:
        of_ewma.fetch(pointer)
    assert raised.value.code == "LEDGER_UNAVAILABLE"
    assert is_outage(raised.value)


# --- an exported folder


@pytest.fixture
def folder(store: Store, tmp_path: Path) -> Path:
    """ewma/1, exported."""
    with open_ledger(store) as ledger:
        export(store, ledger, store.version("ewma", 1), tmp_path / "exported")
    return tmp_path / "exported"


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Settings:
    """Settings with the folder and without any registry."""
    monkeypatch.setenv("KRONOS_EWMA_MODEL_DIR", str(folder))
    nobody = "postgresql+psycopg2://nobody@127.0.0.1:9/none"
    return Settings(var_dir=tmp_path / "other", tracking_uri=nobody, ledger_uri=nobody)


def test_a_folder_is_served_without_a_registry(store: Store, alone: Settings) -> None:
    of_ewma = source(alone)
    pointer = only(of_ewma.look())
    version = store.version("ewma", 1)
    assert pointer == Pointer("ewma", 1, version.tags[MANIFEST_TAG], "Production")
    candidate = of_ewma.fetch(pointer)
    assert candidate.root.is_relative_to(alone.var_dir.resolve())
    assert candidate.spec == store.spec(version).to_json()
    of_ewma.mark(pointer, "a reason")  # there is nowhere to write it


def test_a_folder_wins_over_the_reference_and_its_change_is_noticed(
    store: Store, alone: Settings, folder: Path
) -> None:
    of_ewma = source(alone, "ewma/3")
    first = only(of_ewma.look())
    of_ewma.fetch(first)
    shutil.rmtree(folder)
    with open_ledger(store) as ledger:
        export(store, ledger, store.version("ewma", 2), folder)
    second = only(of_ewma.look())
    assert (first.version, second.version) == (1, 2)
    assert of_ewma.fetch(second).key == second.key


def test_a_damaged_folder_is_refused_and_its_earlier_copy_stays(
    alone: Settings, folder: Path
) -> None:
    of_ewma = source(alone)
    pointer = only(of_ewma.look())
    flip(config_of(folder / "model"))
    with pytest.raises(Corrupt, match="differs from what was registered"):
        of_ewma.fetch(pointer)
    flip(config_of(folder / "model"))
    candidate = of_ewma.fetch(pointer)
    flip(config_of(folder / "model"))
    assert of_ewma.fetch(pointer) == candidate


def test_a_folder_without_a_version_or_with_another_model_is_refused(
    alone: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRONOS_HAR_MODEL_DIR", str(folder))
    settings = Settings(var_dir=alone.var_dir)
    with pytest.raises(BadConfig, match="KRONOS_HAR_MODEL_DIR holds ewma/1"):
        source(settings, "har").look()
    record = folder / "exported.json"
    record.write_text(json.dumps({"version": 1}))
    with pytest.raises(Corrupt, match="cannot be read"):
        source(alone).look()
    shutil.rmtree(folder)
    with pytest.raises(NotFound, match="holds no exported version"):
        source(alone).look()


# --- kronos and its simulator


@pytest.fixture
def both(store: Store, log_a_version: Log) -> Store:
    """With kronos/1 and kronos_simulated/1 in Production. No test loads them."""
    for name in ("kronos", "kronos_simulated"):
        log_a_version(store.settings, store, {"crps": 0.005}, name)
        promote(store, 1, name=name)
    return store


@pytest.mark.parametrize(
    ("mode", "names"),
    [
        ("auto", ["kronos", "kronos_simulated"]),
        ("kronos", ["kronos"]),
        ("simulated", ["kronos_simulated"]),
    ],
)
def test_the_mode_decides_which_models_may_answer_for_kronos(
    both: Store, mode: str, names: list[str]
) -> None:
    settings = Settings(var_dir=both.settings.var_dir, mode=mode)
    pointers = source(settings, "kronos").look()
    assert [pointer.name for pointer in pointers] == names
    for pointer in pointers:
        assert bool(pointer.instead) == (pointer.name == "kronos_simulated")
    assert [pointer.name for pointer in source(settings, "kronos/1").look()] == ["kronos"]


def test_without_kronos_the_simulator_alone_is_named(both: Store) -> None:
    both.delete_alias("kronos", "production")
    [pointer] = source(both.settings, "kronos").look()
    assert (pointer.name, pointer.instead) == (
        "kronos_simulated",
        "no version of kronos is ready (KRONOS_MODE=auto)",
    )
    both.delete_alias("kronos_simulated", "production")
    with pytest.raises(NotFound, match="kronos has nothing in production"):
        source(both.settings, "kronos").look()


def test_a_folder_may_hold_the_simulator_for_kronos(
    both: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "simulator"
    with open_ledger(both) as ledger:
        export(both, ledger, both.version("kronos_simulated", 1), folder)
    monkeypatch.setenv("KRONOS_KRONOS_MODEL_DIR", str(folder))
    of_kronos = source(Settings(var_dir=tmp_path / "other"), "kronos")
    assert isinstance(of_kronos, FolderSource)
    assert only(of_kronos.look()).instead == "it is what KRONOS_KRONOS_MODEL_DIR holds"
    assert isinstance(source(both.settings), RegistrySource)
