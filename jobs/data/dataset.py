"""What a data set is: the data that models are trained, scored and run on."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from jobs.data.market import Universe
from registry.settings import Settings


@dataclass(frozen=True)
class Splits:
    """Default dates: fitted up to the first, chosen up to the second, reported from there on."""

    fit_until: str
    choose_until: str


@dataclass(frozen=True)
class Dataset:
    """A data set, compiled or not."""

    name: str
    columns: tuple[str, ...]  # of its history
    calendar: str
    universe: Universe  # over which its market columns are taken
    splits: Splits

    @property
    def synthetic(self) -> tuple[str, ...]:
        """Columns that are made up."""
        return ()

    @property
    def origin(self) -> Mapping[str, str]:
        """Where it comes from, for people: facts for a model card. No secret is in it."""
        return {}

    def load(self, settings: Settings) -> "Data":
        """The compiled data set. Raises NotFound if it is missing, Corrupt if it is damaged."""
        raise NotImplementedError


@dataclass(frozen=True)
class Data:
    """A data set with its compiled history and the digest of its source prices."""

    dataset: Dataset
    digest: str
    history: pd.DataFrame  # sorted by (unique_id, ds)
