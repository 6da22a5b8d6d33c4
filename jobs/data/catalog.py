"""Data sets by name: the data that models are trained, scored and run on."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import pandas as pd

from jobs.data import processed, sets
from jobs.data.dataset import Data, Dataset, Splits
from jobs.data.market import Universe, market_daily, sp500_universe, with_market
from jobs.data.sources.builtin import INDEX, SECTORS
from registry.compiled import COMMAND
from registry.errors import BadHistory, Corrupt, NotFound
from registry.forecast import names
from registry.settings import Settings


@dataclass(frozen=True)
class Builtin(Dataset):
    """A data set of prices from installed packages."""

    files: tuple[str, ...]  # of the processed folder
    history: Callable[..., pd.DataFrame]  # from the frames of `files`; sorted by (unique_id, ds)
    made_up: tuple[str, ...] = ()

    @property
    def synthetic(self) -> tuple[str, ...]:
        return self.made_up

    def load(self, settings: Settings) -> Data:
        """The compiled data set.

        Raises NotFound if a file is missing, Corrupt if one is damaged or if they do not belong
        together.
        """
        frames: list[pd.DataFrame] = []
        digest = ""
        for file in self.files:
            frame, stored = processed.read(settings, file)
            digest = digest or stored["digest"]
            if stored != processed.with_version(self.identity(digest)):
                raise Corrupt(
                    f"{settings.processed_dir / file} was compiled by other code, or from other "
                    f"data than {self.files[0]}; run `{COMMAND}`"
                )
            frames.append(frame)
        return Data(self, digest, self.history(*frames))

    def identity(self, digest: str) -> dict[str, Any]:
        """What each of its files stores, JSON-ready; `digest` is that of the source prices."""
        return {
            "data": self.name,
            "digest": digest,
            "calendar": self.calendar,
            "universe": self.universe.to_json(),
            "synthetic": list(self.synthetic),
        }


class Catalog:
    """The built-in data sets and, with `settings`, those that a user compiled."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._settings = settings
        self._loaded: dict[str, Data] = {}

    @property
    def names(self) -> list[str]:
        """Names of all data sets, the built-in ones first."""
        own = sets.names(self._settings) if self._settings else []
        return [dataset.name for dataset in DATASETS] + own

    def find(self, name: str) -> Dataset:
        """A data set by its name. Raises NotFound for an unknown one, Corrupt for a damaged."""
        for dataset in DATASETS:
            if dataset.name == name:
                return dataset
        if self._settings is None or name not in self.names:
            raise NotFound(f"no data set {name[:80]!r}; there are {', '.join(self.names)}")
        return sets.find(self._settings, name)

    def load(self, name: str, settings: Settings) -> Data:
        """A compiled data set by its name; it is read once. Raises as `find` and Dataset.load."""
        if name not in self._loaded:
            self._loaded[name] = self.find(name).load(settings)
        return self._loaded[name]

    def first_with(self, columns: Collection[str], model: str) -> Dataset:
        """The first built-in data set with these columns, which `model` needs.

        Raises BadHistory if there is none.
        """
        for dataset in DATASETS:
            if set(columns) <= set(dataset.columns):
                return dataset
        raise BadHistory(
            f"{model} needs {list(columns)}, which no data set has", code="MISSING_COLUMN"
        )

    def check_columns(self, dataset: Dataset, columns: Collection[str], model: str) -> None:
        """Raise BadHistory (MISSING_COLUMN) unless the data set has these columns."""
        missing = [name for name in columns if name not in dataset.columns]
        if missing:
            complete = [name for name in self.names if self._has(name, missing)]
            raise BadHistory(
                f"{model} needs {missing}, which {dataset.name} lacks; "
                f"data sets that have them: {', '.join(complete) or 'none'}",
                code="MISSING_COLUMN",
            )

    def _has(self, name: str, columns: Collection[str]) -> bool:
        """Whether a data set has these columns; no for a damaged one."""
        try:
            return set(columns) <= set(self.find(name).columns)
        except Corrupt:
            return False


def _panel(returns: pd.DataFrame, market: pd.DataFrame, aux: pd.DataFrame) -> pd.DataFrame:
    """Returns, market columns, sector and counts of every stock."""
    keys = [names.UNIQUE_ID, names.DS]
    return with_market(returns, market).merge(aux, on=keys, how="left", validate="one_to_one")


def _bars(frame: pd.DataFrame) -> pd.DataFrame:
    """Adjusted bars and their market columns: the indices' mean |y|, the S&P 500's return."""
    indices = frame[frame[names.UNIQUE_ID].isin(_US_INDICES.symbols)]
    index_returns = frame[frame[names.UNIQUE_ID] == INDEX]
    return with_market(frame, market_daily(indices, index_returns, _US_INDICES))


# The only two series that have a bar on every session of the data set.
_US_INDICES = Universe("us-index-2", ("NASDAQ", "SP500"))

PANEL = Builtin(
    name="panel",
    files=(processed.RETURNS, processed.MARKET, processed.AUX),
    columns=(*names.HISTORY, *names.MARKET, names.SECTOR, *names.COUNTS),
    calendar="XNYS",
    universe=sp500_universe(list(SECTORS)),
    splits=Splits("2018-12-31", "2019-12-31"),
    history=_panel,
    made_up=names.COUNTS,
)
BARS = Builtin(
    name="bars",
    files=(processed.BARS,),
    columns=(*names.HISTORY, *names.BAR, "close_unadjusted", *names.MARKET),
    calendar="XNYS",
    universe=_US_INDICES,
    splits=Splits("2009-12-31", "2010-12-31"),
    history=_bars,
)
DATASETS = (PANEL, BARS)  # a model's default is the first with its columns
