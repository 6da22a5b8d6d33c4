"""Forecast a data set from its latest sessions with a verified version."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from jobs.data.catalog import Catalog
from jobs.data.dataset import Dataset
from jobs.data.suits import check_suits
from jobs.forecasting import cumulative, passes
from jobs.forecasting.history import CLOSE, Recent, known, recent
from jobs.running.progress import Progress, silent
from registry.forecast import calendars, names
from registry.forecast.arrays import Dates, Floats
from registry.forecast.checks import refusal, screened
from registry.forecast.forecast import Forecast
from registry.forecast.history import History, Refused, read_history
from registry.forecast.spec import ModelSpec
from registry.settings import Settings
from registry.versions import suitability
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store
from registry.versions.version import Version

# Levels of the 50, 80 and 90 % bands and of the median, for tables and charts.
BANDS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
HORIZON = 5  # sessions ahead, by default


@dataclass(frozen=True)
class Result:
    """Forecasts of N series from their latest sessions, and the series that are not answered."""

    version: Version
    spec: ModelSpec
    data: str
    digest: str
    currency: str  # of the data set; empty: not stated
    last: pd.Timestamp  # last session of the data set
    forecast: Forecast  # single-session returns
    cumulative: Floats  # [N, H, Q] log return from the cutoff to each step
    method: str  # of `cumulative`, in words
    sessions: Dates  # [N, H]
    closes: Floats | None  # [N] close at each cutoff; None if the data set has none
    frame: pd.DataFrame  # the latest sessions, up to each cutoff
    refused: tuple[Refused, ...]
    as_of: str  # when the history was known, as asked for; empty: what the files have

    @property
    def levels(self) -> tuple[float, ...]:
        return self.forecast.levels

    @property
    def prices(self) -> Floats | None:
        """Quantiles [N, H, Q] of the closes; None if the data set has no closes."""
        if self.closes is None:
            return None
        prices: Floats = self.closes[:, None, None] * np.exp(self.cumulative)
        return prices


def per_cent(log_return: Floats) -> Floats:
    """Log returns as changes in per cent: what tables and charts show."""
    changes: Floats = 100 * np.expm1(log_return)
    return changes


def of_bands(spec: ModelSpec) -> tuple[float, ...]:
    """Those of BANDS that the model can answer, or else its own."""
    lowest, highest = spec.levels[0], spec.levels[-1]
    answered = tuple(u for u in BANDS if spec.has_paths or lowest <= u <= highest)
    return answered or spec.levels


def forecast(
    settings: Settings,
    reference: str,
    *,
    data: str = "",
    symbols: Sequence[str] = (),
    horizon: int | None = None,
    levels: Sequence[float] = (),
    bands: bool = False,
    seed: int = 0,
    as_of: str = "",
    progress: Progress = silent,
) -> Result:
    """Forecast symbols of a data set (none named: all) after its latest sessions.

    With `as_of`, those that the ledger knew at that date's close or at that time.
    By default the data set is the one that the version was trained on, and the levels are all of
    the model or, for `bands`, those of BANDS. A bad series is in `refused`. Raises NotFound,
    Corrupt, BadParameter, and BadHistory if no series can be answered.
    """
    store = Store(settings)
    progress(f"verifying {reference}", 0.0)
    with store.load(reference) as model:
        spec = model.spec
        dataset = dataset_of(settings, model, data)
        check_suits(settings, store, model, dataset)
        default = of_bands(spec) if bands else spec.levels
        parameters = {"horizon": steps_of(spec, horizon), "seed": seed}
        request = spec.request({**parameters, "levels": levels or default})
        progress(f"reading {dataset.name}", 0.0)
        latest = _latest(settings, dataset, spec, as_of)
        needed = suitability.symbols_of(spec, dataset.name, latest.symbols, symbols)
        history, frame = _history(latest, spec, needed)
        if not history.ids:
            raise refusal(history)
        raw = passes.predict(model, history, request, progress)
    if symbols:  # a model with a universe was given all of it
        raw = passes.only(raw, symbols)
        asked = tuple(series for series in history.refused if series.unique_id in symbols)
        history = replace(history, refused=asked)
        if not raw.unique_id:
            raise refusal(history)
    return Result(
        version=model.version,
        spec=spec,
        data=dataset.name,
        digest=latest.digest,
        currency=dataset.origin.get("currency", ""),
        last=latest.last,
        forecast=raw.at(request.levels),
        cumulative=cumulative.quantiles(raw, request.levels, request.seed),
        method=cumulative.method(raw),
        sessions=calendars.next_sessions_many(spec.calendar, raw.cutoffs, raw.horizon),
        closes=_closes(frame, raw.unique_id),
        frame=frame,
        refused=history.refused,
        as_of=as_of,
    )


def dataset_of(settings: Settings, model: LoadedVersion, data: str) -> Dataset:
    """The data set of this name; by default that of the version. Raises NotFound."""
    datasets = Catalog(settings)
    name = data or model.version.tags.get("data", "")
    if name:
        return datasets.find(name)
    return datasets.first_with(model.spec.columns, model.spec.name)


def steps_of(spec: ModelSpec, horizon: int | None) -> int:
    """The horizon asked for; by default HORIZON, or the most that the model can."""
    return min(HORIZON, spec.max_horizon) if horizon is None else horizon


def _latest(settings: Settings, dataset: Dataset, spec: ModelSpec, as_of: str) -> Recent:
    return known(settings, dataset, spec, as_of) if as_of else recent(settings, dataset, spec)


def _history(
    latest: Recent, spec: ModelSpec, symbols: Sequence[str]
) -> tuple[History, pd.DataFrame]:
    """The checked history of the symbols, with those that are refused, and its frame.

    Series of a joint model end on the last session that all of them have.
    """
    late = suitability.stale(spec, latest.frame, symbols, latest.last)
    fresh = set(symbols) - {series.unique_id for series in late}
    frame = latest.frame[latest.frame[names.UNIQUE_ID].isin(fresh)]
    if not fresh or (late and spec.joint and not spec.subset):
        empty = History((), np.zeros(1, dtype=np.int64), np.array([], "datetime64[D]"), {})
        return replace(empty, refused=tuple(late)), frame
    frame = suitability.up_to_common(spec, frame).reset_index(drop=True)
    return checked(read_history(frame, spec), spec, late), frame


def checked(history: History, spec: ModelSpec, late: Sequence[Refused]) -> History:
    """What the model looks at, of the series that pass; `refused` has `late` and the others."""
    passing = screened(history.recent(spec.max_context), spec)
    notes = {name: text for name, text in passing.notes.items() if name != "refused"}
    refused = (*late, *map(_named, passing.refused))
    return replace(passing, refused=refused, notes=notes)


def _named(series: Refused) -> Refused:
    """A refused series whose message names it: the user's own symbols are no secret here."""
    fault = series.message.split(" ", 4)[4]  # after "series 2 of 40"
    return replace(series, message=f"{series.unique_id} {fault}")


def _closes(frame: pd.DataFrame, symbols: Sequence[str]) -> Floats | None:
    """Close [N] of each symbol in its last session; None without closes."""
    if CLOSE not in frame:
        return None
    last = frame.groupby(names.UNIQUE_ID, observed=True)[CLOSE].last()
    return last.loc[list(symbols)].to_numpy(dtype=np.float64)
