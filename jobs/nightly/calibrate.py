"""Calibrate versions: learn from what came true, night by night, and publish what was learned.

What a night publishes depends on the ledger alone. So a night that runs twice, is killed and run
again, or is caught up later gives the same bits.
"""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from jobs.nightly import calibration_record, ranges
from jobs.nightly.alone import alone
from jobs.nightly.course import Recorder
from jobs.nightly.folding import Fold, Source, sessions_between
from jobs.nightly.learned_from import LearnedFrom
from jobs.nightly.memory_file import MemoryFile
from jobs.nightly.onward import sectors
from jobs.nightly.production import in_production
from jobs.nightly.publishing import Published, Publisher, worst
from jobs.nightly.ranges import JOB, Asked, Range
from jobs.running.progress import Progress, Say, silent
from registry.errors import BadParameter, KronosError
from registry.ledger import calibrations, instants
from registry.ledger.archive import Archive
from registry.ledger.job_runs import job_run
from registry.ledger.states import Scope
from registry.promotion.opening import open_ledger
from registry.scoring.learning.learner import DEFAULT, METHODS, Learner
from registry.settings import Settings
from registry.text import printable
from registry.versions.store import Store
from registry.versions.tracking import Run
from registry.versions.version import Version

TOGETHER = 60  # nights of a range that are each published; of a longer one only the last is


@dataclass
class Calibrated:
    """What was done for one version, or why nothing was."""

    version: Version
    data: str
    method: str = ""
    since: date | None = None
    until: date | None = None
    nights: int = 0
    learned_from: str = ""  # live or backfilled nights, all that it has learned
    published: Published = field(default_factory=Published)
    metrics: dict[str, float] = field(default_factory=dict)  # of the last night
    run_id: str = ""
    learned_again: str = ""  # why the cache was not used
    quarantined: list[str] = field(default_factory=list)  # damaged files of the cache
    note: str = ""  # why there was nothing to do
    error: KronosError | None = None

    @property
    def name(self) -> str:
        return f"{self.version.reference} on {self.data}" if self.data else self.version.reference

    @property
    def title(self) -> str:
        """Of a picture."""
        return f"{self.name}, learned from {self.learned_from}"

    def line(self) -> str:
        """One line for people."""
        name = self.name
        if self.error is not None:
            return f"{name}: failed: {self.error.code}: {self.error.message}"
        if self.note:
            return f"{name}: nothing to do, {self.note}"
        published = self.published
        number = f"calibration {published.numbers[-1]}" if published.numbers else "nothing"
        return (
            f"{name}: learned {self.nights} nights until {self.until} by {self.method}, published "
            f"{number}; learned so far: {self.learned_from}; worst verdict "
            f"{worst(published.verdicts)}"
        )

    def summary(self) -> dict[str, Any]:
        """JSON-ready; what is empty is left out."""
        facts = {
            "method": self.method,
            "since": self.since and self.since.isoformat(),
            "until": self.until and self.until.isoformat(),
            "nights": self.nights,
            "learned_from": self.learned_from,
            **self.published.summary(),
            **{key: round(value, 6) for key, value in self.metrics.items()},
            "run_id": self.run_id,
            "learned_again": self.learned_again,
            "quarantined": self.quarantined,
            "note": self.note,
            "error": self.error and {"code": self.error.code, "message": self.error.message},
        }
        named = {"model": self.version.name, "version": self.version.version, "data": self.data}
        return named | {key: value for key, value in facts.items() if value not in (None, "", [])}


def on_stderr(line: str) -> None:
    print(printable(line), file=sys.stderr)


def calibrate(
    settings: Settings,
    references: Sequence[str] = (),
    *,
    data: str = "",
    method: str = "",
    since: str = "",
    until: str = "",
    as_of: str = "",
    progress: Progress = silent,
    say: Say = on_stderr,
) -> list[Calibrated]:
    """Calibrate versions (none named: all in Production) on a data set (default: their own).

    The range begins with the first session that was not learned yet, and ends with the last one
    that the ledger has outcomes of; `as_of` means as the ledger knew it then. The method is by
    default that of the last calibration. Of more than TOGETHER nights only the last is published. A
    version that fails does not stop the others: its `error` says why. `say` hears of what a person
    should see. Raises NotFound, BadParameter, and Conflict (ALREADY_RUNNING).
    """
    if method and method not in METHODS:
        raise BadParameter(f"method is {method[:80]!r}, expected one of {', '.join(METHODS)}")
    asked = Asked.of(since, until)
    instants.is_date(as_of or None)  # also refuses what is no time, where nothing is calibrated
    done: list[Calibrated] = []
    with alone(settings, JOB), _Calibrating(settings, progress, say) as job:
        for version in job.versions(references):
            done += job.tried(version, data, method, asked, as_of)
    return done


def roll_back(settings: Settings, reference: str, data: str = "") -> dict[str, Any]:
    """Make the previous calibration of a version current again, and the current one previous.

    Twice is as never. The next night that is calibrated becomes current in any case. Raises
    NotFound, and Conflict (NOTHING_BEFORE).
    """
    with _Calibrating(settings, silent, on_stderr) as job:
        [version] = job.versions([reference])
        scope = job.scope(version, data)
        number = calibrations.roll_back(job.engine, scope)
        calibration_record.describe(job.store, version, job.engine, scope)
    return {
        "model": scope.model,
        "version": scope.version,
        "data": scope.data,
        "number": number,
        "rolled_back": True,
    }


class _Calibrating:
    """What all versions of one start share: the registry, the ledger and the cache."""

    def __init__(self, settings: Settings, progress: Progress, say: Say) -> None:
        self._settings = settings
        self._progress = progress
        self._say = say
        self.store = Store(settings)
        self._archive = Archive(settings)
        self.engine = self._archive.engine
        with open_ledger(self.store) as ledger:
            self._registry = ledger.registry

    def __enter__(self) -> "_Calibrating":
        return self

    def __exit__(self, *_: object) -> None:
        self._archive.close()

    def versions(self, references: Sequence[str]) -> list[Version]:
        """Versions by their references, each once; none named: all in Production. NotFound."""
        if references:
            named = [self.store.resolve(reference) for reference in references]
            return list({version.reference: version for version in named}.values())
        return in_production(self.store.models())

    def scope(self, version: Version, data: str) -> Scope:
        """The scope of a version on a data set, by default that of its training or forecasts.

        Raises BadParameter if there are several.
        """
        name = data or version.tags.get("data", "")
        if not name:
            forecast = ranges.data_sets(self.engine, self._registry, version.name, version.version)
            if len(forecast) != 1:
                raise BadParameter(
                    f"{version.reference} names no data set that it was trained on, and has "
                    f"forecasts of {', '.join(forecast) or 'none'}; name one with --data"
                )
            [name] = forecast
        return Scope(
            registry=self._registry, model=version.name, version=version.version, data=name
        )

    def tried(
        self, version: Version, data: str, method: str, asked: Asked, as_of: str
    ) -> list[Calibrated]:
        """The ranges of a version, in order; an error ends them and is the last one's."""
        done: list[Calibrated] = []
        try:
            for one in self._ranges(version, self.scope(version, data), method, asked, as_of):
                done.append(one)
        except KronosError as error:
            name = data or version.tags.get("data", "")
            done.append(Calibrated(version, name, error=error))
        return done

    def _ranges(
        self, version: Version, scope: Scope, method: str, asked: Asked, as_of: str
    ) -> Iterator[Calibrated]:
        with self._archive.known(scope.data, as_of or None) as known:
            last, instant = known.last_session, known.instant
        issued = ranges.issued(self.engine, scope, instant)
        if issued is None or last is None or last.date() < issued.first:
            yield Calibrated(version, scope.data, note=_no_outcome(scope, issued is not None))
            return
        if issued.unfit:
            yield Calibrated(version, scope.data, note=f"forecasts stay raw: {issued.unfit}")
            return
        before = calibrations.versions(self.engine, scope)
        kept = before[-1].method if before else DEFAULT
        planned = ranges.plan(
            self.engine, scope, asked, method, kept, issued.first, last.date(), issued.calendar
        )
        source = Source(self.engine, scope, issued.calendar, instant)
        of_symbols = sectors(self._archive, scope.data)
        for nights in planned:
            learner = Learner(nights.method, issued.levels, issued.horizon, of_symbols)
            yield self._range(version, source, learner, nights)
        if not planned:
            yield Calibrated(version, scope.data, kept, note=_nothing_new(asked, last.date()))

    def _range(
        self, version: Version, source: Source, learner: Learner, nights: Range
    ) -> Calibrated:
        """One job: learn the nights, publish and record them, unless that is done."""
        scope = source.scope
        done = Calibrated(version, scope.data, nights.method, nights.since, nights.until)
        with job_run(self.engine, JOB, nights.key(scope)) as held:
            if held is None:
                done.note = "this range was done before"
                return done
            with calibration_record.recorded(self._settings, version, scope, nights) as run:
                done.run_id = run.run_id
                self._learn(done, source, learner, nights, run)
            calibration_record.describe(self.store, version, self.engine, scope)
            held.complete(done.run_id)
        return done

    def _learn(
        self, done: Calibrated, source: Source, learner: Learner, nights: Range, run: Run
    ) -> None:
        name = done.name
        cache = MemoryFile(self._settings.state_dir, self._say)
        fold = Fold(source, learner, cache)
        publisher = Publisher(source, learner, self._say)
        wanted = sessions_between(source.calendar, nights.since, nights.until)
        recorder, clipped = Recorder(), Counter[str]()
        for place, (night, lesson) in enumerate(fold.lessons(nights.since, nights.until)):
            recorder.add(lesson.memory.trail, night)
            clipped.update(lesson.clipped)
            if len(wanted) <= TOGETHER or night.session == nights.until:
                publisher.publish(night, lesson, [*fold.recent])
            self._progress(f"calibrating {name}", (place + 1) / len(wanted))
        if fold.again:
            self._say(f"note: {name} was learned again from its first night: {fold.again}")
        done.learned_again = fold.again
        done.quarantined = [path.name for path in cache.quarantined]
        done.published = publisher.published
        done.nights = len(wanted)
        known = LearnedFrom.of(source.engine, source.scope, nights.until, source.instant)
        done.learned_from = str(known)
        run.tags(_remarks(done))
        course = recorder.course(wanted)
        done.metrics = course.last() if course else {}
        calibration_record.log(run, course, publisher.published, clipped, done.title)
        fold.keep()


def _remarks(done: Calibrated) -> dict[str, str]:
    """Tags of a run: what it learned from, and why it could not use the cache."""
    tags = {
        "learned_from": done.learned_from,
        "learned_again": done.learned_again,
        "cache_quarantined": ", ".join(done.quarantined),
    }
    return {key: text for key, text in tags.items() if text}


def _no_outcome(scope: Scope, has_forecasts: bool) -> str:
    if has_forecasts:
        return f"no forecast on {scope.data} has come true yet"
    return (
        f"the ledger has no forecast of {scope.model}/{scope.version} on {scope.data}; "
        f"`python -m jobs forecast {scope.model}/{scope.version} --data {scope.data} --issue` "
        "records them"
    )


def _nothing_new(asked: Asked, last: date) -> str:
    if asked.since or asked.until:
        return f"no session with outcomes is in this range; the last one is {last}"
    return f"everything until {last}, the last session with outcomes, is learned"
