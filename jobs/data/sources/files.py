"""Files of a user: found by path, folder or glob, in the order of their names."""

import glob
import os
import re
from collections.abc import Sequence
from pathlib import Path

from jobs.data.sources.source import CSV, PARQUET
from registry.errors import BadHistory, BadParameter, NotFound
from registry.text import is_text, printable

# Suffixes by which a folder's files are chosen. A single file and a glob may have any.
SUFFIXES = {CSV: (".csv", ".tsv", ".csv.gz", ".tsv.gz"), PARQUET: (".parquet", ".pq")}
# What follows the stem of a file's name; Python and DuckDB read it alike.
SUFFIX = r"(\.(csv|tsv|txt|parquet|pq))?(\.gz)?$"


def find(locations: Sequence[str], kind: str) -> tuple[str, ...]:
    """Paths of the files, each once, in the order of the locations, then of their names.

    Raises NotFound if there is none, BadHistory (BAD_FILE) for a folder with both CSV and Parquet.
    """
    paths: dict[str, None] = {}
    for location in locations:
        if not is_text(location):
            raise BadParameter(f"--from {location[:64]!r} is no UTF-8 text; rename the file")
        for path in _at(location, kind):
            _check_readable(path)
            paths[path] = None
    return tuple(paths)


def one_file(path: str, option: str) -> str:
    """The path, if it is that of a file. Raises NotFound and BadParameter."""
    if not _exists(path):
        raise NotFound(f"{printable(path)} does not exist; {option} is a file")
    if Path(path).is_dir():
        raise BadParameter(f"{printable(path)} is a folder; {option} is a file")
    _check_readable(path)
    return path


def stem(path: str) -> str:
    """Name of a file without its suffixes: BRK.B for prices/BRK.B.csv.gz."""
    return re.sub(SUFFIX, "", Path(path).name, flags=re.IGNORECASE)


def check_stems(paths: Sequence[str]) -> None:
    """Raise BadHistory (BAD_SYMBOL) if two files stand for one symbol."""
    by_stem: dict[str, str] = {}
    for path in paths:
        other = by_stem.setdefault(stem(path), path)
        if other != path:
            raise BadHistory(
                f"{other} and {path} both stand for symbol {stem(path)!r}; "
                "give each symbol one file",
                code="BAD_SYMBOL",
            )


def _at(location: str, kind: str) -> list[str]:
    if _exists(location):
        path = Path(location)
        return _in_folder(path, kind) if path.is_dir() else [location]
    if not glob.has_magic(location):
        raise NotFound(f"{printable(location)} does not exist; --from is a file, folder or glob")
    found = glob.glob(location, recursive=True)  # noqa: PTH207 - it may be absolute
    matches = sorted(filter(os.path.isfile, found))
    if not matches:
        raise NotFound(f"no file matches {printable(location)}")
    return matches


def _exists(path: str) -> bool:
    return os.path.exists(path)  # noqa: PTH110 - pathlib raises for a name that is too long


def _in_folder(folder: Path, kind: str) -> list[str]:
    _check_permission(str(folder), os.R_OK | os.X_OK)
    by_kind = {each: _with_suffix(folder, SUFFIXES[each]) for each in SUFFIXES}
    if all(by_kind.values()):
        raise BadHistory(
            f"{folder} holds CSV and Parquet files, such as {Path(by_kind[CSV][0]).name} and "
            f"{Path(by_kind[PARQUET][0]).name}; give a glob like {folder}/*{SUFFIXES[kind][0]}",
            code="BAD_FILE",
        )
    if not by_kind[kind]:
        suffixes = ", ".join(SUFFIXES[kind])
        raise NotFound(f"{folder} has no file that ends in {suffixes}")
    return by_kind[kind]


def _with_suffix(folder: Path, suffixes: tuple[str, ...]) -> list[str]:
    """Files of the folder itself; hidden ones are left out."""
    paths = []
    for path in sorted(folder.iterdir()):
        visible = not path.name.startswith(".")
        if visible and path.is_file() and path.name.lower().endswith(suffixes):
            paths.append(str(path))
    return paths


def _check_readable(path: str) -> None:
    if not is_text(path):
        raise BadParameter(f"{path!r} is no UTF-8 text; rename the file")
    if not Path(path).is_file():
        raise BadParameter(f"{printable(path)} is no regular file; save its content to a file")
    _check_permission(path, os.R_OK)


def _check_permission(path: str, mode: int) -> None:
    if not os.access(path, mode):
        raise BadParameter(f"{printable(path)} may not be read; change its permissions")
