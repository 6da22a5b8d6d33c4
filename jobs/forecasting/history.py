"""The latest sessions of a data set, as far as a version needs them."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from jobs.data.dataset import Dataset
from jobs.data.sets import Own
from registry import sets
from registry.errors import BadHistory
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from registry.ledger.archive import COLUMNS, Archive
from registry.settings import Settings
from registry.versions import suitability

CLOSE = names.OHLC[3]


@dataclass(frozen=True)
class Recent:
    """The last sessions of a data set, as its files have them or as the ledger knew them."""

    frame: pd.DataFrame  # columns of the model, and `close` if the set has it; sorted
    last: pd.Timestamp  # last session of the data set
    symbols: tuple[str, ...]  # of the whole data set, sorted
    digest: str  # of the data set


def recent(settings: Settings, dataset: Dataset, spec: ModelSpec) -> Recent:
    """The sessions that a forecast from the end of the data set can need.

    Of a user's data set only those are read; a built-in one is read whole. Raises NotFound and
    Corrupt.
    """
    columns = columns_of(dataset, spec)
    if isinstance(dataset, Own):
        return _of_own(settings, dataset, spec, columns)
    data = dataset.load(settings)
    last = data.history[names.DS].max()
    symbols = tuple(sorted(data.history[names.UNIQUE_ID].unique()))
    window = data.history[names.DS] >= suitability.since(spec, last)
    frame = data.history.loc[window, columns].reset_index(drop=True)
    return Recent(frame, last, symbols, data.digest)


def _of_own(settings: Settings, dataset: Own, spec: ModelSpec, columns: list[str]) -> Recent:
    """Symbols are those of the universe and those that traded lately, such as an index."""
    facts = dataset.facts
    last = pd.Timestamp(facts.parts[-1].last)
    start = f"{suitability.since(spec, last):%Y-%m-%d}"
    frame = sets.read(settings, facts.name, facts.parts, columns, start)
    traded = set(frame[names.UNIQUE_ID].unique())
    symbols = tuple(sorted(traded | set(facts.universe.symbols)))
    return Recent(frame, last, symbols, facts.digest)


def known(settings: Settings, dataset: Dataset, spec: ModelSpec, as_of: str) -> Recent:
    """The same from the ledger, as it was known at an instant. `digest` is that of the last load.

    Raises NotFound, BadParameter, Conflict, and BadHistory if nothing was known then or the model
    needs a column that the ledger does not keep.
    """
    columns = columns_of(dataset, spec)
    check_kept(columns, spec)
    values = [name for name in columns if name not in (names.UNIQUE_ID, names.DS)]
    with Archive(settings) as archive, archive.known(dataset.name, as_of) as then:
        last = then.last_session
        if last is None:
            raise BadHistory(f"no session of {dataset.name} was known at {as_of}", code="EMPTY")
        start = f"{suitability.since(spec, last):%Y-%m-%d}"
        frame = then.history(since=start, columns=values)
        return Recent(frame[columns], last, then.symbols, then.load.digest)


def check_kept(columns: Sequence[str], spec: ModelSpec) -> None:
    """Raise BadHistory (MISSING_COLUMN) for a column that the ledger does not keep."""
    kept = (names.UNIQUE_ID, names.DS, *COLUMNS)
    lacking = [name for name in columns if name not in kept]
    if lacking:
        raise BadHistory(
            f"{spec.name} needs {', '.join(lacking)}, which the ledger does not keep; forecast "
            "what the files have, without --as-of",
            code="MISSING_COLUMN",
        )


def columns_of(dataset: Dataset, spec: ModelSpec) -> list[str]:
    """Columns of the data set that the model uses, and the close."""
    optional = [name for name in (*spec.optional, CLOSE) if name in dataset.columns]
    return list(dict.fromkeys([*spec.columns, *optional]))
