"""The compiled data on disk: each file is compared with its checksum before it is read.

`jobs compile` writes the files and, last, their checksums.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from registry.errors import Corrupt, NotFound
from registry.files import write_together
from registry.settings import Settings

CHECKSUMS = "checksums.json"  # sha256 of each file by its path below var_dir, and a seal
KEY = b"kronos"  # in the metadata of each parquet file; holds JSON
COMMAND = "python -m jobs compile --source builtin"


def write(settings: Settings, contents: Mapping[Path, bytes]) -> None:
    """Replace files of `var_dir` and the checksums, all or none. Raises as `write_together`."""
    sums = {_name(settings, path): _sha256(content) for path, content in contents.items()}
    sealed = {"files": sums, "seal": _seal(sums)}
    content = json.dumps(sealed, indent=1, sort_keys=True).encode() + b"\n"
    files = {**contents, settings.processed_dir / CHECKSUMS: content}  # the checksums last
    write_together({path: partial(_write_bytes, content=files[path]) for path in files})


def read(settings: Settings, path: Path) -> bytes:
    """Bytes of a file as `write` was given them.

    Raises NotFound if it was never compiled, Corrupt if it or the checksums were changed since.
    """
    if not path.is_file():
        raise NotFound(f"no {path}; write it with `{COMMAND}`")
    expected = _checksums(settings).get(_name(settings, path))
    content = path.read_bytes()
    if _sha256(content) != expected:
        raise Corrupt(
            f"{path} is not the file that was compiled: its sha256 is not that of {CHECKSUMS}; "
            f"run `{COMMAND}`"
        )
    return content


def _checksums(settings: Settings) -> Mapping[str, str]:
    path = settings.processed_dir / CHECKSUMS
    if not path.is_file():
        raise Corrupt(f"no {path}: the files beside it cannot be checked; run `{COMMAND}`")
    damaged = Corrupt(f"{path} is not the file that was written; run `{COMMAND}`")
    try:
        sealed = json.loads(path.read_bytes())
        sums: dict[str, str] = sealed["files"]
        seal = sealed["seal"]
    except (KeyError, TypeError, ValueError) as error:  # also for bytes that are no UTF-8
        raise damaged from error
    if seal != _seal(sums):
        raise damaged
    return sums


def _seal(sums: Mapping[str, str]) -> str:
    """sha256 of all checksums, so that a changed one is not taken for a changed file."""
    return _sha256(json.dumps(sums, sort_keys=True).encode())


def _name(settings: Settings, path: Path) -> str:
    return path.relative_to(settings.var_dir).as_posix()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write_bytes(path: Path, content: bytes) -> None:
    path.write_bytes(content)
