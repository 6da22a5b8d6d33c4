"""Write a data set's prices as a file, in the form that `jobs compile` reads."""

from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pandas as pd

from jobs.data import sets
from jobs.data.catalog import Catalog
from registry.errors import BadParameter, NotFound
from registry.files import write_together
from registry.forecast import names
from registry.settings import Settings

CLOSE_UNADJUSTED = "close_unadjusted"


def export(settings: Settings, name: str, to: Path, symbols: Sequence[str] = ()) -> dict[str, Any]:
    """Write symbol, date and prices; `y` where the set has no prices. Facts of the file.

    The close is the adjusted one, so that the same returns follow. An own set has the price before
    each symbol's first return, too; compiled, the file of a built-in one gives a session less.
    Raises NotFound for an unknown set or symbol, BadParameter for another kind of file.
    """
    if to.suffix not in (".csv", ".parquet"):
        raise BadParameter(f"{to} ends in {to.suffix or 'nothing'}, expected .csv or .parquet")
    history = _history(settings, name)
    _check_symbols(history, symbols, name)
    if symbols:
        history = history[history[names.UNIQUE_ID].isin(symbols)]
    prices = _prices(history)
    if to.suffix == ".csv":
        write_together({to: lambda path: prices.to_csv(path, index=False)})
    else:
        write_together({to: lambda path: prices.to_parquet(path, index=False)})
    return {
        "file": str(to),
        "rows": len(prices),
        "symbols": int(prices["symbol"].nunique()),
        "columns": list(prices.columns),
    }


def _history(settings: Settings, name: str) -> pd.DataFrame:
    """The set's rows and, of an own set, the prices before them; sorted by (unique_id, ds)."""
    dataset = Catalog(settings).find(name)
    history = dataset.load(settings).history
    if not isinstance(dataset, sets.Own) or dataset.facts.base is None:
        return history
    base = sets.base(settings, dataset.facts)
    if names.SECTOR in history.columns:
        of_symbol = history.drop_duplicates(names.UNIQUE_ID).set_index(names.UNIQUE_ID)
        base[names.SECTOR] = base[names.UNIQUE_ID].map(of_symbol[names.SECTOR])
    both = pd.concat([history, base])
    return both.sort_values([names.UNIQUE_ID, names.DS], ignore_index=True)


def _check_symbols(history: pd.DataFrame, symbols: Sequence[str], name: str) -> None:
    known = history[names.UNIQUE_ID].unique().tolist()
    for symbol in symbols:
        if symbol not in known:
            near = get_close_matches(symbol, known, n=3)
            advice = f"; did you mean {', '.join(near)}?" if near else ""
            raise NotFound(f"{name} has no symbol {symbol[:64]!r}{advice}")


def _prices(history: pd.DataFrame) -> pd.DataFrame:
    """symbol, date (ISO text), and the prices or else `y`; sector, where there is one."""
    values = [column for column in names.BAR if column in history.columns]
    values = values or [names.Y]
    if names.SECTOR in history.columns:
        values.append(names.SECTOR)
    dates = history[names.DS].dt.strftime("%Y-%m-%d")
    frame = pd.DataFrame({"symbol": history[names.UNIQUE_ID], "date": dates})
    return frame.join(history[values]).reset_index(drop=True)
