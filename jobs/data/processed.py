"""The processed files: their names, how they are written and read, what they store."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from registry.errors import Corrupt, NotFound
from registry.files import COMPILED_KEY
from registry.settings import Settings

RETURNS = "nbeats_global_daily.parquet"
MARKET = "market_daily.parquet"
BARS = "bars.parquet"
AUX = "aux_features_daily.parquet"
QA = "qa_compile.json"

COMMAND = "python -m jobs compile --source builtin"
COMPILE_VERSION = 3  # raised when the same sources give other files


def stored_metadata(settings: Settings, file: str) -> dict[str, Any]:
    """The metadata given to `write_parquet`.

    Raises NotFound for a missing file, Corrupt for one that `write_parquet` did not write.
    """
    path = _existing(settings, file)
    try:
        metadata: dict[str, Any] = json.loads(pq.read_schema(path).metadata[COMPILED_KEY])
        version = metadata["compile_version"]
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is not a file that `{COMMAND}` wrote; run it again") from error
    if version != COMPILE_VERSION:
        raise Corrupt(
            f"{path} has compile version {version}, expected {COMPILE_VERSION}; run `{COMMAND}`"
        )
    return metadata


def with_version(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a processed file that this code writes."""
    return {"compile_version": COMPILE_VERSION, **identity}


def write_parquet(path: Path, frame: pd.DataFrame, metadata: dict[str, Any]) -> None:
    """`frame` without its index, and `metadata` for `stored_metadata`."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    content = json.dumps(metadata, sort_keys=True).encode()
    table = table.replace_schema_metadata({**table.schema.metadata, COMPILED_KEY: content})
    pq.write_table(table, path, compression="zstd")


def read_parquet(settings: Settings, file: str) -> pd.DataFrame:
    """A processed file as it was written. Raises NotFound, and Corrupt if it cannot be read."""
    path = _existing(settings, file)
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(f"{path} cannot be read ({error}); run `{COMMAND}`") from error
    return frame


def _existing(settings: Settings, file: str) -> Path:
    path = settings.processed_dir / file
    if not path.is_file():
        raise NotFound(f"no {path}; write it with `{COMMAND}`")
    return path
