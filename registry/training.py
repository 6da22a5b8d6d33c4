"""What training takes and gives: settings, surroundings, results. No version holds this file."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Protocol, get_type_hints

import pandas as pd
from pydantic import Field

from registry.errors import BadConfig, BadParameter
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.spec import MAX_HORIZON, ModelSpec, check_levels

# Types of settings with their bounds; Config refuses what lies outside.
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """What training of every family takes; a family's own Config adds its hyperparameters.

    `data` names a data set, `calendar` is its calendar. Sessions up to `fit_until` are fitted,
    those up to `choose_until` choose (early stop, hyperparameters). Later ones up to `report_until`
    (None: the end of the data) are only reported, from every `report_every`-th of them.
    """

    horizon: int = 5
    levels: tuple[float, ...] = names.LEVELS
    fit_until: str
    choose_until: str
    report_until: str | None = None
    report_every: Count = 1
    data: str
    calendar: str

    def __post_init__(self) -> None:
        if not 1 <= self.horizon <= MAX_HORIZON:
            raise BadParameter(
                f"horizon is {self.horizon}, expected 1..{MAX_HORIZON}", code="BAD_HORIZON"
            )
        check_levels(self.levels)
        for name, bounds in bounds_of(type(self)).items():
            if not bounds.hold(getattr(self, name)):
                raise BadConfig(f"{name} is {getattr(self, name)}, expected {bounds}")
        _check_dates(self.fit_until, self.choose_until, self.report_until)

    @property
    def training_columns(self) -> tuple[str, ...]:
        """Columns that training needs beside those of the spec."""
        return ()


LIMITS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {  # pydantic's names
    "ge": (operator.ge, "{:g} or more"),
    "gt": (operator.gt, "more than {:g}"),
    "le": (operator.le, "{:g} or less"),
    "lt": (operator.lt, "less than {:g}"),
}


@dataclass(frozen=True)
class Bounds:
    """Limits of a setting, by their names in LIMITS; as text they are words."""

    limits: Mapping[str, float]

    def hold(self, value: float) -> bool:
        return all(LIMITS[name][0](value, limit) for name, limit in self.limits.items())

    def __str__(self) -> str:
        return " and ".join(LIMITS[name][1].format(limit) for name, limit in self.limits.items())


def bounds_of(config_type: type[Config]) -> Mapping[str, Bounds]:
    """Bounds of the settings that have some, from the annotations of their fields."""
    hints = get_type_hints(config_type, include_extras=True)
    found = {}
    for name in [setting.name for setting in fields(config_type)]:
        limits: dict[str, float] = {}
        for info in getattr(hints[name], "__metadata__", ()):
            for limit in info.metadata:
                limits |= asdict(limit)
        if limits:
            found[name] = Bounds(limits)
    return found


def _check_dates(fit_until: str, choose_until: str, report_until: str | None) -> None:
    """Dates without a time zone, each later than the one before."""
    dates = [fit_until, choose_until, *([report_until] if report_until else [])]
    wrong = f"fit_until, choose_until and report_until are dates like 2018-12-31, found {dates}"
    try:
        stamps = [pd.Timestamp(date) for date in dates]
    except ValueError as error:
        raise BadConfig(wrong) from error
    if any(pd.isna(stamp) or stamp.tz is not None for stamp in stamps):
        raise BadConfig(wrong)
    if stamps != sorted(set(stamps)):
        raise BadConfig(f"expected fit_until < choose_until < report_until, found {dates}")


@dataclass(frozen=True)
class Range:
    """Values of a setting between `low` and `high`, both included.

    Whole numbers if both are int; else floats, tried to three significant digits. Spread evenly,
    or with `log` evenly over their logarithms.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise BadConfig(f"expected low < high, and 0 < low with log, found {self}")


Space = Mapping[str, Range | tuple[Any, ...]]  # values of each setting that a study searches


@dataclass(frozen=True)
class Trained:
    """What training hands back; figures are matplotlib's, tables frames, both by file stem."""

    forecaster: Forecaster
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)


class TrainRun(Protocol):
    """What training may ask of its surroundings."""

    checkpoint_dir: Path
    start_dir: Path | None  # verified model folder of the version to start from

    def report(self, step: int, **losses: float) -> None:
        """Say how far training is: progress bar and metrics."""
        ...

    def should_stop(self) -> bool:
        """True when the trial is to be given up."""
        ...

    def fit_member(
        self, model: str, history: pd.DataFrame, config: Config, seed: int, *, tiny: bool
    ) -> Trained:
        """Another model, fitted on this history with the shared settings that `config` has."""
        ...


class Family(Protocol):
    """What settings.py, train.py and model.py of mlprojects/<name> give together."""

    @property
    def name(self) -> str: ...

    @property
    def configs(self) -> Mapping[str, type[Config]]:
        """Settings by `kind`; a family of one kind has no such setting."""
        ...

    @property
    def search(self) -> Mapping[str, Space]:
        """What a study searches, by the same names; nothing where one is missing."""
        ...

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages that a version needs beside those of the wrapper."""
        ...

    def spec(self, name: str, config: Any) -> ModelSpec:
        """What the model needs and answers, as far as it is known before training."""
        ...

    def train(
        self, history: pd.DataFrame, config: Any, *, name: str, seed: int, run: TrainRun
    ) -> Trained:
        """Fit on a history that ends at config.choose_until."""
        ...

    def save(self, forecaster: Any, directory: Path) -> None: ...

    def load(self, directory: Path) -> Forecaster: ...
