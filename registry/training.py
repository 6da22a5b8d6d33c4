"""Interfaces of training: settings, runs, results, families. No version contains this file."""

import inspect
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Protocol, get_type_hints

import pandas as pd
from pydantic import Field

from registry.dates import check_date
from registry.errors import BadConfig, BadParameter
from registry.forecast import names
from registry.forecast.forecast import Forecaster
from registry.forecast.spec import MAX_HORIZON, ModelSpec, check_levels

_MEANING = re.compile(r"^(\w+): (.+(?:\n[ ]+.+)*)", re.MULTILINE)
DATES = ("fit_until", "choose_until", "report_until")

# Types of settings with their bounds; Config refuses values outside them.
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Training settings of every family; a family's own Config adds its hyperparameters.

    In the docstring of a Config, a line `key: meaning` describes each setting; `--help` shows it.

    horizon: sessions ahead.
    levels: levels of the forecast quantiles.
    fit_until: last session that fits the model.
    choose_until: last session that chooses between models (early stopping, hyperparameters).
    report_until: last session of the report; none: the end of the data.
    report_every: the report forecasts from every n-th session.
    data: name of a data set.
    calendar: the data set's exchange calendar.
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
        """Columns that training needs in addition to those of the spec."""
        return ()

    @property
    def fit_sessions(self) -> int:
        """Sessions up to fit_until that a series needs to be fitted."""
        return 1

    @property
    def choice_sessions(self) -> int:
        """Sessions after fit_until, up to choose_until, that one fitted series needs."""
        return 0

    @property
    def fits_each(self) -> bool:
        """Whether training needs fit_sessions of every series, and not only of one."""
        return False

    @property
    def moving_sessions(self) -> int:
        """Length of a window of sessions whose returns must not all be 0; 0 allows any."""
        return 0

    @property
    def screens(self) -> bool:
        """Whether every series of a training must pass the checks of a request."""
        return False


LIMITS: Mapping[str, tuple[Callable[[float, float], bool], str]] = {  # keys are pydantic's
    "ge": (operator.ge, "{:g} or more"),
    "gt": (operator.gt, "more than {:g}"),
    "le": (operator.le, "{:g} or less"),
    "lt": (operator.lt, "less than {:g}"),
}


@dataclass(frozen=True)
class Bounds:
    """Limits of a setting, by their keys in LIMITS. `str` describes them in words."""

    limits: Mapping[str, float]

    def hold(self, value: float) -> bool:
        return all(LIMITS[name][0](value, limit) for name, limit in self.limits.items())

    def __str__(self) -> str:
        return " and ".join(LIMITS[name][1].format(limit) for name, limit in self.limits.items())


def bounds_of(config_type: type[Config]) -> Mapping[str, Bounds]:
    """Bounds by setting, from the annotations of the fields; settings without bounds are absent."""
    hints = get_type_hints(config_type, include_extras=True)
    bounds = {}
    for setting in fields(config_type):
        limits: dict[str, float] = {}
        for info in getattr(hints[setting.name], "__metadata__", ()):
            for limit in info.metadata:
                limits |= asdict(limit)
        if limits:
            bounds[setting.name] = Bounds(limits)
    return bounds


def meanings_of(config_type: type[Config]) -> Mapping[str, str]:
    """Meaning by setting, from the lines `key: meaning` in the docstrings of a Config.

    Lines that go on are indented. A class overrides the lines of its bases.
    """
    meanings: dict[str, str] = {}
    for base in reversed(config_type.__mro__):
        lines = inspect.cleandoc(vars(base).get("__doc__") or "")
        for key, meaning in _MEANING.findall(lines):
            meanings[key] = " ".join(meaning.split())
    return meanings


def _check_dates(fit_until: str, choose_until: str, report_until: str | None) -> None:
    """Raise BadParameter for no ISO date, BadConfig unless each is later than the previous."""
    until = [fit_until, choose_until]
    if report_until:
        until.append(report_until)
    for key, value in zip(DATES, until, strict=False):
        check_date(value, key)
    if until != sorted(set(until)):
        raise BadConfig(f"expected fit_until < choose_until < report_until, found {until}")


@dataclass(frozen=True)
class Range:
    """Values of a setting between `low` and `high`, both included.

    Values are whole numbers if both are int, else floats rounded to three significant digits. They
    are spread evenly, or with `log` evenly over their logarithms.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        if not self.low < self.high or (self.log and self.low <= 0):
            raise BadConfig(f"expected low < high, and 0 < low with log, found {self}")


Space = Mapping[str, Range | tuple[Any, ...]]  # values to search, by setting


@dataclass(frozen=True)
class Trained:
    """Result of training. `figures` (of matplotlib) and `tables` are keyed by file stem.

    `left_out` says by series why it was not fitted.
    """

    forecaster: Forecaster
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


class TrainRun(Protocol):
    """Services for a running training."""

    checkpoint_dir: Path
    start_dir: Path | None  # verified model folder of the version to start from

    def report(self, step: int, **losses: float) -> None:
        """Show progress and log metrics."""
        ...

    def should_stop(self) -> bool:
        """Whether to give up this trial."""
        ...

    def fit_member(
        self, model: str, history: pd.DataFrame, config: Config, seed: int, *, tiny: bool
    ) -> Trained:
        """Fit another model on this history, with the shared settings of `config`."""
        ...


class Family(Protocol):
    """Interface of a family: settings.py, train.py and model.py of mlprojects/<name> together."""

    @property
    def name(self) -> str: ...

    @property
    def configs(self) -> Mapping[str, type[Config]]:
        """Config class by `kind`; a family with one kind has no setting `kind`."""
        ...

    @property
    def search(self) -> Mapping[str, Space]:
        """Search space of a study, by `kind`; a missing kind has nothing to search."""
        ...

    @property
    def requirements(self) -> tuple[str, ...]:
        """Packages that a version needs in addition to those of the wrapper."""
        ...

    def inherited(self, start_dir: Path) -> Mapping[str, Any]:
        """Settings that a fine-tune takes from the version in `start_dir`, its `kind` included.

        Only called for settings with a key `start_from`.
        """
        ...

    def spec(self, name: str, config: Any) -> ModelSpec:
        """Inputs and outputs of the model, as far as they are known before training."""
        ...

    def train(
        self, history: pd.DataFrame, config: Any, *, name: str, seed: int, run: TrainRun
    ) -> Trained:
        """Fit on a history that ends at config.choose_until."""
        ...

    def save(self, forecaster: Any, directory: Path) -> None: ...

    def load(self, directory: Path) -> Forecaster: ...
