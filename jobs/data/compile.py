"""Compile the built-in data: real prices in, validated processed files out, all of them or none."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.data import processed, products, validate
from jobs.data.catalog import BARS, PANEL, Builtin
from jobs.data.digest import data_digest
from jobs.data.market import market_daily
from jobs.data.qa import describe_source
from jobs.data.sources import builtin
from jobs.data.sources.builtin import INDEX_BARS, STOCK_BARS, STOCK_INDEX, STOCKS
from jobs.running.progress import Progress, silent
from registry import compiled
from registry.errors import Corrupt, NotFound
from registry.files import sweep
from registry.forecast import names
from registry.settings import Settings

# First price used of a stock, one session before its first return. Older prices are rounded too
# coarsely.
PRICES_FROM = "2009-12-31"
BUILTIN: tuple[Builtin, ...] = (PANEL, BARS)
SOURCES = {STOCKS: PANEL, STOCK_INDEX: PANEL, STOCK_BARS: BARS, INDEX_BARS: BARS}

Frames = Mapping[str, pd.DataFrame]


def compile_builtin(
    settings: Settings, *, force: bool = False, progress: Progress = silent
) -> dict[str, Any]:
    """Write the processed files and the QA summary; return that summary with `skipped` added.

    Without `force`, it is skipped when all files exist and stem from the same prices, packages and
    COMPILE_VERSION. Raises BadHistory (BAD_SOURCE) when a source or a product breaks its schema,
    KronosError (NO_SPACE) on a full disk; either way the old files stay as they were.
    """
    progress("reading prices from the installed wheels", 0.0)
    prices = builtin.read_all()
    identity = identify(prices)
    if not force and (summary := _summary_of_files(settings, identity)) is not None:
        progress("nothing to do: the files stem from these prices", 1.0)
        return {**summary, "skipped": True}
    progress("validating prices", 0.25)
    check_sources(prices)
    progress("building products", 0.5)
    frames = build(prices)
    summary = {**identity, **summarise(prices, frames)}
    progress("writing files", 0.75)
    write(settings, frames, summary)
    progress("done", 1.0)
    return {**summary, "skipped": False}


def identify(prices: Frames) -> dict[str, Any]:
    """COMPILE_VERSION, the digest of each data set's prices, and the packages they came from."""
    stocks, index = _recent(prices[STOCKS]), _recent(prices[STOCK_INDEX])
    return {
        "compile_version": processed.COMPILE_VERSION,
        "digests": {
            PANEL.name: data_digest(stocks, index, products.sector_map()),
            BARS.name: data_digest(prices[STOCK_BARS], prices[INDEX_BARS], products.split_table()),
        },
        "packages": builtin.package_versions(),
    }


def check_sources(prices: Frames) -> None:
    """Raise BadHistory (BAD_SOURCE) for the first source that breaks its schema.

    Sources are sorted, unique and finite, on sessions only; bars are in OHLC order.
    """
    for name, dataset in SOURCES.items():
        schema = validate.bar_source if dataset is BARS else validate.close_source
        validate.check(prices[name], schema(dataset.calendar), name)


def build(prices: Frames) -> dict[str, pd.DataFrame]:
    """The processed frames by file name, each checked. `prices` are checked already."""
    returns = products.log_returns(_recent(prices[STOCKS]))
    index_returns = products.log_returns(_recent(prices[STOCK_INDEX]))
    raw_bars = products.together(prices[STOCK_BARS], prices[INDEX_BARS])
    frames = {
        processed.RETURNS: returns,
        processed.MARKET: market_daily(returns, index_returns, PANEL.universe),
        processed.AUX: products.aux_features(returns),
        processed.BARS: products.adjusted_bars(raw_bars),
    }
    for dataset in BUILTIN:
        for file in dataset.files:
            schema = validate.PROCESSED[file](dataset.calendar)
            validate.check(frames[file], schema, file)
    return frames


def summarise(prices: Frames, frames: Frames) -> dict[str, Any]:
    """Data sets, sources with their products, and rows of each file: for people."""
    described = {}
    for name, dataset in SOURCES.items():
        product = _product(name, prices, frames)
        described[name] = describe_source(prices[name], product, dataset.calendar)
    datasets = {dataset.name: _describe_dataset(dataset) for dataset in BUILTIN}
    rows = {file: len(frame) for file, frame in frames.items()}
    return {"datasets": datasets, "sources": described, "files": rows}


def _product(source: str, prices: Frames, frames: Frames) -> pd.DataFrame:
    """The rows that were made of a source."""
    if source == STOCKS:
        return frames[processed.RETURNS]
    if source == STOCK_INDEX:
        return products.log_returns(_recent(prices[STOCK_INDEX]))
    bars = frames[processed.BARS]
    symbols = prices[source][names.UNIQUE_ID]
    return bars[bars[names.UNIQUE_ID].isin(symbols)]


def _describe_dataset(dataset: Builtin) -> dict[str, Any]:
    return {
        "calendar": dataset.calendar,
        "universe": dataset.universe.to_json(),
        "synthetic": list(dataset.synthetic),
    }


def write(settings: Settings, frames: Frames, summary: dict[str, Any]) -> None:
    """Replace the processed files and the summary, all or none. Remove leftovers of killed runs."""
    contents = {}
    for file, metadata in _metadata(summary).items():
        contents[settings.processed_dir / file] = processed.encode(frames[file], metadata)
    contents[_summary_path(settings)] = json.dumps(summary, indent=2).encode() + b"\n"
    for directory in {path.parent for path in contents}:
        sweep(directory)
    compiled.write(settings, contents)


def _metadata(summary: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What each processed file stores, by its name."""
    stored = {}
    for dataset in BUILTIN:
        identity = dataset.identity(summary["digests"][dataset.name])
        for file in dataset.files:
            stored[file] = processed.with_version(identity)
    return stored


def _summary_of_files(settings: Settings, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The summary of an earlier compile, or None unless it and every file stem from `identity`.

    None, too, if a byte of them was changed since.
    """
    try:
        summary: dict[str, Any] = json.loads(compiled.read(settings, _summary_path(settings)))
        if any(summary[key] != value for key, value in identity.items()):
            return None
        for file, metadata in _metadata(summary).items():
            if processed.read(settings, file)[1] != metadata:
                return None
    except (ValueError, KeyError, NotFound, Corrupt):
        return None
    return summary


def _summary_path(settings: Settings) -> Path:
    return settings.logs_dir / processed.QA


def _recent(prices: pd.DataFrame) -> pd.DataFrame:
    return prices[prices[names.DS] >= PRICES_FROM].reset_index(drop=True)
