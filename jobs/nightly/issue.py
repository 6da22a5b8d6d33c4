"""Issue forecasts: record in the ledger what versions forecast after the close of a session.

A forecast rests on what the ledger knew when its cutoff closed, and on a calibration that learned
before it. So a night that runs twice, is killed and run again, or is caught up later gives the same
numbers.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

from jobs.data.dataset import Dataset
from jobs.data.suits import check_suits
from jobs.forecasting import passes
from jobs.forecasting.forecast import dataset_of, steps_of
from jobs.forecasting.history import check_kept, columns_of
from jobs.nightly.applied import Calibrations
from jobs.nightly.issued import Issued
from jobs.nightly.origins import Asked, Origins, next_close
from jobs.nightly.production import in_production
from jobs.running.progress import Progress, silent
from registry.errors import (
    BadForecast,
    BadHistory,
    BadInput,
    BadParameter,
    KronosError,
    NotFound,
)
from registry.forecast import names
from registry.forecast.history import History
from registry.forecast.spec import Request
from registry.ledger import claims, forecasts, instants, maturing
from registry.ledger.archive import Archive
from registry.ledger.issue import BACKFILL, NIGHTLY, Blocks, Issue
from registry.ledger.states import Scope
from registry.promotion.opening import open_ledger
from registry.settings import Settings
from registry.versions.loaded import LoadedVersion
from registry.versions.store import Store
from registry.versions.version import Version

JOB = "issue"
Learn = Callable[[Scope, date], None]  # learns what a scope's calibration may know at a cutoff
_BLOCKS = 5_000  # blocks that are recorded together, about
_SECONDS = 5.0  # a kill loses no more than the work of this time


def issue(
    settings: Settings,
    references: Sequence[str] = (),
    *,
    data: str = "",
    as_of: str = "",
    since: str = "",
    until: str = "",
    horizon: int | None = None,
    learn: Learn | None = None,
    progress: Progress = silent,
) -> list[Issued]:
    """Issue forecasts of versions (none named: all in Production) on a data set (default: theirs).

    The cutoff is the last session that the ledger knows, or knew at `as_of`; or all sessions from
    `since` to `until`. A cutoff that has a forecast is left alone. A forecast is `nightly` if the
    session after its cutoff has not closed, else a `backfill`. A version that fails does not stop
    the others: its `error` says why. Before each forecast, `learn` may publish a calibration that
    learned before its cutoff. Raises NotFound, and BadParameter for wrong dates.
    """
    asked = Asked(as_of, since, until)
    store = Store(settings)
    named = list(dict.fromkeys(references)) or _in_production(store)
    with open_ledger(store) as ledger:
        registry = ledger.registry
    with Archive(settings) as archive:
        job = _Job(settings, store, archive, registry, asked, data, horizon, learn, progress)
        return [job.issued(reference) for reference in named]


def _in_production(store: Store) -> list[str]:
    """References of all versions in Production. Raises NotFound if there is none."""
    references = [version.reference for version in in_production(store.models())]
    if not references:
        raise NotFound(
            "nothing is in Production; `python -m registry promote MODEL VERSION` promotes a "
            "version, or name one, as har/3"
        )
    return references


@dataclass(frozen=True)
class _Job:
    """What all versions of one start share."""

    settings: Settings
    store: Store
    archive: Archive
    registry: str
    asked: Asked
    data: str
    horizon: int | None
    learn: Learn | None
    progress: Progress

    def issued(self, reference: str) -> Issued:
        """Issue the forecasts of one version."""
        done = Issued(reference, self.data)
        with _kept(done):
            self.progress(f"verifying {reference}", 0.0)
            with self.store.load(reference) as model:
                done.reference = model.version.reference
                self._issue(model, done)
        return done

    def _issue(self, model: LoadedVersion, done: Issued) -> None:
        dataset = dataset_of(self.settings, model, self.data)
        done.data = dataset.name
        origins = self._origins(model, dataset)
        check_suits(self.settings, self.store, model, dataset)
        done.horizon = steps_of(model.spec, self.horizon)
        request = model.spec.request({"horizon": done.horizon})
        cutoffs = origins.cutoffs(self.asked)
        _check_trained(model, self.asked.since or cutoffs[0].isoformat())
        done.notes |= _pretrained(model, cutoffs[0])
        version = model.version
        scope = Scope(
            registry=self.registry, model=version.name, version=version.version, data=dataset.name
        )
        issuing = _Issuing(
            self.archive, scope, model, request, origins, self.learn, self.progress, done
        )
        issuing.all(cutoffs)

    def _origins(self, model: LoadedVersion, dataset: Dataset) -> Origins:
        spec = model.spec
        columns = columns_of(dataset, spec)
        check_kept(columns, spec)
        numbers = [name for name in columns if name not in (names.UNIQUE_ID, names.DS)]
        return Origins.of(self.archive, dataset.name, spec, numbers, claims.now())


@contextmanager
def _kept(done: Issued) -> Iterator[None]:
    """Keep an error of one version, so that the others go on."""
    try:
        yield
    except KronosError as error:
        done.error = error
    except Exception as error:  # a fault in the code of a version must not stop the others
        text = f"{done.reference} failed: {type(error).__name__}: {error}"
        done.error = KronosError(text)


def trained_until(version: Version) -> str:
    """The last session that a version was trained on; empty: none is named, as of mirrored ones."""
    until = version.tags.get("trained_until", "none")
    return "" if until == "none" else until


def _check_trained(model: LoadedVersion, first: str) -> None:
    """Raise BadParameter for a cutoff that the version was trained on."""
    until = trained_until(model.version)
    if first <= until:
        raise BadParameter(
            f"{model.version.reference} was trained until {until}, so what it says after {first} "
            f"is no forecast; issue sessions after {until}"
        )


def _pretrained(model: LoadedVersion, first: date) -> dict[str, str]:
    """What to remark of weights that may have seen what came after the first cutoff."""
    until = model.version.tags.get("pretrained_until", "none")
    if until == "none" or (until != "unknown" and first.isoformat() > until):
        return {}
    return {
        "pretrained": f"{model.version.reference} was pretrained until {until}: what it says after "
        f"{first} may be no forecast"
    }


@dataclass
class _Issuing:
    """Forecasts of one version, recorded some at a time: a kill leaves whole ones."""

    archive: Archive
    scope: Scope
    model: LoadedVersion
    request: Request
    origins: Origins
    learn: Learn | None
    progress: Progress
    done: Issued
    pending: list[tuple[Issue, Blocks]] = field(default_factory=list)
    recorded_s: float = field(default_factory=time.monotonic)

    def all(self, cutoffs: Sequence[date]) -> None:
        """Issue what has no forecast yet. Raises the error of a single cutoff."""
        there = maturing.issued_cutoffs(self.archive.engine, self.scope)
        self.done.already = [cutoff for cutoff in cutoffs if cutoff in there]
        missing = [cutoff for cutoff in cutoffs if cutoff not in there]
        if not missing:
            return
        calibrations = self._calibrations()
        label = f"issuing {self.done.reference} on {self.done.data}"
        for place, (cutoff, history) in enumerate(self.origins.histories(missing)):
            self.progress(label, place / len(missing))
            if self.learn is not None:
                self._record()
                self.learn(self.scope, cutoff)
                calibrations = self._calibrations()
            try:
                self._forecast(cutoff, history, calibrations)
            except (BadInput, BadForecast) as error:
                self.done.nights[cutoff] = error
                self.done.refused = ()
                continue
            if self._is_due:
                self._record()
        self._record()
        self.progress(label, 1.0)
        if len(self.done.nights) == len(cutoffs):
            raise self.done.nights[cutoffs[-1]]

    def _calibrations(self) -> Calibrations:
        return Calibrations(self.archive.engine, self.scope, self.origins.sectors)

    def _forecast(
        self, cutoff: date, history: History | BadHistory, calibrations: Calibrations
    ) -> None:
        """Forecast from a history, or raise the error that is in its place."""
        if isinstance(history, BadHistory):
            raise history
        raw = passes.predict(self.model, history, self.request)
        number = calibrations.number(cutoff)
        calibrated = None if number is None else calibrations.applied(raw, number)
        at = claims.now()
        is_late = next_close(self.origins.calendar, cutoff) <= at
        close = instants.close_of(self.origins.calendar, cutoff)
        issued = Issue(
            **vars(self.scope),
            source=BACKFILL if is_late else NIGHTLY,
            cutoff=cutoff,
            issued_at=close if is_late else at,
            calibration=number,
        )
        self.pending.append((issued, Blocks.of(raw, calibrated)))
        self.done.refused = history.refused
        self.done.series = len(raw.unique_id)
        self.done.notes |= raw.notes

    @property
    def _is_due(self) -> bool:
        blocks = sum(len(numbers.symbols) for _, numbers in self.pending)
        return blocks >= _BLOCKS or time.monotonic() - self.recorded_s > _SECONDS

    def _record(self) -> None:
        """Record what is pending in one transaction. Raises what the ledger refused."""
        pending, self.pending = self.pending, []
        if not pending:
            return
        refused = forecasts.issue_all(self.archive.engine, pending)
        self.recorded_s = time.monotonic()
        errors = {issued.id: error for issued, error in refused}
        for issued, _ in pending:
            if issued.id in errors:
                raise errors[issued.id]
            self.done.cutoffs.append(issued.cutoff)
            self.done.sources[issued.source] += 1
            if issued.calibration is not None:
                self.done.calibrations[issued.calibration] += 1
