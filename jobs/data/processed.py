"""The processed files: what they are called, which sources they say they come from, and how they are read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.data.market import US_INDICES, Universe, market_daily, with_market
from jobs.data.sources import INDEX
from registry.errors import Corrupt, NotFound
from registry.forecast import names
from registry.settings import Settings
from registry.training import DataName

PANEL = "nbeats_global_daily.parquet"
MARKET = "market_daily.parquet"
BARS = "bars.parquet"
AUX = "aux_features_daily.parquet"
FILES = (PANEL, MARKET, AUX, BARS)
QA = "qa_compile.json"

COMMAND = "python -m jobs compile --source builtin"
COMPILE_VERSION = 2  # raised when the same sources give other files

_KEY = b"kronos"  # of the parquet schema's metadata; holds JSON


@dataclass(frozen=True)
class Data:
    """What models are trained and scored on, of the name in training.Config.data."""

    name: DataName
    history: pd.DataFrame
    digest: str  # of its source prices
    universe: Universe  # of its market columns
    synthetic: tuple[str, ...] = ()  # columns that are made up


def load(settings: Settings, name: DataName) -> Data:
    """A data set by its name. Raises NotFound when nothing is compiled, Corrupt when a file cannot be read."""
    if name == "bars":
        return Data(name, load_bars(settings), data_digest(settings, BARS), US_INDICES)
    made_up = tuple(stored_metadata(settings.processed_dir / AUX)["synthetic"])
    return Data(
        name, load_panel(settings), data_digest(settings, PANEL), load_universe(settings), made_up
    )


def load_panel(settings: Settings) -> pd.DataFrame:
    """unique_id, ds, y, the market columns, sector and counts of every stock, sorted by (unique_id, ds).

    NotFound when nothing is compiled, Corrupt when the files come from different sources.
    """
    panel, market, aux = (_read(settings, file) for file in (PANEL, MARKET, AUX))
    for file in (MARKET, AUX):
        if data_digest(settings, PANEL) != data_digest(settings, file):
            raise Corrupt(
                f"{PANEL} and {file} in {settings.processed_dir} were compiled from different data; run `{COMMAND}`"
            )
    return with_market(panel, market).merge(
        aux, on=[names.UNIQUE_ID, names.DS], how="left", validate="one_to_one"
    )


def load_bars(settings: Settings) -> pd.DataFrame:
    """unique_id, ds, y, the adjusted bar, `close_unadjusted` and the market columns; sorted by (unique_id, ds).

    The market is US_INDICES, index_return that of SP500. NotFound when nothing is compiled; BadHistory when a session
    is none of both indices'.
    """
    bars = _read(settings, BARS)
    indices = bars[bars[names.UNIQUE_ID].isin(US_INDICES.symbols)]
    return with_market(
        bars, market_daily(indices, bars[bars[names.UNIQUE_ID] == INDEX], US_INDICES)
    )


def data_digest(settings: Settings, file: str = PANEL) -> str:
    """Digest of the source prices from which `file` was compiled, as stored in it; all but the bars share one."""
    return str(stored_metadata(settings.processed_dir / file)["digest"])


def load_universe(settings: Settings) -> Universe:
    """The universe of the panel and of its market columns."""
    stored = stored_metadata(settings.processed_dir / MARKET)["universe"]
    return Universe(stored["name"], tuple(stored["symbols"]))


def stored_metadata(path: Path) -> dict[str, Any]:
    """compile_version and digest of a processed file; universe (of all but the bars), synthetic columns (of AUX)."""
    _check_exists(path)
    try:
        metadata: dict[str, Any] = json.loads(pq.read_schema(path).metadata[_KEY])
        found = metadata["compile_version"]
    except (pa.ArrowInvalid, KeyError, TypeError, ValueError) as error:
        raise Corrupt(f"{path} is not a file that `{COMMAND}` wrote; run it again") from error
    if found != COMPILE_VERSION:
        raise Corrupt(
            f"{path} is of compile version {found}, this code reads {COMPILE_VERSION}; run `{COMMAND}`"
        )
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
