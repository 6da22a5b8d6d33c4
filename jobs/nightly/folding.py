"""The nights of a version, learned in order: from the cache where it is right, else from the start.

What is known after a session is a function of the ledger alone. A memory of the cache is used only
if it says the same: it is older than the night that is asked for, and it counts as many outcomes
as the ledger holds until its session. A late price changes that count.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from hashlib import sha256

import pandas as pd
import sqlalchemy as sa

from jobs.nightly.memory_file import MemoryFile
from registry.errors import BadParameter
from registry.forecast import calendars
from registry.ledger import maturing
from registry.ledger.maturing import LedgerNight
from registry.ledger.states import Scope
from registry.scoring.learning.learner import EFFECT_SESSIONS, Learner, Lesson
from registry.scoring.learning.memory import Memory
from registry.scoring.learning.nights import Matured, Night

MEMORY = 1  # format of the arrays of a memory
_DAY = timedelta(days=1)


@dataclass(frozen=True)
class Source:
    """Where outcomes are read: a scope of the ledger as it was known at an instant."""

    engine: sa.Engine
    scope: Scope
    calendar: str
    instant: datetime


class Fold:
    """Learns a scope's nights, and keeps the last ones. `again` says why it began anew."""

    def __init__(self, source: Source, learner: Learner, cache: MemoryFile) -> None:
        self.recent: deque[Night] = deque(maxlen=EFFECT_SESSIONS)
        self.again = ""
        self.memory = learner.start()
        self._source = source
        self._learner = learner
        self._cache = cache

    def lessons(self, since: date, until: date) -> Iterator[tuple[Night, Lesson]]:
        """Each session from `since` to `until`, both sessions, with its lesson."""
        self.memory = self._cached(since) or self._learner.start()
        learned_until = self.memory.learned_until
        start = None if learned_until is None else self._earliest(learned_until)
        for night in self._nights(start, until):
            self.recent.append(night)
            if learned_until is not None and night.session <= learned_until:
                continue
            lesson = self._learner.learn(self.memory, night)
            self.memory = lesson.memory
            if night.session >= since:
                yield night, lesson

    def known_at(self, instant: datetime) -> None:
        """Learn the following nights from what was known at an instant."""
        self._source = replace(self._source, instant=instant)

    def onward(self, until: date, *, checked: bool) -> Iterator[tuple[Night, Lesson]]:
        """Each session after the last one that was learned, up to `until`, with its lesson.

        `checked`: all is learned again if the ledger holds more of what was learned.
        """
        learned_until = self.memory.learned_until
        is_old = checked and learned_until is not None
        if is_old and self._count(learned_until) != self.memory.learned:
            self.memory, start = self._learner.start(), None
            self.recent.clear()
        else:
            start = None if learned_until is None else learned_until + _DAY
        for night in self._nights(start, until):
            self.recent.append(night)
            lesson = self._learner.learn(self.memory, night)
            self.memory = lesson.memory
            if learned_until is None or night.session > learned_until:
                yield night, lesson

    def keep(self) -> None:
        """Write the memory into the cache. Raises KronosError on a full disk."""
        self._cache.write(self._source.scope, recipe_of(self._learner), self.memory.to_arrays())

    def _cached(self, since: date) -> Memory | None:
        """The memory of the cache if it is that of the ledger, and older than `since`."""
        arrays = self._cache.read(self._source.scope, recipe_of(self._learner))
        if arrays is None:
            return None
        try:
            memory = Memory.of_arrays(arrays)
        except BadParameter:
            self.again = "the cache holds a memory of another form"
            return None
        self.again = self._difference(memory, since)
        return None if self.again else memory

    def _difference(self, memory: Memory, since: date) -> str:
        """Why a memory of the cache cannot be used; empty: it can."""
        until = memory.learned_until
        if until is None or until >= since:
            return f"the cache has learned until {until}, and {since} is asked for"
        held = self._count(until)
        if held != memory.learned:
            return (
                f"the cache has learned {memory.learned} outcomes until {until}, and the ledger "
                f"holds {held}"
            )
        for symbol, place in zip(memory.keys.symbols, memory.keys.sector_of.tolist(), strict=True):
            sector = memory.keys.sectors[place] if place >= 0 else ""
            if self._learner.sectors.get(symbol, "") != sector:
                return f"{symbol} has another sector than the cache has learned it with"
        return ""

    def _count(self, until: date | None) -> int:
        """Outcomes that the ledger holds until a session."""
        source = self._source
        return maturing.count(source.engine, source.scope, until, as_of=source.instant)

    def _earliest(self, learned_until: date) -> date:
        """The first of the last EFFECT_SESSIONS sessions until a memory's."""
        days = 2 * EFFECT_SESSIONS + 30  # of the calendar: more than enough
        before = sessions_between(self._source.calendar, learned_until - days * _DAY, learned_until)
        return before[-EFFECT_SESSIONS:][0]

    def _nights(self, start: date | None, until: date) -> Iterator[Night]:
        """Every session from `start` (None: the first with an outcome) to `until`."""
        source = self._source
        matured = maturing.nights(source.engine, source.scope, start, until, as_of=source.instant)
        return without_gaps(matured, source.calendar, start, until)


def recipe_of(learner: Learner) -> str:
    """sha256 of the settings that a memory depends on, beside the ledger."""
    settings = (MEMORY, learner.settings, learner.levels, learner.horizon)
    return sha256(repr(settings).encode()).hexdigest()


def without_gaps(
    matured: Iterable[LedgerNight], calendar: str, start: date | None, until: date
) -> Iterator[Night]:
    """Nights of the ledger and, between them, those of the sessions without an outcome."""
    following = start
    for night in matured:
        if following is not None:
            yield from _empty(calendar, following, night.session - _DAY)
        yield _night(night)
        following = night.session + _DAY
    if following is not None:
        yield from _empty(calendar, following, until)


def sessions_between(calendar: str, first: date, last: date) -> list[date]:
    """Sessions from one day to another, both included; none if they are the other way round."""
    if first > last:
        return []
    index = calendars.sessions(calendar, pd.Timestamp(first), pd.Timestamp(last))
    days: list[date] = index.date.tolist()
    return days


def _empty(calendar: str, first: date, last: date) -> Iterator[Night]:
    for session in sessions_between(calendar, first, last):
        yield Night(session, ())


def _night(night: LedgerNight) -> Night:
    steps = []
    for one in night.matured:
        steps.append(Matured(one.step, one.symbols, one.y, one.quantiles))
    return Night(night.session, tuple(steps))
