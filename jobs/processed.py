"""The processed files: what they are called, which sources they say they come from, and how they are read."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from registry import wire
from registry.errors import Corrupt, NotFound
from registry.settings import Settings

PANEL = "nbeats_global_daily.parquet"
MARKET = "market_daily.parquet"
BARS = "bars.parquet"
SECTORS = "aux_features_daily.parquet"
FILES = (PANEL, MARKET, SECTORS, BARS)
QA = "qa_compile.json"

COMMAND = "python -m jobs compile --source builtin"

_KEY = b"kronos"  # of the parquet schema's metadata; holds JSON


@dataclass(frozen=True)
class Universe:
    """The symbols over which `market_abs_return` is the mean; name and digest are tags of a version."""

    name: str
    symbols: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 (hex) over the symbols, one a line."""
        return hashlib.sha256("\n".join(self.symbols).encode()).hexdigest()


def sp500_universe(symbols: Sequence[str]) -> Universe:
    """Universe of S&P 500 stocks, named by their number: `sp500-20`."""
    return Universe(f"sp500-{len(set(symbols))}", tuple(sorted(set(symbols))))


def load_panel(settings: Settings) -> pd.DataFrame:
    """unique_id, ds, y, market_abs_return, index_return of every stock, sorted by (unique_id, ds).

    NotFound when nothing is compiled, Corrupt when the two files come from different sources.
    """
    panel, market = _read(settings, PANEL), _read(settings, MARKET)
    if data_digest(settings, PANEL) != data_digest(settings, MARKET):
        raise Corrupt(
            f"{PANEL} and {MARKET} in {settings.processed_dir} were compiled from different data; run `{COMMAND}`"
        )
    return panel.merge(market.drop(columns="universe"), on=wire.DS, how="left", validate="many_to_one")


def load_bars(settings: Settings) -> pd.DataFrame:
    """unique_id, ds, y and the adjusted bar of every series, with `close_unadjusted`; sorted by (unique_id, ds)."""
    return _read(settings, BARS)


def load_sectors(settings: Settings) -> pd.DataFrame:
    """unique_id, sector of every stock of the panel."""
    return _read(settings, SECTORS)


def data_digest(settings: Settings, file: str = PANEL) -> str:
    """Digest of the source prices from which `file` was compiled, as stored in it; all but the bars share one."""
    return str(stored_metadata(settings.processed_dir / file)["digest"])


def load_universe(settings: Settings) -> Universe:
    """The universe of the panel and of its market columns."""
    stored = stored_metadata(settings.processed_dir / MARKET)["universe"]
    return Universe(stored["name"], tuple(stored["symbols"]))


def stored_metadata(path: Path) -> dict[str, Any]:
    """compile_version, digest and universe (None for bars) of a processed file."""
    _check_exists(path)
    try:
        metadata: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_KEY])
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is not a file that `{COMMAND}` wrote; run it again") from error
    return metadata


def write_parquet(path: Path, frame: pd.DataFrame, metadata: dict[str, Any]) -> None:
    """`frame` without its index, and `metadata` for `stored_metadata`."""
    table = pa.Table.from_pandas(frame, preserve_index=False)
    kept = {**table.schema.metadata, _KEY: json.dumps(metadata, sort_keys=True).encode()}
    pq.write_table(table.replace_schema_metadata(kept), path, compression="zstd")


def _read(settings: Settings, file: str) -> pd.DataFrame:
    path = settings.processed_dir / file
    _check_exists(path)
    try:
        frame: pd.DataFrame = pq.read_table(path).to_pandas()
    except (pa.ArrowInvalid, OSError) as error:
        raise Corrupt(f"{path} cannot be read ({error}); run `{COMMAND}`") from error
    return frame


def _check_exists(path: Path) -> None:
    if not path.is_file():
        raise NotFound(f"no {path}; write it with `{COMMAND}`")
