"""The processed files: their names, their bytes, and what they say of themselves."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from registry import compiled
from registry.compiled import COMMAND, KEY
from registry.errors import Corrupt
from registry.settings import Settings

RETURNS = "nbeats_global_daily.parquet"
MARKET = "market_daily.parquet"
BARS = "bars.parquet"
AUX = "aux_features_daily.parquet"
QA = "qa_compile.json"

COMPILE_VERSION = 3  # raised when the same sources give other files


def with_version(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata of a processed file that this code writes."""
    return {"compile_version": COMPILE_VERSION, **identity}


def encode(frame: pd.DataFrame, metadata: Mapping[str, Any]) -> bytes:
    """A parquet file of `frame`, without its index, and of `metadata`."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    content = json.dumps(metadata, sort_keys=True).encode()
    table = table.replace_schema_metadata({**table.schema.metadata, KEY: content})
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def read(settings: Settings, file: str) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Frame and metadata that `encode` was given.

    Raises NotFound for a missing file, Corrupt for a damaged one or one of another COMPILE_VERSION.
    """
    path = settings.processed_dir / file
    content = compiled.read(settings, path)
    try:
        table = pq.read_table(io.BytesIO(content))
        metadata: dict[str, Any] = json.loads(table.schema.metadata[KEY])
        version = metadata["compile_version"]
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is not a file that `{COMMAND}` wrote; run it again") from error
    if version != COMPILE_VERSION:
        raise Corrupt(
            f"{path} has compile version {version}, expected {COMPILE_VERSION}; run `{COMMAND}`"
        )
    frame: pd.DataFrame = table.to_pandas()
    return frame, metadata
