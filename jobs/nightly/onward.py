"""Calibrations that are learned while missed nights are caught up.

A forecast needs the calibration of the night before it. Nights that are caught up in one go are
learned and published one by one here, between their forecasts. The job `calibrate` then learns the
same nights again for its run in MLflow, and finds its calibrations published.
"""

from datetime import date, datetime, timedelta

from jobs.nightly import ranges
from jobs.nightly.folding import Fold, Source, sessions_between
from jobs.nightly.memory_file import MemoryFile
from jobs.nightly.publishing import Publisher
from registry.forecast.names import SECTOR
from registry.ledger import calibrations, database, first_known, instants
from registry.ledger.archive import Archive
from registry.ledger.claims import now
from registry.ledger.states import Scope
from registry.scoring.learning.learner import DEFAULT, Learner
from registry.settings import Settings

_DAY = timedelta(days=1)
_LONGEST = 30 * _DAY  # without a session


class Onward:
    """Learns scopes up to the sessions before their next forecasts."""

    def __init__(self, settings: Settings, archive: Archive) -> None:
        self._settings = settings
        self._archive = archive
        self._of: dict[Scope, _Scope] = {}

    def learn(self, scope: Scope, cutoff: date) -> None:
        """Learn and publish the nights before a cutoff that no calibration has learned yet."""
        if scope not in self._of:
            made = _Scope.of(self._settings, self._archive, scope)
            if made is None:
                return
            self._of[scope] = made
        self._of[scope].learn_before(cutoff)

    def published(self, scope: Scope) -> set[int]:
        """Numbers of the calibrations that were published here."""
        return set(self._of[scope].numbers) if scope in self._of else set()


class _Scope:
    """One scope, whose memory goes on from night to night."""

    def __init__(self, source: Source, fold: Fold, publisher: Publisher, newest: date) -> None:
        self._source = source
        self._fold = fold
        self._publisher = publisher
        self._calendar = source.calendar
        self._newest = newest  # session that was learned
        self._began = False
        self._late = False  # whether returns came late since the first cutoff

    @classmethod
    def of(cls, settings: Settings, archive: Archive, scope: Scope) -> "_Scope | None":
        """None while the scope has no forecast, or where no calibration fits its levels."""
        instant = now()
        issued = ranges.issued(archive.engine, scope, instant)
        if issued is None or issued.unfit:
            return None
        before = calibrations.versions(archive.engine, scope)
        method = before[-1].method if before else DEFAULT
        learner = Learner(method, issued.levels, issued.horizon, sectors(archive, scope.data))
        source = Source(archive.engine, scope, issued.calendar, instant)
        fold = Fold(source, learner, MemoryFile(settings.state_dir, _quiet))
        publisher = Publisher(source, learner, _quiet)
        newest = max((one.learned_until for one in before), default=issued.first - _DAY)
        return cls(source, fold, publisher, newest)

    @property
    def numbers(self) -> list[int]:
        return self._publisher.published.numbers

    def learn_before(self, cutoff: date) -> None:
        """Learn what was known when the cutoff closed: a late return changes no older forecast."""
        since, until = self._newest + _DAY, cutoff - _DAY
        nights = sessions_between(self._calendar, since, until)
        if not nights:
            return
        close = min(instants.close_of(self._calendar, cutoff), self._source.instant)
        if not self._began:
            self._late = self._is_late(close)
        if self._late:
            self._fold.known_at(close)
        if self._began:
            lessons = self._fold.onward(nights[-1], checked=self._late)
        else:
            lessons = self._fold.lessons(nights[0], nights[-1])
            self._began = True
        for night, lesson in lessons:
            self._publisher.publish(night, lesson, [*self._fold.recent])
        self._newest = nights[-1]

    def _is_late(self, close: datetime) -> bool:
        source = self._source
        with database.read(source.engine) as connection:
            return first_known.came_late(connection, source.scope.data, close, source.instant)


def sectors(archive: Archive, data: str) -> dict[str, str]:
    """Sector of each symbol that has one."""
    listed = archive.symbols(data)
    known = listed[listed[SECTOR].notna()]
    return dict(zip(known["symbol"], known[SECTOR], strict=True))


def _quiet(_: str) -> None:
    """What there is to say is said by `calibrate`, which learns the same nights."""
