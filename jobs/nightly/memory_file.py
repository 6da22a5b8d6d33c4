"""The cache of what calibrations have learned: var/state/calibration.parquet.

Each row is one array of one scope. The file is whole or absent: a file that is cut, changed or of
another format is renamed to calibration.corrupt-N.parquet, and its memories are learned again from
the ledger. Deleting the file loses time, never a number.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from registry import files
from registry.errors import Corrupt
from registry.ledger.states import Scope

FORMAT = 1  # of the file; a file of another format is learned again
NAME = "calibration.parquet"
Arrays = Mapping[str, npt.NDArray[Any]]

_FORMAT_KEY, _DIGEST_KEY = b"kronos.format", b"kronos.sha256"
_SCOPE = [
    pa.field("registry", pa.string()),
    pa.field("model", pa.string()),
    pa.field("version", pa.int64()),
    pa.field("data", pa.string()),
]
_ARRAY = [
    pa.field("recipe", pa.string()),  # sha256 of the settings that the memory was learned with
    pa.field("name", pa.string()),
    pa.field("dtype", pa.string()),  # NumPy's, little-endian
    pa.field("shape", pa.list_(pa.int64())),
    pa.field("values", pa.large_binary()),
]
_SCHEMA = pa.schema([*_SCOPE, *_ARRAY])
_KINDS = "biufUM"  # of NumPy's dtypes; never objects
_BUSY = "waiting for another process, which writes {}"


@dataclass(frozen=True)
class Entry:
    """The memory of one scope, as plain arrays."""

    recipe: str
    arrays: Arrays


class MemoryFile:
    """The cache in a folder. `warn` hears of a file that was quarantined."""

    def __init__(self, folder: Path, warn: Callable[[str], None]) -> None:
        self.path = folder / NAME
        self.quarantined: list[Path] = []
        self._warn = warn

    def read(self, scope: Scope, recipe: str) -> Arrays | None:
        """The arrays of a scope; None if there are none, or other settings learned them."""
        with self._locked():
            entry = self._entries().get(scope)
        return entry.arrays if entry is not None and entry.recipe == recipe else None

    def write(self, scope: Scope, recipe: str, arrays: Arrays) -> None:
        """Replace the arrays of a scope; those of others stay.

        Raises KronosError: NO_SPACE or NOT_WRITABLE, and the old file stays.
        """
        with self._locked():
            files.sweep(self.path.parent)
            entries = {**self._entries(), scope: Entry(recipe, arrays)}
            table = _table(entries)
            files.write_together({self.path: lambda path: _write(table, path)})

    @contextmanager
    def _locked(self) -> Iterator[None]:
        files.make_folder(self.path.parent)
        with files.locked(files.lock_of(self.path), waiting=_BUSY.format(self.path)):
            yield

    def _entries(self) -> dict[Scope, Entry]:
        """All entries; none if the file is missing or damaged."""
        if not self.path.exists():
            return {}
        try:
            return _entries(_verified(self.path))
        except Corrupt as error:
            self._quarantine(error)
            return {}

    def _quarantine(self, error: Corrupt) -> None:
        number = 1
        while (kept := self.path.with_name(f"calibration.corrupt-{number}.parquet")).exists():
            number += 1
        self.path.replace(kept)
        self.quarantined.append(kept)
        self._warn(
            f"warning: {self.path} is damaged ({error}); it is kept as {kept.name}, and "
            "calibrations are learned again from the ledger"
        )


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def _table(entries: Mapping[Scope, Entry]) -> pa.Table:
    rows = []
    for scope, entry in entries.items():
        for name, array in entry.arrays.items():
            rows.append({**vars(scope), "recipe": entry.recipe, "name": name, **_packed(array)})
    table = pa.Table.from_pylist(rows, _SCHEMA)
    digest = _digest(table)
    return table.replace_schema_metadata(
        {_FORMAT_KEY: str(FORMAT).encode(), _DIGEST_KEY: digest.encode()}
    )


def _packed(array: npt.NDArray[Any]) -> dict[str, Any]:
    """The columns of one array, in C order and little-endian."""
    if array.dtype.kind not in _KINDS:
        raise TypeError(f"an array of {array.dtype} cannot be kept")
    plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    return {"dtype": plain.dtype.str, "shape": [*plain.shape], "values": plain.tobytes()}


def _verified(path: Path) -> pa.Table:
    """The table of a file. Raises Corrupt unless all of it is as it was written."""
    content = path.read_bytes()
    try:
        table = pq.read_table(pa.BufferReader(content))
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).splitlines()[0][:200]
        raise Corrupt(f"it is no Parquet file: {reason}") from error
    metadata = table.schema.metadata or {}
    number = metadata.get(_FORMAT_KEY, b"none").decode(errors="replace")
    if number != str(FORMAT):
        raise Corrupt(f"its format is {number}, expected {FORMAT}")
    if not table.schema.equals(_SCHEMA):
        raise Corrupt("its columns are not those of a calibration's memory")
    if metadata.get(_DIGEST_KEY, b"").decode(errors="replace") != _digest(table):
        raise Corrupt("its content is not what was written (sha256)")
    return table


def _digest(table: pa.Table) -> str:
    """sha256 over every row: its plain columns as JSON, then the bytes of its array."""
    whole = hashlib.sha256()
    plain = table.drop_columns(["values"]).to_pylist()
    for facts, values in zip(plain, table.column("values"), strict=True):
        whole.update(json.dumps(facts, sort_keys=True).encode())
        whole.update(values.as_buffer())
    return whole.hexdigest()


def _entries(table: pa.Table) -> dict[Scope, Entry]:
    arrays: dict[Scope, dict[str, npt.NDArray[Any]]] = {}
    recipes = {}
    plain = table.drop_columns(["values"]).to_pylist()
    for facts, values in zip(plain, table.column("values"), strict=True):
        scope = Scope(**{field.name: facts[field.name] for field in _SCOPE})
        stored = np.ndarray(facts["shape"], np.dtype(facts["dtype"]), values.as_buffer())
        arrays.setdefault(scope, {})[facts["name"]] = stored.copy()
        recipes[scope] = facts["recipe"]
    return {scope: Entry(recipes[scope], kept) for scope, kept in arrays.items()}
