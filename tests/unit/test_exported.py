"""Exported versions: a folder appears whole or not at all, and every byte of it is checked."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.errors import Conflict, Corrupt, KronosError, NotFound
from registry.forecast.identity import Identity
from registry.settings import CHECKOUT
from registry.versions import exported, manifest, registration
from registry.versions.exported import Exported
from registry.versions.manifest import MANIFEST_TAG
from registry.versions.version import Version

FACTS = {"family": "baselines", "data": "panel", "trained_until": "2018-12-31"}


def make_version(root: Path, number: int = 3) -> Version:
    """A sealed version of a few files; those of each number differ."""
    (root / "code" / "registry").mkdir(parents=True)
    (root / "code" / "registry" / "errors.py").write_text("class KronosError: ...\n")
    (root / "MLmodel").write_text(f"flavors: {number}\n")
    (root / "artifacts" / "model").mkdir(parents=True)
    (root / "artifacts" / "model" / "weights.bin").write_bytes(bytes(range(256)))
    return Version(
        name="har",
        version=number,
        stage="None",
        tags={MANIFEST_TAG: manifest.seal(root), "data": "panel"},
        aliases=("production",),
        run_id="",
        created_at=datetime.now(UTC),
        source="",
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "registered"


@pytest.fixture
def version(root: Path) -> Version:
    return make_version(root)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where versions are exported to; it does not exist yet."""
    return tmp_path / "exports" / "har"


def write(root: Path, folder: Path, version: Version, stage: str = "Production") -> Exported:
    return exported.write(root, folder, version, stage=stage, facts=FACTS, registry="r1")


@pytest.fixture
def written(root: Path, folder: Path, version: Version) -> Exported:
    return write(root, folder, version)


def files(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def change(folder: Path, **values: object) -> None:
    """Edit exported.json; None removes a key."""
    path = folder / exported.RECORD
    record = json.loads(path.read_text()) | values
    kept = {key: value for key, value in record.items() if value is not None}
    path.write_text(json.dumps(kept))


def test_what_was_written_is_read(folder: Path, version: Version, written: Exported) -> None:
    assert exported.read(folder) == written
    assert written.root == folder / "model"
    assert (written.reference, written.stage, written.registry) == ("har/3", "Production", "r1")
    assert written.manifest_sha256 == version.tags[MANIFEST_TAG]
    assert written.facts == FACTS
    age = datetime.now(UTC) - written.exported_at
    assert timedelta(0) <= age < timedelta(minutes=1)
    assert json.loads((folder / "exported.json").read_text()) == written.to_json()
    assert names(folder) == ["exported.json", "model"]
    assert names(folder.parent) == ["har"]


def test_the_model_has_the_files_of_the_version_and_its_number(
    root: Path, version: Version, written: Exported
) -> None:
    copied = files(written.root)
    meta = copied.pop(manifest.MLFLOWS)
    assert copied == files(root)
    assert meta.decode() == registration.text("har", 3)
    identity = registration.identity(written.root, "har")
    assert identity == Identity("har", 3, version.tags[MANIFEST_TAG])


def test_bytecode_is_not_exported_and_may_appear_later(
    root: Path, folder: Path, version: Version
) -> None:
    cache = Path("code", "registry", "__pycache__")
    (root / cache).mkdir()
    (root / cache / "errors.cpython-311.pyc").write_bytes(b"1")
    written = write(root, folder, version)
    assert not (written.root / cache).exists()
    (written.root / cache).mkdir()  # as `mlflow models serve` leaves it
    (written.root / cache / "errors.cpython-311.pyc").write_bytes(b"2")
    assert exported.read(folder) == written


def test_the_same_export_again_changes_nothing(
    root: Path, folder: Path, version: Version, written: Exported
) -> None:
    before = files(folder)
    assert write(root, folder, version, stage="Staging") == written
    assert files(folder) == before
    assert names(folder.parent) == ["har"]


def test_an_empty_folder_and_a_link_to_one_are_filled(
    root: Path, tmp_path: Path, version: Version
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    written = write(root, tmp_path / "link", version)
    assert written.root == tmp_path / "empty" / "model"
    assert exported.read(tmp_path / "link") == exported.read(tmp_path / "empty") == written


@pytest.mark.usefixtures("written")
def test_another_version_is_not_replaced(tmp_path: Path, folder: Path) -> None:
    before = files(folder)
    newer = make_version(tmp_path / "newer", 4)
    message = r"har holds har/3 \(manifest [0-9a-f]{12}\), not har/4 .*; name another folder, or"
    with pytest.raises(Conflict, match=message):
        write(tmp_path / "newer", folder, newer)
    again = make_version(tmp_path / "again", 5)
    renumbered = Version(**{**vars(again), "version": 3})  # deleted, and registered anew
    with pytest.raises(Conflict, match=r"holds har/3 .*, not har/3 "):
        write(tmp_path / "again", folder, renumbered)
    assert files(folder) == before


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "model"])
def test_a_folder_with_other_content_is_refused(
    root: Path, folder: Path, version: Version, name: str
) -> None:
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    with pytest.raises(Conflict, match="is not empty and no exported version; name a folder that"):
        write(root, folder, version)
    assert files(folder) == {name: b"mine"}


def test_a_file_in_the_place_of_the_folder_is_refused(
    root: Path, folder: Path, version: Version
) -> None:
    folder.parent.mkdir()
    folder.write_text("mine")
    with pytest.raises(Conflict, match="no exported version"):
        write(root, folder, version)
    with pytest.raises(KronosError, match="cannot write") as caught:
        write(root, folder / "below", version)
    assert caught.value.code == "NOT_WRITABLE"
    assert folder.read_text() == "mine"


def test_the_current_folder_is_not_replaced(
    root: Path, folder: Path, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for to in (Path(), folder):
        with pytest.raises(Conflict, match="is the current folder"):
            write(root, to, version)
    assert Path.cwd() == folder
    assert not any(folder.iterdir())


@pytest.mark.usefixtures("written")
def test_a_foreign_file_beside_an_export_is_refused(
    root: Path, folder: Path, version: Version
) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Corrupt, match=r"notes\.txt does not belong to an exported version; remove"):
        exported.read(folder)
    with pytest.raises(Conflict, match="name a folder that is new or empty"):
        write(root, folder, version)


def test_a_damaged_export_is_neither_read_nor_taken_for_whole(
    root: Path, folder: Path, version: Version, written: Exported
) -> None:
    (written.root / "MLmodel").write_text("flavors: 9\n")
    message = f"MLmodel differs from what was registered .*; remove {folder} and export"
    with pytest.raises(Corrupt, match=message):
        exported.read(folder)
    with pytest.raises(Corrupt, match=message):
        write(root, folder, version)


def test_damaged_files_are_not_exported(root: Path, folder: Path, version: Version) -> None:
    (root / "MLmodel").write_text("flavors: 9\n")
    with pytest.raises(Corrupt, match="MLmodel"):
        write(root, folder, version)
    assert names(folder.parent) == []


# --- read -------------------------------------------------------------------------------------


def test_one_flipped_byte_in_any_file_of_the_model_is_refused(
    folder: Path, written: Exported
) -> None:
    for path in sorted(path for path in written.root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for position in {0, len(content) // 2, len(content) - 1}:
            flipped = bytes([content[position] ^ 0x10])
            path.write_bytes(content[:position] + flipped + content[position + 1 :])
            with pytest.raises(Corrupt, match=path.name):
                exported.read(folder)
        path.write_bytes(content)
    exported.read(folder)


def test_every_missing_or_foreign_file_of_the_model_is_refused(
    folder: Path, written: Exported
) -> None:
    for path in sorted(path for path in written.root.rglob("*") if path.is_file()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(Corrupt, match="export the version again"):
            exported.read(folder)
        path.write_bytes(content)
    (written.root / "code" / "sitecustomize.py").write_text("import os\n")
    with pytest.raises(Corrupt, match=r"sitecustomize\.py does not belong to this version"):
        exported.read(folder)


def test_a_link_is_refused(folder: Path, written: Exported, tmp_path: Path) -> None:
    written.root.rename(tmp_path / "elsewhere")
    written.root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Corrupt, match="model does not belong to an exported version"):
        exported.read(folder)


def test_where_nothing_was_exported_is_said_with_the_command(tmp_path: Path) -> None:
    command = f"`python -m registry export MODEL --stage Production --to {tmp_path}"
    with pytest.raises(NotFound, match=f"there is no folder {tmp_path}/nowhere; make .*{command}"):
        exported.read(tmp_path / "nowhere")
    with pytest.raises(NotFound, match=rf"{tmp_path} has no exported\.json; make one .*{command}"):
        exported.read(tmp_path)


@pytest.mark.usefixtures("written")
def test_a_truncated_record_is_refused(folder: Path) -> None:
    path = folder / exported.RECORD
    content = path.read_bytes()
    for length in range(len(content) - 2):  # the last two are the brace and the line's end
        path.write_bytes(content[:length])
        with pytest.raises(Corrupt, match=r"exported\.json cannot be read as a JSON object"):
            exported.read(folder)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize("content", [b"[]", b"null", b"\xff", b'"text"'])
def test_a_record_that_is_no_object_is_refused(folder: Path, content: bytes) -> None:
    (folder / exported.RECORD).write_bytes(content)
    with pytest.raises(Corrupt, match="cannot be read as a JSON object"):
        exported.read(folder)


@pytest.mark.usefixtures("written")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", 2, "has format 2, this code reads 1"),
        ("format", None, "has format None"),
        ("stage", None, "lacks keys"),
        ("more", "x", "has others"),
        ("version", "3", "another type"),
        ("version", True, "another type"),
        ("version", 4, "does not name har/4"),
        ("name", "nbeats", "does not name nbeats/3"),
        ("facts", {"horizon": 5}, "another type"),
        ("manifest_sha256", "0" * 64, r"manifest\.json is not the manifest that exported\.json"),
        ("exported_at", "yesterday", "has no time in exported_at"),
        ("exported_at", "2026-11-27T10:00", "has a time without a zone"),
    ],
)
def test_a_record_that_disagrees_is_refused(
    folder: Path, key: str, value: object, message: str
) -> None:
    change(folder, **{key: value})
    with pytest.raises(Corrupt, match=f"{message}.*; remove {folder} and export"):
        exported.read(folder)


def test_the_record_is_not_sealed(folder: Path, written: Exported) -> None:
    """As the docstring of `read` says: who exchanges files and record together is not noticed."""
    change(folder, stage="Staging")
    (written.root / "MLmodel").write_text("flavors: 9\n")
    (written.root / manifest.MLFLOWS).unlink()
    change(folder, manifest_sha256=manifest.seal(written.root))
    registration.write(written.root, "har", 3)
    assert exported.read(folder).stage == "Staging"


# --- killed, or at the same time ---------------------------------------------------------------

KILLED = """
import os, signal, sys
from datetime import UTC, datetime
from pathlib import Path
from registry.versions import exported, manifest
from registry.versions.version import Version

root, folder, sha256, moment = sys.argv[1:]
def killed(*_): os.kill(os.getpid(), signal.SIGKILL)
if moment == "copying":
    exported.registration.write = killed
else:
    Path.rename = killed
version = Version("har", 3, "None", {manifest.MANIFEST_TAG: sha256}, (), "", datetime.now(UTC), "")
exported.write(Path(root), Path(folder), version, stage="", facts={}, registry="r1")
"""


@pytest.mark.parametrize("moment", ["copying", "renaming"])
def test_what_a_killed_export_left_is_ignored_and_removed(
    root: Path, folder: Path, version: Version, moment: str
) -> None:
    digest = version.tags[MANIFEST_TAG]
    command = [sys.executable, "-c", KILLED, str(root), str(folder), digest, moment]
    done = subprocess.run(command, cwd=CHECKOUT, check=False)
    assert done.returncode == -signal.SIGKILL
    left = [name for name in names(folder.parent) if name.startswith("har@")]
    assert len(left) == 1
    with pytest.raises(NotFound):
        exported.read(folder)
    other = folder.with_name("har@home")  # not of an export
    other.mkdir()
    written = write(root, folder, version)
    assert exported.read(folder) == written
    assert names(folder.parent) == ["har", "har@home"]


def test_exports_at_the_same_time_make_one_folder(
    root: Path, folder: Path, version: Version
) -> None:
    results: list[Exported] = []

    def export() -> None:
        results.append(write(root, folder, version))

    threads = [threading.Thread(target=export) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [exported.read(folder)] * 4
    assert names(folder.parent) == ["har"]


def test_a_full_disk_leaves_nothing(
    root: Path, folder: Path, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(KronosError, match="no space left for") as caught:
        write(root, folder, version)
    assert caught.value.code == "NO_SPACE"
    assert names(folder.parent) == []
