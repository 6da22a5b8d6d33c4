"""Data sets of a user, as their readers see them: sealed facts, verified files, rows.

`jobs compile` writes them. set.json of a set names its files and their sha256.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import Conflict, Corrupt, NotFound
from registry.forecast import names
from registry.settings import Settings

FORMAT = 1  # of set.json and of the files
FACTS = "set.json"
NAME = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True)
class Part:
    """One file: the rows of a calendar year, or the base."""

    file: str
    year: int  # 0 for the base
    rows: int
    first: str  # session
    last: str
    sha256: str  # of the file
    digest: str  # of its source columns


def folder(settings: Settings, name: str) -> Path:
    return settings.var_dir / "data" / "sets" / name


def stored_facts(settings: Settings, name: str) -> dict[str, Any]:
    """What set.json says, without its seal. Raises NotFound, and Corrupt if it was changed."""
    path = folder(settings, name) / FACTS
    if not NAME.fullmatch(name) or not path.is_file():
        raise NotFound(f"no data set {name!r}; `python -m jobs data list` shows all")
    try:
        stored: dict[str, Any] = json.loads(path.read_bytes())
        valid = stored.pop("seal") == _seal(stored) and stored["format"] == FORMAT
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise damaged(settings, name) from error
    if not valid:
        raise damaged(settings, name)
    return stored


def universe_tag(name: str, digest: str) -> str:
    """What a version's tag `universe` says of the symbols of its market columns."""
    return f"{name}@{digest[:12]}"


def parts_of(stored: Mapping[str, Any]) -> tuple[Part, ...]:
    return tuple(Part(**part) for part in stored["parts"])


def damaged(settings: Settings, name: str) -> Corrupt:
    path = folder(settings, name) / FACTS
    return Corrupt(f"{path} is not the file that was written; compile {name} again")


def sealed(facts: Mapping[str, Any]) -> bytes:
    """The bytes of set.json."""
    stored = json.loads(json.dumps(facts))
    return json.dumps({**stored, "seal": _seal(stored)}, indent=1, sort_keys=True).encode() + b"\n"


def verified(settings: Settings, name: str, parts: Sequence[Part]) -> list[Path]:
    """Paths of these parts, each compared with its sha256. Raises Corrupt and Conflict."""
    paths = []
    for part in parts:
        path = folder(settings, name) / part.file
        if not _is_whole(path, part):
            raise _not_whole(settings, name, part)
        paths.append(path)
    return paths


def check_files(settings: Settings, name: str, parts: Sequence[Part]) -> None:
    """Raise Corrupt and Conflict, as `verified`, if a file is gone; none is read."""
    for part in parts:
        if not (folder(settings, name) / part.file).is_file():
            raise _not_whole(settings, name, part)


def _is_whole(path: Path, part: Part) -> bool:
    try:
        return sha256(path) == part.sha256
    except FileNotFoundError:
        return False


def _not_whole(settings: Settings, name: str, part: Part) -> Corrupt | Conflict:
    """The error of a file that is not what set.json says, or that a newer compile has removed."""
    stored = stored_facts(settings, name)
    parts = [*stored["parts"], stored["base"]] if stored.get("base") else stored["parts"]
    if part.file not in [each["file"] for each in parts]:
        return _changed(name)
    path = folder(settings, name) / part.file
    return Corrupt(f"{path} is missing or not the file that was compiled; compile {name} again")


def _changed(name: str) -> Conflict:
    return Conflict(f"the data set {name} was changed while it was read; run it again")


def read(
    settings: Settings,
    name: str,
    parts: Sequence[Part],
    columns: Sequence[str],
    since: str = "",
) -> pd.DataFrame:
    """Rows from the session `since` on, sorted by (unique_id, ds).

    Only files of the years that are needed are read. Raises Corrupt, and Conflict if the set was
    written anew meanwhile.
    """
    needed = [part for part in parts if part.last >= since] or parts[-1:]
    later = [(names.DS, ">=", date.fromisoformat(since))] if since else None
    tables = []
    for part in needed:
        [path] = verified(settings, name, [part])
        try:
            tables.append(pq.read_table(path, columns=list(columns), filters=later))
        except FileNotFoundError as error:
            raise _changed(name) from error
    return _by_symbol(pa.concat_tables(tables))


def _by_symbol(table: pa.Table) -> pd.DataFrame:
    """Rows by symbol and session; those of `table` are in the order of sessions."""
    encoded = table.column(names.UNIQUE_ID).combine_chunks().dictionary_encode()
    symbols = encoded.dictionary.to_numpy(zero_copy_only=False)
    rank = np.empty(len(symbols), dtype=np.int32)
    rank[symbols.argsort()] = np.arange(len(symbols), dtype=np.int32)
    order = rank[encoded.indices.to_numpy()].argsort(kind="stable")
    frame: pd.DataFrame = table.combine_chunks().take(order).to_pandas()
    return frame.astype({names.DS: "datetime64[ns]"})


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _seal(stored: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(stored, sort_keys=True).encode()).hexdigest()
