"""The cache of what calibrations have learned: whole, or quarantined."""

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pyarrow.parquet as pq
import pytest

from jobs.nightly.memory_file import NAME, MemoryFile
from registry.errors import KronosError
from registry.ledger.states import Scope

SCOPE = Scope(registry="r", model="har", version=1, data="panel")
OTHER = replace(SCOPE, model="fhs")
ARRAYS = {
    "offsets": np.arange(24, dtype=float).reshape(2, 3, 4) / 7,
    "none": np.zeros((0, 3)),
    "learned": np.array(17),
    "symbols": np.array(["AAPL", "ÉÉ", ""]),
    "sessions": np.array(["2020-01-02", "NaT"], dtype="datetime64[D]"),
    "flags": np.array([True, False]),
    "odd": np.array([-0.0, np.nan, np.inf, 5e-324]),
}


def same(one: object, other: object) -> None:
    """The same arrays: keys, types, shapes and bits."""
    assert isinstance(one, dict)
    assert isinstance(other, dict)
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert one[name].shape == other[name].shape, name
        assert one[name].tobytes() == other[name].tobytes(), name


def test_arrays_come_back_with_all_their_bits(tmp_path: Path) -> None:
    kept = MemoryFile(tmp_path / "state", pytest.fail)
    assert kept.read(SCOPE, "a") is None
    kept.write(SCOPE, "a", ARRAYS)
    same(MemoryFile(tmp_path / "state", pytest.fail).read(SCOPE, "a"), ARRAYS)


def test_arrays_that_other_settings_learned_are_not_read(tmp_path: Path) -> None:
    kept = MemoryFile(tmp_path, pytest.fail)
    kept.write(SCOPE, "a", ARRAYS)
    assert kept.read(SCOPE, "b") is None
    assert kept.read(OTHER, "a") is None


def test_one_scope_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    kept = MemoryFile(tmp_path, pytest.fail)
    kept.write(SCOPE, "a", ARRAYS)
    kept.write(OTHER, "b", {"learned": np.array(1)})
    kept.write(SCOPE, "a", {"learned": np.array(2)})
    npt.assert_array_equal(kept.read(SCOPE, "a")["learned"], 2)
    npt.assert_array_equal(kept.read(OTHER, "b")["learned"], 1)


def test_the_same_memories_are_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        MemoryFile(tmp_path / folder, pytest.fail).write(SCOPE, "a", ARRAYS)
    contents = {(tmp_path / folder / NAME).read_bytes() for folder in ("one", "two")}
    assert len(contents) == 1


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbled(path: Path) -> None:
    path.write_text("not a Parquet file")


def changed(path: Path) -> None:
    """One number differs, and the digest is that of before."""
    table = pq.read_table(path)
    column = table.schema.get_field_index("recipe")
    names = ["b"] * len(table)
    pq.write_table(table.set_column(column, table.schema.field(column), [names]), path)


def of_another_format(path: Path) -> None:
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"kronos.format": b"2"}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def of_another_program(path: Path) -> None:
    pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)


@pytest.mark.parametrize(
    "damage", [cut, empty, garbled, changed, of_another_format, of_another_program]
)
def test_a_damaged_file_is_quarantined_and_said(tmp_path: Path, damage: object) -> None:
    warnings: list[str] = []
    kept = MemoryFile(tmp_path, warnings.append)
    for number in (1, 2):
        kept.write(SCOPE, "a", ARRAYS)
        assert callable(damage)
        damage(kept.path)
        damaged = kept.path.read_bytes()
        assert kept.read(SCOPE, "a") is None
        assert not kept.path.exists()
        quarantined = tmp_path / f"calibration.corrupt-{number}.parquet"
        assert quarantined.read_bytes() == damaged
        assert kept.quarantined[-1] == quarantined
        assert len(warnings) == number
        assert f"kept as {quarantined.name}" in warnings[-1]


def test_a_flipped_byte_anywhere_is_never_read(tmp_path: Path) -> None:
    kept = MemoryFile(tmp_path, lambda _: None)
    kept.write(SCOPE, "a", ARRAYS)
    whole = kept.path.read_bytes()
    rng = np.random.default_rng(0)
    for place in rng.choice(len(whole), 60, replace=False):
        flipped = bytearray(whole)
        flipped[place] ^= 0x10
        kept.path.write_bytes(flipped)
        arrays = kept.read(SCOPE, "a")
        if arrays is not None:  # a byte that no reader looks at
            same(arrays, ARRAYS)
        kept.path.write_bytes(whole)


def test_writers_side_by_side_lose_no_memory(tmp_path: Path) -> None:
    scopes = [replace(SCOPE, version=number) for number in range(1, 9)]
    writers = [
        threading.Thread(target=MemoryFile(tmp_path, pytest.fail).write, args=(scope, "a", ARRAYS))
        for scope in scopes
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    kept = MemoryFile(tmp_path, pytest.fail)
    for scope in scopes:
        same(kept.read(scope, "a"), ARRAYS)


def test_an_array_of_objects_is_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    kept = MemoryFile(tmp_path, pytest.fail)
    kept.write(SCOPE, "a", ARRAYS)
    with pytest.raises(TypeError, match="an array of object cannot be kept"):
        kept.write(SCOPE, "a", {"names": np.array(["a", None], dtype=object)})
    same(kept.read(SCOPE, "a"), ARRAYS)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KronosError, match="cannot write"):
        MemoryFile(tmp_path / "file" / "state", pytest.fail).write(SCOPE, "a", ARRAYS)
