"""Compile the built-in data: real prices in, validated processed files out, all of them or none."""

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.data import processed, products, sources, validate
from jobs.data.digest import data_digest
from jobs.data.market import Universe, market_daily, sp500_universe
from jobs.data.processed import AUX, BARS, COMPILE_VERSION, MARKET, PANEL
from jobs.data.qa import describe_source
from jobs.data.sources import INDEX_BARS, STOCK_BARS, STOCK_INDEX, STOCKS
from registry.errors import Corrupt, NotFound
from registry.files import sweep, write_together
from registry.forecast import names
from registry.settings import Settings

PRICES_FROM = "2009-12-31"  # of the panel; returns start one session later. Older prices are too coarsely rounded

Frames = Mapping[str, pd.DataFrame]
Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all


def silent(what: str, done: int, total: int) -> None:
    """Progress for nobody."""


def compile_builtin(
    settings: Settings, *, force: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Write the processed files and the QA summary, and return that summary with `skipped` added.

    Skips when all files exist and stem from the same prices, packages and COMPILE_VERSION, unless `force`.
    BadHistory (code BAD_SOURCE) when a source or a product breaks its schema, KronosError (code NO_SPACE) on a full
    disk; either way the old files stay as they were.
    """
    progress("reading prices from the installed wheels", 0, 4)
    prices = sources.read_all()
    identity = identify(prices)
    if not force and (summary := _summary_of_files(settings, identity)) is not None:
        progress("nothing to do: the files stem from these prices", 4, 4)
        return {**summary, "skipped": True}
    progress("validating prices", 1, 4)
    check_sources(prices)
    progress("building products", 2, 4)
    frames = build(prices)
    summary = {**identity, **summarise(prices, frames)}
    progress("writing files", 3, 4)
    write(settings, frames, summary)
    progress("done", 4, 4)
    return {**summary, "skipped": False}


def identify(prices: Frames) -> dict[str, Any]:
    """Where the files stem from: COMPILE_VERSION, the digests of their prices, the packages that held them."""
    return {
        "compile_version": COMPILE_VERSION,
        "digests": {
            "panel": data_digest(
                _recent(prices[STOCKS]), _recent(prices[STOCK_INDEX]), products.sector_map()
            ),
            "bars": data_digest(prices[STOCK_BARS], prices[INDEX_BARS], products.split_table()),
        },
        "packages": sources.package_versions(),
    }


def check_sources(prices: Frames) -> None:
    """BadHistory (code BAD_SOURCE) unless every source is sorted, unique, finite, on sessions, in OHLC order."""
    for name in (STOCKS, STOCK_INDEX):
        validate.check(prices[name], validate.close_source(), name)
    for name in (STOCK_BARS, INDEX_BARS):
        validate.check(prices[name], validate.bar_source(), name)


def build(prices: Frames) -> dict[str, pd.DataFrame]:
    """The processed frames by file name, each checked against its schema. `prices` are checked already."""
    panel = products.log_returns(_recent(prices[STOCKS]))
    index_returns = products.log_returns(_recent(prices[STOCK_INDEX]))
    frames = {
        PANEL: panel,
        MARKET: market_daily(panel, index_returns, _universe()),
        AUX: products.aux_features(panel),
        BARS: products.adjusted_bars(products.together(prices[STOCK_BARS], prices[INDEX_BARS])),
    }
    for file, schema in validate.by_file().items():
        validate.check(frames[file], schema, file)
    return frames


def summarise(prices: Frames, frames: Frames) -> dict[str, Any]:
    """What became of each source, for people."""
    bars, universe = frames[BARS], _universe()
    made = {
        STOCKS: frames[PANEL],
        STOCK_INDEX: products.log_returns(_recent(prices[STOCK_INDEX])),
        **{
            name: bars[bars[names.UNIQUE_ID].isin(prices[name][names.UNIQUE_ID])]
            for name in (STOCK_BARS, INDEX_BARS)
        },
    }
    return {
        "calendar": validate.CALENDAR,
        "universe": {
            "name": universe.name,
            "digest": universe.digest,
            "symbols": list(universe.symbols),
        },
        "sources": {
            name: describe_source(prices[name], product, validate.CALENDAR)
            for name, product in made.items()
        },
        "synthetic": {AUX: list(names.COUNTS)},
        "files": {file: len(frame) for file, frame in frames.items()},
    }


def write(settings: Settings, frames: Frames, summary: dict[str, Any]) -> None:
    """Replace the processed files and the summary, all or none; sweep what killed compiles left behind."""
    writers: dict[Path, Callable[[Path], None]] = {
        settings.processed_dir / file: partial(
            processed.write_parquet, frame=frame, metadata=_metadata(file, summary)
        )
        for file, frame in frames.items()
    }
    writers[_summary_path(settings)] = partial(
        _write_json, content=summary
    )  # last: it vouches for the others
    for directory in {path.parent for path in writers}:
        sweep(directory)
    write_together(writers)


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


def _metadata(file: str, summary: Mapping[str, Any]) -> dict[str, Any]:
    """What a processed file says of itself."""
    data = "bars" if file == BARS else "panel"
    stored: dict[str, Any] = {
        "compile_version": summary["compile_version"],
        "data": data,
        "digest": summary["digests"][data],
    }
    if data == "panel":
        stored["universe"] = summary["universe"]
    if file == AUX:
        stored["synthetic"] = list(names.COUNTS)
    return stored


def _summary_of_files(settings: Settings, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier compile, or None unless it and every file stem from `identity`."""
    try:
        summary: dict[str, Any] = json.loads(_summary_path(settings).read_text())
        same = all(summary[key] == value for key, value in identity.items()) and all(
            processed.stored_metadata(settings.processed_dir / file) == _metadata(file, summary)
            for file in processed.FILES
        )
    except (OSError, ValueError, KeyError, NotFound, Corrupt):
        return None
    return summary if same else None


def _summary_path(settings: Settings) -> Path:
    return settings.logs_dir / processed.QA


def _universe() -> Universe:
    return sp500_universe(list(sources.SECTORS))


def _recent(prices: pd.DataFrame) -> pd.DataFrame:
    return prices[prices[names.DS] >= PRICES_FROM].reset_index(drop=True)
