"""Mature forecasts: score in the ledger what came true of all that was issued.

Forecasts of all sources are scored by the return as it was first known. If a return is restated
later, so are its scores, and the restated return is listed: someone changed the past.
"""

from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import sqlalchemy as sa

from jobs.running.progress import Progress, silent
from registry.forecast import names
from registry.ledger import claims, instants, unscored
from registry.ledger.archive import Archive
from registry.ledger.recording import Counts
from registry.ledger.scores import CALIBRATED, RAW, VALUES, scores
from registry.ledger.scores_together import score_all
from registry.ledger.unscored import Outcomes
from registry.scoring.scores import of_step
from registry.settings import Settings

JOB = "mature"
LISTED = 20  # restated returns that are listed
_ROWS = 50_000  # of a transaction, about: it takes a second


@dataclass(frozen=True, order=True)
class Restated:
    """A return that the ledger knew otherwise when it was scored."""

    data: str
    session: date
    symbol: str
    before: float
    after: float

    def summary(self) -> dict[str, Any]:
        return {
            "data": self.data,
            "unique_id": self.symbol,
            "session": self.session.isoformat(),
            "from": self.before,
            "to": self.after,
        }


@dataclass
class Summary:
    """What was scored."""

    scored: dict[str, int] = field(default_factory=dict)  # new scores by data set
    rescored: dict[str, int] = field(default_factory=dict)  # changed ones
    restated: list[Restated] = field(default_factory=list)  # all, sorted

    def summary(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "scored": self.scored,
            "rescored": self.rescored,
            "restated": [one.summary() for one in self.restated[:LISTED]],
            "restated_returns": len(self.restated),
        }


def mature(
    settings: Settings, *, data: str = "", as_of: str = "", progress: Progress = silent
) -> Summary:
    """Score what matured and has no score yet, and what was restated; a second run does nothing.

    It is done for one data set, or for all that have forecasts. `as_of` is a date or a time: what
    became known later is not used. A run that is cut leaves whole forecasts, and the next one goes
    on. Raises NotFound, BadParameter, and Conflict if a clock runs behind.
    """
    instants.is_date(as_of or None)  # also refuses what is no time, where nothing matures
    done = Summary()
    with Archive(settings) as archive:
        for name in [data] if data else unscored.data_sets(archive.engine):
            maturing = _Maturing(archive.engine, name, _instant(archive, name, as_of), progress)
            counts = maturing.all()
            done.scored[name] = counts.new
            done.rescored[name] = counts.changed
            done.restated += maturing.restated()
    return done


def _instant(archive: Archive, data: str, as_of: str) -> datetime:
    """When what counts was known: not after now, nor after the beginning of a load that was cut."""
    now = claims.now()
    with archive.known(data, now) as known:
        if not as_of:
            return known.instant
        return min(instants.as_of(as_of, known.load.calendar), known.instant)


class _Maturing:
    """Scores the forecasts of one data set."""

    def __init__(self, engine: sa.Engine, data: str, instant: datetime, progress: Progress) -> None:
        self._engine = engine
        self._data = data
        self._instant = instant
        self._progress = progress
        self._restated: dict[tuple[int, date], tuple[float, float]] = {}

    def all(self) -> Counts:
        """New outcomes, then late ones, then those that were restated."""
        label = f"scoring forecasts on {self._data}"
        counts = Counts()
        self._progress(label, 0.0)
        with closing(unscored.new(self._engine, self._data, self._instant)) as parts:
            for outcomes in parts:
                counts += self._score(outcomes)
        self._progress(label, 0.5)
        for _ in ("late", "restated"):  # a late return may have been restated since
            with closing(unscored.late(self._engine, self._data, self._instant)) as parts:
                for outcomes in parts:
                    counts += self._score(outcomes)
                    self._remember(outcomes)
        self._progress(label, 1.0)
        return counts

    def restated(self) -> list[Restated]:
        """Returns whose scores were changed, sorted."""
        symbols = unscored.named(self._engine, [symbol for symbol, _ in self._restated])
        listed = []
        for (symbol, session), (before, after) in self._restated.items():
            listed.append(Restated(self._data, session, symbols[symbol], before, after))
        return sorted(listed)

    def _score(self, outcomes: Outcomes) -> Counts:
        counts = Counts()
        for part in _parts(outcomes):
            counts += score_all(self._engine, _table(part))
        return counts

    def _remember(self, outcomes: Outcomes) -> None:
        changed = outcomes.part(~np.isnan(outcomes.before))
        sessions = changed.sessions.tolist()
        values = zip(changed.before.tolist(), changed.y.tolist(), strict=True)
        for symbol, session, pair in zip(
            changed.symbol_ids.tolist(), sessions, values, strict=True
        ):
            self._restated.setdefault((symbol, session), pair)


def _parts(outcomes: Outcomes) -> Iterator[Outcomes]:
    """Outcomes that are recorded together: all of a forecast, so that a kill leaves whole ones."""
    starts = np.flatnonzero(np.diff(outcomes.forecasts, prepend=-1))
    begin = 0
    for end in [*starts[1:].tolist(), len(outcomes)]:
        if end - begin >= _ROWS or end == len(outcomes):
            yield outcomes.part(slice(begin, end))
            begin = end


def _table(outcomes: Outcomes) -> pa.Table:
    """Rows of `scores`."""
    columns: dict[str, Any] = {
        "forecast": outcomes.forecasts,
        names.STEP: outcomes.steps,
        "symbol_id": outcomes.symbol_ids,
        names.DS: pa.array(outcomes.sessions),
        names.Y: outcomes.y,
    }
    columns |= _scores(RAW, of_step(outcomes.y, outcomes.quantiles, outcomes.levels), len(outcomes))
    calibrated: dict[str, Any] = {}
    if outcomes.calibrated is not None:
        scored = of_step(outcomes.y, outcomes.calibrated, outcomes.levels)
        calibrated = {f"{name}_calibrated": values for name, values in scored.items()}
    columns |= _scores(CALIBRATED, calibrated, len(outcomes))
    return pa.table({name: columns[name] for name in VALUES})


def _scores(columns: Sequence[str], scored: dict[str, Any], number: int) -> dict[str, Any]:
    """Columns as the ledger keeps them; a score that there is not is empty."""
    table = {}
    for name in columns:
        kind = pa.int64() if isinstance(scores.c[name].type, sa.Integer) else pa.float64()
        values = scored.get(name)
        table[name] = pa.nulls(number, kind) if values is None else pa.array(values).cast(kind)
    return table
