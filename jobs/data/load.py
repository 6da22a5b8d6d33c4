"""Load a data set into the ledger, which keeps what was known when, or remove it from there."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from jobs.data.catalog import Catalog
from jobs.data.dataset import Data
from jobs.data.sets import Own
from jobs.data.sources import isins
from jobs.running.progress import Progress, silent
from registry.forecast import names
from registry.ledger.archive import Archive
from registry.ledger.filling import Content, Symbol
from registry.ledger.observations import MARKET, PRICES
from registry.settings import Settings

ROWS = 25_000  # of a transaction, which then takes less than a second


def load(settings: Settings, name: str, *, progress: Progress = silent) -> dict[str, Any]:
    """Load a data set; counts of rows by table. Raises NotFound, Corrupt and Conflict."""
    progress(f"reading {name}", 0.0)
    content = content_of(Catalog(settings).find(name).load(settings))

    def advance(share: float) -> None:
        progress(f"loading {name}", share)

    with Archive(settings) as archive:
        counted = archive.load(content, advance)
    rows = {table: asdict(counts) for table, counts in counted.items()}
    return {"data": name, "digest": content.digest, "symbols": len(content.symbols), "rows": rows}


def unload(settings: Settings, name: str, *, progress: Progress = silent) -> dict[str, Any]:
    """Remove a data set from the ledger; counts of rows by table. Raises NotFound and Conflict."""

    def advance(share: float) -> None:
        progress(f"removing {name} from the ledger", share)

    with Archive(settings) as archive:
        return {"unloaded": name, "rows": archive.remove(name, advance)}


def content_of(data: Data) -> Content:
    """What the ledger keeps of a data set."""
    dataset, history = data.dataset, data.history
    starts = _starts(history)
    return Content(
        data=dataset.name,
        digest=data.digest,
        calendar=dataset.calendar,
        universe=dataset.universe.tag,
        symbols=_symbols(data, starts),
        rows=_batches(history, starts),
        market=_market(history),
        currency=dataset.facts.currency or None if isinstance(dataset, Own) else "USD",
    )


def _starts(history: pd.DataFrame) -> Any:
    """Place of the first row of each symbol, and the end: [N + 1]."""
    ids = history[names.UNIQUE_ID].to_numpy()
    changes = np.flatnonzero(ids[1:] != ids[:-1]) + 1
    return np.concatenate([[0], changes, [len(ids)]])


def _symbols(data: Data, starts: Any) -> list[Symbol]:
    history, own = data.history, isinstance(data.dataset, Own)
    first, last = history.iloc[starts[:-1]], history.iloc[starts[1:] - 1]
    sectors = first[names.SECTOR] if names.SECTOR in history.columns else [None] * len(first)
    found = []
    columns = (first[names.UNIQUE_ID], first[names.DS], last[names.DS], sectors)
    for symbol, begin, end, sector in zip(*columns, strict=True):
        isin, company = (None, None) if own else isins.BUILTIN.get(symbol, (None, None))
        found.append(Symbol(symbol, begin.date(), end.date(), isin, company, sector))
    return found


def _batches(history: pd.DataFrame, starts: Any) -> Iterator[pa.Table]:
    """Whole symbols, of about ROWS rows at a time."""
    columns = [names.UNIQUE_ID, names.DS, names.Y, *(c for c in PRICES if c in history.columns)]
    begin = 0
    for end in starts[1:]:
        if end - begin >= ROWS or end == starts[-1]:
            yield _table(history[columns].iloc[begin:end])
            begin = end


def _market(history: pd.DataFrame) -> pa.Table:
    """The market columns of each session."""
    columns = [column for column in MARKET if column in history.columns]
    daily = history[[names.DS, *columns]].drop_duplicates(names.DS)
    return _table(daily.sort_values(names.DS))


def _table(frame: pd.DataFrame) -> pa.Table:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    days = table.column(names.DS).cast(pa.date32())
    return table.set_column(table.column_names.index(names.DS), names.DS, days)
