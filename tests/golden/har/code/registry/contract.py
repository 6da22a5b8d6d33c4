"""What a history and a forecast are: columns, shapes, units, and the checks that hold them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from registry import bars, wire
from registry.errors import BadConfig, BadForecast, BadHistory, BadParameter, NotAvailable

Floats = npt.NDArray[np.float64]
OptionType = Literal["long", "double", "string", "boolean"]
DataName = Literal["panel", "bars"]

MAX_ABS_RETURN = 1.0  # a log return beyond this is a split or a typing error, not a session
MAX_LEVELS = 99


@dataclass(frozen=True)
class Option:
    """One request parameter that a family adds to horizon, levels, seed and output."""

    name: str
    type: OptionType
    default: Any
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """What a model needs and what it can answer; stored with the version, read by everyone."""

    name: str
    family: str
    min_context: int  # sessions every series must bring
    max_context: int  # sessions that are looked at; older ones change nothing
    max_horizon: int
    levels: tuple[float, ...] = wire.LEVELS  # trained; between them linear in the level
    columns: tuple[str, ...] = wire.HISTORY  # required columns of a history
    optional: tuple[str, ...] = ()  # columns that are used where they are sent
    has_paths: bool = False
    has_prices: bool = False
    joint: bool = False  # True: series influence each other and share one cutoff
    universe: tuple[str, ...] | None = None  # None: any symbol
    subset: bool = False  # a part of the universe can be forecast, too
    uses: tuple[str, ...] = ()  # other families whose code it runs
    synthetic: tuple[str, ...] = ()  # columns that were made up in the data it was trained on
    calendar: str = "XNYS"
    options: tuple[Option, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ModelSpec":
        values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in data.items()}
        values["options"] = tuple(Option(**{**o, "choices": tuple(o["choices"])}) for o in data["options"])
        return cls(**values)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What training of every family takes; a family's own Config adds its hyperparameters.

    Sessions up to `fit_until` are fitted, those up to `choose_until` choose (early stop, hyperparameters),
    later ones up to `report_until` (None: the end of the data) are only ever reported, from every `report_every`-th
    of them. `data` are returns of many stocks ("panel") or fewer series with their bars ("bars").
    """

    horizon: int = 5
    levels: tuple[float, ...] = wire.LEVELS
    fit_until: str = "2018-12-31"
    choose_until: str = "2019-12-31"
    report_until: str | None = None
    report_every: int = 1
    data: DataName = "panel"

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= 60:
            raise BadConfig(f"horizon is {self.horizon}, expected 1..60", code="BAD_HORIZON")
        check_levels(self.levels)
        if self.report_every < 1:
            raise BadConfig(f"report_every is {self.report_every}, expected 1 or more sessions")
        if self.data not in get_args(DataName):
            raise BadConfig(f"data is {self.data!r}, expected one of {list(get_args(DataName))}")
        dates = [self.fit_until, self.choose_until, *([self.report_until] if self.report_until else [])]
        try:
            stamps = [pd.Timestamp(d) for d in dates]
        except ValueError as error:
            raise BadConfig(
                f"fit_until, choose_until and report_until are dates like 2018-12-31, found {dates}"
            ) from error
        if any(pd.isna(stamp) or stamp.tz is not None for stamp in stamps):
            raise BadConfig(f"fit_until, choose_until and report_until are dates like 2018-12-31, found {dates}")
        if stamps != sorted(set(stamps)):
            raise BadConfig(f"expected fit_until < choose_until < report_until, found {dates}")


@dataclass(frozen=True)
class History:
    """A history as arrays: N series one after the other, sorted by name, then session.

    `check_history` makes one of a frame that keeps the contract; series i has rows bounds[i] .. bounds[i + 1].
    """

    ids: tuple[str, ...]
    bounds: npt.NDArray[np.int64]  # [N + 1]
    ds: npt.NDArray[np.datetime64]  # [rows] sessions, datetime64[D]
    columns: Mapping[str, Floats]  # y and what else the model declared, each [rows]

    @classmethod
    def of(cls, frame: pd.DataFrame, columns: Sequence[str] = (wire.Y,)) -> "History":
        """Arrays of a sorted frame without missing names; nothing else is checked."""
        names = pa.array(frame[wire.UNIQUE_ID])  # pandas keeps text in Arrow: comparing it there is the fastest
        names = names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names
        names = names.dictionary_decode() if pa.types.is_dictionary(names.type) else names  # categories
        runs = pc.run_end_encode(names, run_end_type=pa.int64())
        bounds = np.concatenate([[0], runs.run_ends.to_numpy()])
        ds = frame[wire.DS].to_numpy().astype("datetime64[D]")
        values = {name: frame[name].to_numpy(dtype=np.float64) for name in columns}
        return cls(tuple(runs.values.to_pylist()), bounds, ds, values)

    def sessions(self, which: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.datetime64]:
        """The last sessions [n, length] of some series, datetime64[D]."""
        rows: npt.NDArray[np.datetime64] = self.ds[self.bounds[1:][which, None] - length + np.arange(length)]
        return rows

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Sessions [N] of each series."""
        return np.diff(self.bounds)

    @property
    def cutoffs(self) -> npt.NDArray[np.datetime64]:
        """Last session [N] of each series, datetime64[D]."""
        return self.ds[self.bounds[1:] - 1]

    def last(self, column: str) -> Floats:
        """Value [N] of each series' last session."""
        return self.columns[column][self.bounds[1:] - 1]

    def blocks(
        self, max_context: int, columns: Sequence[str] = (wire.Y,)
    ) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
        """Series of equal length together: (indices [n], values [n, T, C]), the last `max_context` rows of each."""
        lengths = np.minimum(self.lengths, max_context)
        for length in np.unique(lengths):
            which = np.flatnonzero(lengths == length)
            rows = self.bounds[1:][which, None] - length + np.arange(length)
            yield which, np.stack([self.columns[name][rows] for name in columns], axis=2)


@dataclass(frozen=True)
class Forecast:
    """Single-session log returns at cutoff+1 .. cutoff+H of N series.

    quantiles [N, H, Q] at `levels`, never crossing; mean [N, H]; paths [N, S, H] of a path model;
    price_paths [N, S, H, 6] (open high low close volume amount) of a model that knows prices.
    `notes` are said to the caller ("simulated", "history truncated", ...); `measured` are numbers [N] about the
    making of this forecast that an evaluation averages (`bars_corrected`: share of sampled bars that were impossible).
    """

    unique_id: tuple[str, ...]
    cutoffs: npt.NDArray[np.datetime64]  # [N] last session of each history, datetime64[D]
    levels: tuple[float, ...]
    quantiles: Floats
    mean: Floats
    paths: Floats | None = None
    price_paths: Floats | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    measured: Mapping[str, Floats] = field(default_factory=dict)

    @classmethod
    def of_price_paths(
        cls,
        history: "History",
        price_paths: Floats,
        levels: Sequence[float],
        *,
        notes: Mapping[str, str],
        measured: Mapping[str, Floats],
    ) -> "Forecast":
        """Empirical quantiles and mean of sampled bars [N, S, H, 6]."""
        paths = bars.path_returns(price_paths, history.last(wire.OHLC[3]))
        quantiles = np.moveaxis(np.quantile(paths, np.asarray(levels), axis=1), 0, 2)
        mean = paths.mean(axis=1)
        return cls(history.ids, history.cutoffs, tuple(levels), quantiles, mean, paths, price_paths, notes, measured)

    @property
    def horizon(self) -> int:
        return int(self.mean.shape[1])

    def to_frame(self, sessions: npt.NDArray[np.datetime64]) -> pd.DataFrame:
        """Long frame unique_id, step, ds, mean, q...; `sessions` [N, H] are the forecast sessions."""
        n, h = self.mean.shape
        columns: dict[str, Any] = {
            wire.UNIQUE_ID: pd.array(self.unique_id, dtype="str").repeat(h),
            wire.STEP: np.tile(np.arange(1, h + 1), n),
            wire.DS: sessions.reshape(-1).astype("datetime64[ns]"),
            wire.MEAN: self.mean.reshape(-1),
        }
        flat = self.quantiles.reshape(n * h, -1)
        columns |= {wire.quantile_column(level): flat[:, i] for i, level in enumerate(self.levels)}
        return self._noted(columns)

    def to_price_frame(self, sessions: npt.NDArray[np.datetime64]) -> pd.DataFrame:
        """Long frame unique_id, step, ds, the median of every field of the bar, and mean and q... of the close.

        Medians keep the order of a bar: what holds in every path holds between them.
        """
        if self.price_paths is None:
            raise NotAvailable("this model forecasts returns; it knows no prices")
        n, _, h, _ = self.price_paths.shape
        closes = self.price_paths[..., 3]
        columns: dict[str, Any] = {
            wire.UNIQUE_ID: pd.array(self.unique_id, dtype="str").repeat(h),
            wire.STEP: np.tile(np.arange(1, h + 1), n),
            wire.DS: sessions.reshape(-1).astype("datetime64[ns]"),
        }
        medians = np.median(self.price_paths, axis=1).reshape(n * h, -1)
        columns |= {name: medians[:, i] for i, name in enumerate(wire.BAR)}
        columns[wire.MEAN] = closes.mean(axis=1).reshape(-1)
        flat = np.quantile(closes, np.asarray(self.levels), axis=1).reshape(len(self.levels), -1)
        columns |= {wire.quantile_column(level): flat[i] for i, level in enumerate(self.levels)}
        return self._noted(columns)

    def _noted(self, columns: dict[str, Any]) -> pd.DataFrame:
        """The frame, with what there is to say in a column of its own: MLflow's reply has no other place."""
        frame = pd.DataFrame(columns)
        return frame.assign(**{wire.NOTES: "; ".join(self.notes.values())}) if self.notes else frame


class Forecaster(Protocol):
    """A trained model. `predict` is a pure function of its arguments and safe to call from threads."""

    spec: ModelSpec

    def predict(
        self, history: History, horizon: int, levels: Sequence[float], seed: int, options: Mapping[str, Any]
    ) -> Forecast:
        """Forecast of every series; `history`, `horizon`, `levels` and `options` are already checked."""
        ...


class TrainRun(Protocol):
    """What training may ask of its surroundings."""

    checkpoint_dir: Path
    start_dir: Path | None  # the model folder of the version to start from, verified

    def report(self, step: int, **losses: float) -> None:
        """Say how far training is: progress bar and metrics."""
        ...

    def should_stop(self) -> bool:
        """True when the trial is to be given up."""
        ...

    def fit_member(self, model: str, history: pd.DataFrame, config: Config, seed: int, *, tiny: bool) -> "Trained":
        """Another model, fitted on this history with the settings that every family shares, as `config` has them."""
        ...


@dataclass(frozen=True)
class Trained:
    """What training hands back; figures are matplotlib figures, tables frames, both by file stem."""

    forecaster: Forecaster
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class Range:
    """Values of a setting between `low` and `high`, both included: whole ones if both are int, else floats, which are
    tried to three significant digits; evenly spread, or evenly over their logarithms."""

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise BadConfig(f"expected low < high, and 0 < low with log, found {self}")


# --- checks -----------------------------------------------------------------------------------


def check_levels(levels: Sequence[float]) -> None:
    """Raise BadParameter unless levels are 1..99 numbers in (0, 1), ascending and distinct."""
    try:
        values = np.asarray(levels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise BadParameter(f"levels are 1..{MAX_LEVELS} numbers", code="BAD_LEVELS") from error
    if values.ndim != 1 or not 1 <= len(values) <= MAX_LEVELS:
        raise BadParameter(f"levels are 1..{MAX_LEVELS} numbers, found {values.size}", code="BAD_LEVELS")
    if not np.all((values > 0) & (values < 1)):
        raise BadParameter("every level must lie strictly between 0 and 1, as in 0.05,0.5,0.95", code="BAD_LEVELS")
    if np.any(np.diff(values) <= 0):
        raise BadParameter("levels must be ascending and distinct, as in 0.05,0.5,0.95", code="BAD_LEVELS")


def check_request(spec: ModelSpec, horizon: int, levels: Sequence[float], options: Mapping[str, Any]) -> None:
    """Raise BadParameter unless the model can answer this horizon, these levels and these options."""
    if not 1 <= horizon <= spec.max_horizon:
        raise BadParameter(
            f"horizon is {horizon}; {spec.name} forecasts 1..{spec.max_horizon} sessions", code="BAD_HORIZON"
        )
    check_levels(levels)
    low, high = spec.levels[0], spec.levels[-1]
    if not spec.has_paths and (levels[0] < low or levels[-1] > high):
        raise BadParameter(
            f"levels reach from {levels[0]} to {levels[-1]}; {spec.name} was trained on {low}..{high}",
            code="BAD_LEVELS",
        )
    known = {option.name: option for option in spec.options}
    for name, value in options.items():
        if name not in known:
            raise BadParameter(f"{spec.name} has no parameter {name!r}; it has {sorted(known)}", code="UNKNOWN_PARAM")
        _check_option(known[name], value)


def _check_option(option: Option, value: Any) -> None:
    if option.choices and value not in option.choices:
        raise BadParameter(f"{option.name} must be one of {list(option.choices)}", code="BAD_OPTION")
    if option.type == "boolean" and not isinstance(value, bool | np.bool_):
        raise BadParameter(f"{option.name} must be true or false", code="BAD_OPTION")
    if option.type in ("long", "double"):
        low = -np.inf if option.minimum is None else option.minimum
        high = np.inf if option.maximum is None else option.maximum
        if isinstance(value, bool) or not isinstance(value, int | float | np.number):
            raise BadParameter(f"{option.name} must be a number, expected {low:g}..{high:g}", code="BAD_OPTION")
        whole = option.type == "double" or float(value).is_integer()
        if not (np.isfinite(value) and low <= value <= high and whole):
            kind = "a number in " if option.type == "double" else "a whole number in "
            raise BadParameter(f"{option.name} is {value}, expected {kind}{low:g}..{high:g}", code="BAD_OPTION")


def check_history(frame: pd.DataFrame, spec: ModelSpec) -> History:
    """The history that `frame` holds. Raises BadHistory unless it is what the contract says.

    Sorted by (unique_id, ds), no duplicate session, midnight tz-naive `ds`, finite numbers,
    |y| <= 1, enough sessions for this model, some return that is not 0 among them, its universe. Calendar membership is
    checked by the wrapper.
    """
    missing = [c for c in spec.columns if c not in frame.columns]
    if missing:
        raise BadHistory(f"history lacks {missing}; {spec.name} needs {list(spec.columns)}", code="MISSING_COLUMN")
    if frame.empty:
        raise BadHistory(f"history has no rows; {spec.name} needs {spec.min_context} sessions a series", code="EMPTY")
    ds = frame[wire.DS].to_numpy()
    if ds.dtype.kind != "M":
        raise BadHistory("ds must be tz-naive session dates, as in 2022-12-28", code="BAD_TIMESTAMP")
    if np.isnat(ds).any():
        raise BadHistory("ds is missing in some row", code="BAD_TIMESTAMP")
    if np.any(ds.astype("datetime64[D]").astype(ds.dtype) != ds):
        raise BadHistory("ds must be the date of a session at midnight, found a time of day", code="BAD_TIMESTAMP")
    if frame[wire.UNIQUE_ID].array.isna().any():
        raise BadHistory("unique_id is missing in some row", code="BAD_SYMBOL")
    if not pd.api.types.is_string_dtype(frame[wire.UNIQUE_ID]):
        raise BadHistory("unique_id must be text", code="BAD_SYMBOL")
    numbers = numeric_columns(frame, spec)
    for column in numbers:
        if frame[column].dtype.kind not in "iuf":
            raise BadHistory(f"{column} must be numbers, found {frame[column].dtype}", code="NOT_A_NUMBER")
    history = History.of(frame, numbers)
    if "" in history.ids:
        raise BadHistory("unique_id is empty in some row", code="BAD_SYMBOL")
    _check_sessions(history)
    _check_numbers(history)
    _check_series(history, spec)
    if set(wire.OHLC) <= set(spec.columns):
        bars.check(history.columns, history.ids, history.bounds)
    return history


def numeric_columns(frame: pd.DataFrame, spec: ModelSpec) -> list[str]:
    """Columns of numbers that this model takes of this frame: all required ones, and the optional ones it has."""
    return [*spec.columns[2:], *(name for name in spec.optional if name in frame.columns)]


def _check_sessions(history: History) -> None:
    """Series sorted by name; within each, sessions ascending and each once."""
    if any(one >= other for one, other in pairwise(history.ids)):
        raise BadHistory("history must be sorted by unique_id, then ds", code="UNSORTED")
    step = np.diff(history.ds).astype(np.int64)
    step[history.bounds[1:-1] - 1] = 1  # from one series to the next
    rows = np.flatnonzero(step <= 0)
    if rows.size:
        which = _series(history, int(np.searchsorted(history.bounds, rows[0], side="right")) - 1)
        twice = step[rows[0]] == 0
        raise BadHistory(
            f"{which} has {'the same session twice' if twice else 'sessions out of order'} (row {rows[0] + 1}); "
            "sort by unique_id, ds and send each session once",
            code="DUPLICATE_SESSION" if twice else "UNSORTED",
        )


def _check_numbers(history: History) -> None:
    for name, values in history.columns.items():
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            raise BadHistory(f"{name} is not finite in {wrong.size} rows, first in row {wrong[0]}", code="NON_FINITE")
    wrong = np.flatnonzero(np.abs(history.columns[wire.Y]) > MAX_ABS_RETURN)
    if wrong.size:
        raise BadHistory(
            f"|y| exceeds {MAX_ABS_RETURN:g} in {wrong.size} rows, first in row {wrong[0]}; y is a log return",
            code="BAD_RETURN",
        )


def _check_series(history: History, spec: ModelSpec) -> None:
    """Enough sessions, some return that is not 0; the universe and the common cutoff of a model that has one."""
    short = np.flatnonzero(history.lengths < spec.min_context)
    if short.size:
        raise BadHistory(
            f"{_series(history, short[0])} has {history.lengths[short[0]]} sessions, {spec.name} needs "
            f"{spec.min_context}" + (f"; {short.size} series are too short" if short.size > 1 else ""),
            code="TOO_SHORT",
        )
    moved = np.concatenate([[0], np.cumsum(history.columns[wire.Y] != 0)])
    ends = history.bounds[1:]
    still = np.flatnonzero(moved[ends] == moved[np.maximum(history.bounds[:-1], ends - spec.max_context)])
    if still.size:
        raise BadHistory(
            f"{_series(history, still[0])} has a return of 0 in each of its last "
            f"{min(history.lengths[still[0]], spec.max_context)} sessions; such a series has no scale to forecast",
            code="CONSTANT",
        )
    if spec.universe is not None:
        _check_universe(history, spec, spec.universe)
    if spec.joint and len(np.unique(history.cutoffs)) > 1:
        raise BadHistory(f"{spec.name} needs one common last session for all series", code="CUTOFFS_DIFFER")


def _check_universe(history: History, spec: ModelSpec, universe: tuple[str, ...]) -> None:
    """Only series of the universe, and all of them unless a subset will do; what is missing is named."""
    unknown = [i for i, name in enumerate(history.ids) if name not in universe]
    if unknown:
        raise BadHistory(
            f"{_series(history, unknown[0])} is none of the {len(universe)} that {spec.name} knows"
            + (f", nor are {len(unknown) - 1} others" if len(unknown) > 1 else "")
            + "; the version's tag `symbols` lists them",
            code="UNIVERSE",
        )
    missing = sorted(set(universe) - set(history.ids))
    if missing and not spec.subset:
        raise BadHistory(
            f"{spec.name} forecasts its {len(universe)} series together; the history lacks {', '.join(missing)}",
            code="UNIVERSE",
        )


def _series(history: History, index: int) -> str:
    """Position of a series in words; its name is the caller's data and is not repeated."""
    return f"series {index + 1} of {len(history.ids)}"


def check_forecast(forecast: Forecast, spec: ModelSpec, horizon: int, levels: Sequence[float]) -> None:
    """Raise BadForecast unless shapes, finiteness and order of the quantiles hold."""
    n = len(forecast.unique_id)
    for name, found, expected in (
        ("quantiles", forecast.quantiles.shape, (n, horizon, len(levels))),
        ("mean", forecast.mean.shape, (n, horizon)),
    ):
        if found != expected:
            raise BadForecast(f"{spec.name}: {name} have shape {found}, expected {expected}")
    if not (np.isfinite(forecast.quantiles).all() and np.isfinite(forecast.mean).all()):
        raise BadForecast(f"{spec.name}: the forecast holds a value that is not finite")
    if np.any(np.diff(forecast.quantiles, axis=2) < 0):
        raise BadForecast(f"{spec.name}: quantiles cross")
    if spec.has_paths:
        _check_paths(spec, "paths", forecast.paths, (n, horizon))
    if spec.has_prices:
        _check_paths(spec, "price_paths", forecast.price_paths, (n, horizon, len(wire.BAR)))
    for name, values in forecast.measured.items():
        if values.shape != (n,) or not np.isfinite(values).all():
            raise BadForecast(f"{spec.name}: {name} must be {n} finite numbers, found shape {values.shape}")


def _check_paths(spec: ModelSpec, name: str, paths: Floats | None, expected: tuple[int, ...]) -> None:
    """`expected` is the shape without its second axis, which counts paths."""
    if paths is None or paths.shape[:1] + paths.shape[2:] != expected:
        found = None if paths is None else paths.shape
        raise BadForecast(f"{spec.name}: {name} have shape {found}, expected {(expected[0], 'S', *expected[1:])}")
    if not np.isfinite(paths).all():
        raise BadForecast(f"{spec.name}: {name} hold a value that is not finite")


# --- quantiles --------------------------------------------------------------------------------


def at_levels(quantiles: Floats, trained: Sequence[float], wanted: Sequence[float]) -> Floats:
    """Quantiles [..., Q] at other levels, linear in the level; outside the trained grid NotAvailable is raised."""
    if tuple(wanted) == tuple(trained):
        return quantiles
    grid, levels = np.asarray(trained), np.asarray(wanted, dtype=np.float64)
    if levels[0] < grid[0] or levels[-1] > grid[-1]:
        raise NotAvailable(f"levels {levels[0]:g}..{levels[-1]:g} reach outside the trained {grid[0]:g}..{grid[-1]:g}")
    right = np.clip(np.searchsorted(grid, levels), 1, len(grid) - 1) if len(grid) > 1 else np.zeros(len(levels), int)
    left = np.maximum(right - 1, 0)
    span = np.where(grid[right] > grid[left], grid[right] - grid[left], 1.0)
    weight = (levels - grid[left]) / span
    low, high = quantiles[..., left], quantiles[..., right]
    # Rounding must not lift an interpolated quantile above the next trained one: that would be a crossing.
    interpolated: Floats = np.where(weight == 1.0, high, np.minimum(low + weight * (high - low), high))
    return interpolated


def quantile_mean(quantiles: Floats, levels: Sequence[float]) -> Floats:
    """Integral [...] of the quantile function [..., Q]: trapezes between levels, constant beyond the outer ones.

    A level's weight is the width of its cell: from halfway to the level before to halfway to the one after.
    """
    u = np.asarray(levels, dtype=np.float64)
    weights = np.diff(np.concatenate([[0.0], (u[1:] + u[:-1]) / 2, [1.0]]))
    mean: Floats = (quantiles * weights).sum(axis=-1)
    return mean
