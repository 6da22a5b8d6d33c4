"""Publish what a night taught: with its evidence and verdicts, unless it makes forecasts worse."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from typing import Any

from jobs.nightly.folding import Source
from jobs.nightly.learned_from import LearnedFrom
from jobs.running.progress import Say
from registry.forecast import calendars
from registry.ledger import calibrations
from registry.ledger.states import States, Version
from registry.scoring.learning.learner import EFFECT_SESSIONS, Learner, Lesson
from registry.scoring.learning.nights import Night
from registry.scoring.learning.trail import Trail
from registry.scoring.learning.verdicts import CALIBRATED, STALE, UNCALIBRATED, verdict

BOUND = 0.01  # share by which a calibration may make the CRPS worse
_BETTER = (UNCALIBRATED, STALE, CALIBRATED)  # verdicts from the worst to the best
_WORDS = 1500  # characters of verdicts in a description, with their reasons
_LISTED = 20_000  # characters of clipped symbols that an evidence holds


@dataclass
class Published:
    """What became of the nights of a range."""

    numbers: list[int] = field(default_factory=list)
    verdicts: dict[str, str] = field(default_factory=dict)  # of the last night, by step
    steps: dict[str, dict[str, Any]] = field(default_factory=dict)  # evidence of these
    fell: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    older: int = 0  # nights before the newest calibration that were never published

    def summary(self) -> dict[str, Any]:
        return {
            "number": self.numbers[-1] if self.numbers else None,
            "published": len(self.numbers),
            "verdicts": self.verdicts or None,
            "verdict_fell": self.fell,
            "refused": self.refused,
            "not_newest": self.older or None,
        }


def worst(verdicts: Mapping[str, str]) -> str:
    """The worst verdict of the steps; uncalibrated without any."""
    places = [_BETTER.index(each) for each in verdicts.values()]
    return _BETTER[min(places, default=0)]


class Publisher:
    """Publishes nights of a scope, in order."""

    def __init__(self, source: Source, learner: Learner, say: Say) -> None:
        self.published = Published()
        self._source = source
        self._engine, self._scope = source.engine, source.scope
        self._learner = learner
        self._say = say
        self._before = calibrations.versions(self._engine, self._scope)
        self._last: Mapping[str, str] | None = None  # verdicts of the night before
        method = learner.method.name
        self._published = {one.learned_until for one in self._before if one.method == method}
        self._newest = max((one.learned_until for one in self._before), default=date.min)

    def publish(self, night: Night, lesson: Lesson, recent: Sequence[Night]) -> None:
        """Publish a night, which is the last of the `recent` ones.

        A night older than the newest calibration, if it was never published, stays so: it would
        take the place of the newer one. A night that was published keeps its calibration, even if
        a return came late since: the next night learns that.
        """
        judged = self._judged(night.session, lesson.memory.trail)
        verdicts = {step: evidence["state"] for step, evidence in judged.items()}
        self.published.verdicts, self.published.steps = verdicts, judged
        self._compare(night.session, verdicts)
        content = self._content(night.session, lesson)
        if night.session < self._newest or night.session in self._published:
            number = calibrations.number_of(self._engine, self._scope, **content)
            if number is None:
                self.published.older += 1
            else:
                self.published.numbers.append(number)
            return
        effect = self._learner.effect(lesson.states, recent)
        if effect[1] > (1 + BOUND) * effect[0]:
            self._refuse(night.session, effect)
            return
        evidence = {
            "verdicts": verdicts,
            "steps": judged,
            "crps": _crps(effect),
            "clipped": _listed(lesson.clipped),
            "clipped_number": len(lesson.clipped),
            "rejected": lesson.rejected,
            "nights": len(lesson.memory.trail.sessions),
            "learned_from": asdict(self._learned_from(night.session)),
        }
        number = calibrations.publish(self._engine, self._scope, **content, evidence=evidence)
        self.published.numbers.append(number)

    def _learned_from(self, session: date) -> LearnedFrom:
        return LearnedFrom.of(self._engine, self._scope, session, self._source.instant)

    def _content(self, session: date, lesson: Lesson) -> dict[str, Any]:
        """What a calibration is, beside its evidence."""
        keys, steps, bias, scale, offsets = lesson.states.flat()
        return {
            "method": self._learner.method.name,
            "learned_until": session,
            "levels": self._learner.levels,
            "states": States(keys=keys, steps=steps, bias=bias, scale=scale, offsets=offsets),
        }

    def _judged(self, session: date, trail: Trail) -> dict[str, dict[str, Any]]:
        """The evidence of each step's verdict after a night."""
        judged = {}
        for step in range(1, self._learner.horizon + 1):
            age = age_of(trail, step, session, self._source.calendar)
            judged[str(step)] = verdict(trail, step, age).evidence()
        return judged

    def _compare(self, session: date, verdicts: Mapping[str, str]) -> None:
        """Say which verdicts are worse than those of the calibration before this night."""
        before = self._verdicts_before(session)
        for step, state in verdicts.items():
            earlier = before.get(step, UNCALIBRATED)
            if earlier in _BETTER and _BETTER.index(state) < _BETTER.index(earlier):
                fall = f"{session}: step {step} is {state}, was {earlier}"
                self.published.fell.append(fall)
                reason = self.published.steps[step]["reason"]
                self._say(f"warning: the verdict on {self._name} fell on {fall}: {reason}")
        self._last = verdicts

    def _verdicts_before(self, session: date) -> Mapping[str, str]:
        if self._last is not None:
            return self._last
        earlier = [one for one in self._before if one.learned_until < session]
        verdicts = earlier[-1].evidence.get("verdicts", {}) if earlier else {}
        return verdicts if isinstance(verdicts, Mapping) else {}

    def _refuse(self, session: date, effect: tuple[float, float]) -> None:
        before, after = effect
        text = (
            f"{session}: CRPS of the last {EFFECT_SESSIONS} sessions would be {after:.6g} with it "
            f"and is {before:.6g} without, {100 * (after / before - 1):.1f} % worse"
        )
        self.published.refused.append(text)
        self._say(
            f"warning: a calibration of {self._name} is refused; the one before stays: {text}"
        )

    @property
    def _name(self) -> str:
        return f"{self._scope.model}/{self._scope.version} on {self._scope.data}"


def age_of(trail: Trail, step: int, session: date, calendar: str) -> int:
    """Sessions from the newest outcome of a step to a session; 0 without any."""
    matured = trail.sessions[trail.n[:, step - 1] > 0]
    if not len(matured):
        return 0
    return calendars.sessions_since(calendar, matured[-1].item(), session)


def _crps(effect: tuple[float, float]) -> dict[str, float | None]:
    before, after = (None if math.isnan(each) else each for each in effect)
    return {"before": before, "after": after}


def _listed(symbols: Sequence[str]) -> list[str]:
    """The first symbols, as many as an evidence has room for."""
    room, listed = _LISTED, []
    for symbol in symbols:
        room -= 6 * len(symbol) + 4  # JSON may write a character as \uXXXX
        if room < 0:
            break
        listed.append(symbol)
    return listed


def text_of(version: Version, data: str, learned_from: str) -> str:
    """A calibration in words, for a version's description."""
    verdicts = version.evidence.get("verdicts", {})
    steps = version.evidence.get("steps", {})
    short = [f"step {step} {state}" for step, state in verdicts.items()]
    whole = []
    for step, text in zip(verdicts, short, strict=True):
        reason = steps.get(step, {}).get("reason", "")
        whole.append(f"{text} ({reason})" if reason else text)
    parts = "; ".join(whole)
    if len(parts) > _WORDS:
        parts = "; ".join(short)
    head = (
        f"Number {version.number} on `{data}`, learned until {version.learned_until} by "
        f"{version.method} from {learned_from}"
    )
    return f"{head}: {parts}." if parts else f"{head}."
