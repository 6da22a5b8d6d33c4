"""The whole night: issue what is missing, mature, calibrate, standings; in this order.

A night is a session of a data set. Missed ones are caught up in order, each with the calibration
that was learned before it, so that they give the same numbers as nights on time. What is done
already is left alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import sqlalchemy as sa

from jobs.data import load as loading
from jobs.data import overview
from jobs.data.catalog import Catalog
from jobs.nightly.alone import alone
from jobs.nightly.calibrate import calibrate
from jobs.nightly.issue import issue, trained_until
from jobs.nightly.log import LONGEST, Log
from jobs.nightly.mature import LISTED, mature
from jobs.nightly.onward import Onward
from jobs.nightly.production import in_production
from jobs.nightly.standings import REFERENCES, Standings, standings
from jobs.running.progress import Progress, silent
from registry.errors import BadParameter, KronosError, NotFound
from registry.ledger import claims, database, instants, loads, maturing
from registry.ledger.archive import Archive
from registry.ledger.states import Scope
from registry.masking import masked
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.store import Store
from registry.versions.version import Version

JOB = "nightly"
SESSIONS = 60  # that are caught up, at most
_DAY = timedelta(days=1)


@dataclass
class Done:
    """What a start did."""

    loaded: list[str] = field(default_factory=list)  # data sets, into the ledger
    nights: dict[str, int] = field(default_factory=dict)  # with a new forecast, by data set
    forecasts: dict[str, int] = field(default_factory=dict)  # new ones, by source
    scores: int = 0  # new ones
    restated: list[dict[str, Any]] = field(default_factory=list)  # returns that changed since
    published: int = 0  # calibrations
    failed: list[dict[str, str]] = field(default_factory=list)  # job, of, code, message
    left_out: list[str] = field(default_factory=list)  # versions that name no data set
    without: dict[str, list[str]] = field(default_factory=dict)  # references to train, by data set
    standings: Sequence[Standings] = ()

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        live = {each.data: each.live_nights for each in self.standings}
        return {
            "loaded": self.loaded,
            "nights": self.nights,
            "forecasts": self.forecasts,
            "scores": self.scores,
            "restated": self.restated[:LISTED],
            "restated_returns": len(self.restated),
            "published": self.published,
            "live_nights": live,
            "without_reference": self.without,
            "failed": self.failed,
            "left_out": self.left_out,
        }


def nightly(
    settings: Settings,
    *,
    data: str = "",
    as_of: str = "",
    sessions: int = SESSIONS,
    progress: Progress = silent,
) -> Done:
    """Run all jobs for the versions in Production, and fhs and naive as references.

    Each version works on the data set that it was trained on. `data` names one data set; versions
    that name none, such as mirrored ones, work on it, and without it are in `left_out`. At most
    the last `sessions` sessions are caught up, as the ledger knew them at `as_of` (default: now).
    What fails is listed in `failed` and stops nothing else. Raises BadParameter, NotFound if there
    is nothing to issue, and Conflict (ALREADY_RUNNING).
    """
    if sessions < 1:
        raise BadParameter(f"sessions is {sessions}, expected at least 1")
    _check_past(as_of)
    if data:
        Catalog(settings).find(data)
    with alone(settings, JOB):
        store = Store(settings)
        plan = versions_by_set(store, data)
        with open_ledger(store) as ledger:
            registry = ledger.registry
        with Archive(settings) as archive:
            job = _Nightly(settings, archive, registry, as_of, sessions, progress)
            job.done.left_out = [] if data else _without_data(store)
            with Log(settings).timed(JOB) as line:
                for name, versions in plan.items():
                    job.done.without |= _without(name, versions)
                    job.of_set(name, versions)
                job.standings(data)
                line |= job.done.summary()
        return job.done


def versions_by_set(store: Store, data: str) -> dict[str, list[Version]]:
    """Versions to issue by data set: those in Production, then fhs and naive if they are not.

    Of a reference that is not in Production on a data set, the newest version that was trained on
    it counts. Raises NotFound if no version in Production is left.
    """
    models = store.models()
    plan: dict[str, list[Version]] = {}
    for version in in_production(models):
        if trained_on := version.tags.get("data", "") or data:
            plan.setdefault(trained_on, []).append(version)
    if data:
        plan = {name: versions for name, versions in plan.items() if name == data}
    if not plan:
        trained = f" that was trained on {data}" if data else ""
        if left_out := _without_data(store):
            raise NotFound(
                f"{', '.join(left_out)} in Production names no data set; name one with --data"
            )
        raise NotFound(
            f"nothing{trained} is in Production; `python -m registry promote MODEL VERSION` "
            "promotes a version"
        )
    for name, versions in plan.items():
        there = {version.name for version in versions}
        for model in models:
            if model.name in REFERENCES and model.name not in there:
                versions += _newest(model.versions, name)
    return dict(sorted(plan.items()))


def _without_data(store: Store) -> list[str]:
    """Versions in Production that name no data set that they were trained on."""
    served = in_production(store.models())
    return [version.reference for version in served if not version.tags.get("data", "")]


def _without(data: str, versions: Sequence[Version]) -> dict[str, list[str]]:
    """The references that a data set lacks, by its name; empty if it lacks none."""
    there = {version.name for version in versions}
    lacking = [name for name in REFERENCES if name not in there]
    return {data: lacking} if lacking else {}


def _newest(versions: Sequence[Version], data: str) -> list[Version]:
    of_set = [each for each in versions if each.tags.get("data") == data and not each.foreign]
    return sorted(of_set, key=lambda version: version.version)[-1:]


def _check_past(as_of: str) -> None:
    """Raise BadParameter for a time that is yet to come, or no time."""
    if not as_of:
        return
    latest = claims.now() + _DAY
    future = instants.is_date(as_of) and date.fromisoformat(as_of) > latest.date()
    if future or instants.as_of(as_of, "24/7") > latest:
        raise BadParameter(
            f"--as-of is {as_of}, which is in the future by this host's clock; name a session that "
            "has closed"
        )


class _Nightly:
    """What all data sets of one start share."""

    def __init__(
        self,
        settings: Settings,
        archive: Archive,
        registry: str,
        as_of: str,
        sessions: int,
        progress: Progress,
    ) -> None:
        self.done = Done()
        self._settings = settings
        self._archive = archive
        self._registry = registry
        self._as_of = as_of
        self._sessions = sessions
        self._progress = progress
        self._log = Log(settings)
        self._onward = Onward(settings, archive)

    @property
    def _engine(self) -> sa.Engine:
        return self._archive.engine

    def of_set(self, data: str, versions: Sequence[Version]) -> None:
        """All jobs of a data set but the standings."""
        with self._kept("load", data):
            self._load(data)
        window: list[date] = []
        with self._kept("read", data), self._log.timed("read", data=data) as line:
            window = self._window(data)
            line["sessions"] = len(window)
        if not window:
            return
        night = window[-1].isoformat()
        new: set[date] = set()
        for version in versions:
            with self._kept("issue", version.reference):
                new |= self._issue(version, data, window)
        self.done.nights[data] = len(new)
        with self._kept("mature", data), self._log.timed("mature", data=data, night=night) as line:
            matured = mature(self._settings, data=data, as_of=self._as_of, progress=self._progress)
            line |= matured.summary()
            self.done.scores += sum(matured.scored.values())
            self.done.restated += [one.summary() for one in matured.restated]
        for version in versions:
            with self._kept("calibrate", version.reference):
                self._calibrate(version, data, night)

    def standings(self, data: str) -> None:
        with self._kept("standings", data), self._log.timed("standings") as line:
            self.done.standings = standings(
                self._settings, data=data, as_of=self._as_of, progress=self._progress
            )
            line["live_nights"] = self.done.summary()["live_nights"]

    # --- jobs

    def _load(self, data: str) -> None:
        """Load a data set into the ledger, unless that has it as it is."""
        rows = overview.all_sets(self._settings)
        digest = next((row["digest"] for row in rows if row["data"] == data), "")
        with database.read(self._engine) as connection:
            there = loads.completed(connection, data)
        if there is not None and (not digest or there.digest == digest):
            return
        with self._log.timed("load", data=data) as line:
            line |= loading.load(self._settings, data, progress=self._progress)
        self.done.loaded.append(data)

    def _window(self, data: str) -> list[date]:
        """The last sessions that are known, in order."""
        with self._archive.known(data, self._as_of or None) as known:
            market = known.market(columns=())
        days: list[date] = market["ds"].dt.date.tolist()
        return days[-self._sessions :]

    def _issue(self, version: Version, data: str, window: Sequence[date]) -> set[date]:
        """Issue what a version lacks; the new cutoffs."""
        scope = self._scope(version, data)
        there = maturing.issued_cutoffs(self._engine, scope)
        trained = trained_until(version)
        missing = [day for day in window if day not in there and day.isoformat() > trained]
        if not missing:
            return set()
        night = missing[-1].isoformat()
        with self._log.timed("issue", night=night) as line:
            [issued] = issue(
                self._settings,
                [version.reference],
                data=data,
                since=missing[0].isoformat(),
                until=night,
                learn=self._onward.learn,
                progress=self._progress,
            )
            line |= issued.summary()
            for source, number in issued.sources.items():
                self.done.forecasts[source] = self.done.forecasts.get(source, 0) + number
            if issued.error is not None:
                raise issued.error
        return set(issued.cutoffs)

    def _calibrate(self, version: Version, data: str, night: str) -> None:
        scope = self._scope(version, data)
        published = self._onward.published(scope)
        with self._log.timed("calibrate", night=night) as line:
            ranges = calibrate(
                self._settings,
                [version.reference],
                data=data,
                as_of=self._as_of,
                progress=self._progress,
            )
            for done in ranges:
                line |= done.summary()
                published.update(done.published.numbers)
                if done.published.fell or done.published.refused or done.quarantined:
                    line["level"] = "warning"
                if done.error is not None:
                    raise done.error
        self.done.published += len(published)

    def _scope(self, version: Version, data: str) -> Scope:
        return Scope(
            registry=self._registry, model=version.name, version=version.version, data=data
        )

    @contextmanager
    def _kept(self, job: str, of: str) -> Iterator[None]:
        """Keep an error of a job, so that the others go on: also a fault of a model's code."""
        try:
            yield
        except KronosError as error:
            self._fail(job, of, error.code, error.message)
        except Exception as error:
            self._fail(job, of, type(error).__name__, str(error))

    def _fail(self, job: str, of: str, code: str, message: str) -> None:
        failure = {"job": job, "of": of, "code": code, "message": masked(message)[:LONGEST]}
        self.done.failed.append(failure)
