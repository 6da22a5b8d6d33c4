"""Learning a calibration: one night after the other, each from the memory of the night before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from registry.errors import BadParameter
from registry.forecast.arrays import Floats
from registry.scoring import metrics
from registry.scoring.calibration import calibrated
from registry.scoring.calibration_table import States, Table, check_grid
from registry.scoring.learning import trail as trails
from registry.scoring.learning.aci import Aci
from registry.scoring.learning.ewma import Ewma
from registry.scoring.learning.keys import Keys
from registry.scoring.learning.memory import Memory
from registry.scoring.learning.method import Method, Parts
from registry.scoring.learning.nights import Matured, Night
from registry.scoring.learning.rows import check_night, rows_of
from registry.scoring.learning.states import KeyStates
from registry.scoring.learning.tracking import Tracking
from registry.scoring.learning.trail import Trail

METHODS = ("tracking", "ewma", "aci")
DEFAULT = "tracking"
EFFECT_SESSIONS = 60  # that a candidate is tried on


@dataclass(frozen=True)
class Limits:
    """Largest change of a published number in one night.

    A doubled volatility needs a log scale of 0.69: 14 nights. One poisoned night changes a width
    by a twentieth.
    """

    bias: float = 0.05  # widths
    log_scale: float = 0.05
    offset: float = 0.05  # widths


@dataclass(frozen=True, eq=False)
class Lesson:
    """What one night taught."""

    memory: Memory
    states: KeyStates  # to publish
    clipped: tuple[str, ...]  # symbols whose change was limited
    rejected: int  # outcomes that were not learned from: outliers, forecasts without a width
    calibrated: tuple[Floats, ...]  # [N, Q] of each Matured, as issued with the states of its day


class Learner:
    """A method at the levels [Q] of a model, for steps 1 .. horizon.

    `method` is a name of METHODS, or a method with settings of its own.
    `sectors` need not hold every symbol. A symbol keeps the sector that it had when it first
    matured. Raises BadParameter for an unknown method, and for levels that no calibration has.
    """

    def __init__(
        self,
        method: str | Method,
        levels: Sequence[float],
        horizon: int,
        sectors: Mapping[str, str],
        limits: Limits = Limits(),
    ) -> None:
        self.levels = tuple(float(level) for level in levels)
        self.horizon = horizon
        self.sectors = sectors
        self.limits = limits
        check_grid(self.levels)
        self.method = _method(method, self.levels) if isinstance(method, str) else method

    @property
    def settings(self) -> str:
        """Text that differs where the method, its levels, its rates or the limits differ."""
        return f"{self.method!r} {self.limits!r}"

    def start(self) -> Memory:
        """The memory before the first night: forecasts are issued as they are."""
        levels = len(self.levels)
        identity = KeyStates.identity(self.horizon, levels)
        return Memory(
            method=self.method.name,
            settings=self.settings,
            levels=self.levels,
            keys=Keys.none(),
            parts=self.method.start(self.horizon, levels),
            issued=(identity,) * (self.horizon + 1),
            trail=Trail.empty(self.levels, self.horizon),
            learned_until=None,
            learned=0,
        )

    def learn(self, memory: Memory, night: Night) -> Lesson:
        """Learn from one session; the memory given stays as it is.

        Raises BadParameter if the memory is of other settings, or not older than the night.
        """
        self._check(memory, night)
        symbols = set[str]().union(*(matured.symbols for matured in night.matured))
        keys = memory.keys.with_symbols(symbols, self.sectors)
        issued = tuple(states.for_keys(keys) for states in memory.issued)
        parts = self._parts(memory, keys)
        rejected, calibrated = self._update(parts, night, issued)
        self.method.end(parts)
        target = KeyStates(keys, *self.method.states(parts, keys))
        published, limited = _limited(target, issued[-1], self.limits)
        after = Memory(
            method=memory.method,
            settings=memory.settings,
            levels=self.levels,
            keys=keys,
            parts=parts,
            issued=(*issued[1:], published),
            trail=self._trail(memory.trail, keys, night, calibrated),
            learned_until=night.session,
            learned=memory.learned + sum(len(matured.y) for matured in night.matured),
        )
        clipped = _named(keys, limited)
        return Lesson(after, published, clipped, rejected, calibrated)

    def _update(
        self, parts: Parts, night: Night, issued: Sequence[KeyStates]
    ) -> tuple[int, tuple[Floats, ...]]:
        """Learn in place; the rejected outcomes, and quantiles [N, Q] as they were issued."""
        rejected, calibrated = 0, []
        for matured in night.matured:
            # The outcomes of its cutoff's own session were not yet learned when it was issued.
            states = issued[-1 - matured.step]
            places = states.keys.places(matured.symbols)
            rows, flat = rows_of(matured, places, states, self.levels)
            rejected += flat
            if rows.z.size:
                rejected += self.method.update(parts, rows)
            symbol_rows = states.keys.first_symbol + places
            calibrated.append(
                states.calibrated(matured.step, symbol_rows, matured.quantiles, self.levels)
            )
        return rejected, tuple(calibrated)

    def _trail(
        self, before: Trail, keys: Keys, night: Night, calibrated: Sequence[Floats]
    ) -> Trail:
        if not night.matured:
            return before
        session = np.datetime64(night.session)
        day = trails.session_of(session, self.levels, keys.sectors, self.horizon)
        for matured, quantiles in zip(night.matured, calibrated, strict=True):
            sectors = keys.sector_of[keys.places(matured.symbols)]
            trails.add(day, matured.step, sectors, matured.y, (matured.quantiles, quantiles))
        return before.followed_by(day)

    def effect(self, states: KeyStates | Table, nights: Sequence[Night]) -> tuple[float, float]:
        """Mean CRPS of the last 60 nights, of raw forecasts and with these states; NaN of none."""
        table = states.table(self.levels) if isinstance(states, KeyStates) else states
        before, after = [np.zeros(0)], [np.zeros(0)]
        known: dict[tuple[str, ...], States] = {}  # nights have the same symbols, mostly
        for night in nights[-EFFECT_SESSIONS:]:
            for matured in night.matured:
                symbols = matured.symbols
                if symbols not in known:
                    known[symbols] = table.states(symbols, self.sectors, self.horizon)
                moved = self._moved(matured, known[symbols])
                before.append(metrics.crps(matured.y, matured.quantiles, self.levels))
                after.append(metrics.crps(matured.y, moved, self.levels))
        pooled = np.concatenate(before), np.concatenate(after)
        if not pooled[0].size:
            return float("nan"), float("nan")
        return float(pooled[0].mean()), float(pooled[1].mean())

    def _moved(self, matured: Matured, states: States) -> Floats:
        """Quantiles [N, Q] calibrated by the states of all steps, as the gateway does it."""
        step = slice(matured.step - 1, matured.step)
        of_step = States(
            levels=states.levels,
            bias=states.bias[:, step],
            scale=states.scale[:, step],
            offsets=states.offsets[:, step],
            applied=states.applied[:, step],
        )
        return calibrated(matured.quantiles[:, None], self.levels, of_step)[:, 0]

    def _parts(self, memory: Memory, keys: Keys) -> Parts:
        """Copies of the memory's parts; those of new keys are as at the start."""
        if keys is memory.keys:
            return {name: part.copy() for name, part in memory.parts.items()}
        rows, new = memory.keys.rows_in(keys)
        start = self.method.start(self.horizon, len(self.levels))
        parts = {}
        for name, part in memory.parts.items():
            if name in self.method.shared:
                parts[name] = part.copy()
                continue
            grown = part[:, rows]
            grown[:, new] = start[name]
            parts[name] = grown
        return parts

    def _check(self, memory: Memory, night: Night) -> None:
        if (memory.settings, memory.horizon) != (self.settings, self.horizon):
            raise BadParameter(
                f"the memory is of {memory.settings} and {memory.horizon} steps, the learner of "
                f"{self.settings} and {self.horizon}; learn again from the first night"
            )
        until = memory.learned_until
        if until is not None and night.session <= until:
            raise BadParameter(
                f"{night.session} was learned already: the memory reaches to {until}"
            )
        check_night(night, self.horizon, len(self.levels))


def _limited(
    target: KeyStates, before: KeyStates, limits: Limits
) -> tuple[KeyStates, npt.NDArray[np.bool_]]:
    """States no further from the last ones than the limits allow, and which keys [K] they met."""
    bias = _near(target.bias, before.bias, limits.bias)
    log_target = np.log(target.scale)
    log_scale = _near(log_target, np.log(before.scale), limits.log_scale)
    free = log_scale == log_target
    scale = np.where(free, target.scale, np.exp(log_scale))
    offsets = _near(target.offsets, before.offsets, limits.offset)
    moved = (bias != target.bias) | ~free | (offsets != target.offsets).any(axis=-1)
    return KeyStates(target.keys, bias, scale, offsets), moved.any(axis=0)


def _near(target: Floats, before: Floats, limit: float) -> Floats:
    near: Floats = np.clip(target, before - limit, before + limit)
    return near


def _named(keys: Keys, rows: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    """The symbols among the keys that are set in `rows` [K]."""
    places = np.flatnonzero(rows[keys.first_symbol :])
    return tuple(keys.symbols[place] for place in places)


def _method(name: str, levels: tuple[float, ...]) -> Method:
    methods: dict[str, type[Tracking] | type[Ewma] | type[Aci]]
    methods = {"tracking": Tracking, "ewma": Ewma, "aci": Aci}
    if name not in methods:
        raise BadParameter(f"no method {name!r}; there are {', '.join(METHODS)}")
    return methods[name](levels)
