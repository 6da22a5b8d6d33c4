"""Which nights are calibrated: those that were asked for, else those that are not learned yet."""

import json
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256

import pandas as pd
import sqlalchemy as sa

from registry.errors import BadParameter
from registry.forecast import calendars
from registry.ledger import database, job_runs, maturing
from registry.ledger.forecasts import forecasts
from registry.ledger.maturing import SOURCES
from registry.ledger.states import Scope
from registry.scoring.calibration_table import check_grid

JOB = "calibrate"


@dataclass(frozen=True)
class Asked:
    """A range as a user names it; None: not named."""

    since: date | None
    until: date | None

    @classmethod
    def of(cls, since: str, until: str) -> "Asked":
        """Raises BadParameter for a text that is no date, or dates the other way round."""
        asked = cls(_day(since, "--from"), _day(until, "--to"))
        if asked.since and asked.until and asked.since > asked.until:
            raise BadParameter(f"--from is {since}, after --to {until}; exchange them")
        return asked


@dataclass(frozen=True)
class Range:
    """Nights that are one job: both dates are sessions."""

    since: date
    until: date
    method: str

    def key(self, scope: Scope) -> str:
        """Key of the job: the same range of the same scope is done once."""
        return f"{_begin(scope)}{self.method} {self.since}..{self.until}"

    @classmethod
    def of_key(cls, key: str) -> "Range":
        *_, method, days = key.split(" ")
        since, _, until = days.partition("..")
        return cls(date.fromisoformat(since), date.fromisoformat(until), method)


@dataclass(frozen=True)
class Issued:
    """What the forecasts of a scope have in common."""

    levels: tuple[float, ...]
    horizon: int
    calendar: str
    first: date  # session that the first forecast is of

    @property
    def unfit(self) -> str:
        """Why no calibration is learned at these levels; empty: one is."""
        try:
            check_grid(self.levels)
        except BadParameter as error:
            return error.message
        return ""


def issued(engine: sa.Engine, scope: Scope, instant: datetime) -> Issued | None:
    """What a scope's forecasts have in common; None: there are none.

    Raises BadParameter if they have different levels.
    """
    counted = maturing.counted(engine, scope, as_of=instant)
    if not counted:
        return None
    grids = {head.levels for head in counted}
    if len(grids) > 1:
        raise BadParameter(
            f"forecasts of {scope.model}/{scope.version} on {scope.data} have {len(grids)} sets of "
            "levels; a calibration is learned at one"
        )
    levels, calendar = tuple(json.loads(grids.pop())), counted[0].calendar
    [first] = calendars.next_sessions(calendar, pd.Timestamp(counted[0].cutoff), 1)
    return Issued(levels, max(head.horizon for head in counted), calendar, first.date())


def data_sets(engine: sa.Engine, registry: str, model: str, version: int) -> list[str]:
    """Data sets that the ledger has forecasts of a version on, sorted."""
    c = forecasts.c
    of_version = (c.registry == registry, c.model == model, c.version == version)
    query = sa.select(c.data).distinct().where(*of_version, c.source.in_(SOURCES))
    with database.read(engine) as connection:
        return sorted(connection.scalars(query))


def plan(
    engine: sa.Engine, scope: Scope, asked: Asked, method: str, kept: str, first: date, last: date,
    calendar: str,
) -> list[Range]:  # fmt: skip
    """The ranges to do, in order.

    `method` was asked for (empty: `kept`, that of the last calibration, counts). Outcomes go from
    `first` to `last`. A range that was asked for is done as it is, within these. Otherwise a job
    that was cut comes first, then what is not learned yet. If nothing is new and another method is
    asked for, the last night is learned by it.
    """
    if asked.since or asked.until:
        since, until = asked.since or first, min(asked.until or last, last)
        return _sessions_of(calendar, max(since, first), until, method or kept)
    runs = job_runs.matching(engine, JOB, _begin(scope))
    ranges = []
    done = [Range.of_key(run.key).until for run in runs if run.completed_at is not None]
    if runs and runs[-1].completed_at is None:
        cut = Range.of_key(runs[-1].key)
        if cut.until <= last:
            ranges.append(cut)
            done.append(cut.until)
    begin = max(done) + timedelta(days=1) if done else first
    ranges += _sessions_of(calendar, begin, last, method or kept)
    if not ranges and method and method != kept:
        ranges.append(Range(last, last, method))
    return ranges


def _sessions_of(calendar: str, since: date, until: date, method: str) -> list[Range]:
    """The range in a list; an empty list if it holds no session."""
    if since > until:
        return []
    days = calendars.sessions(calendar, pd.Timestamp(since), pd.Timestamp(until))
    return [Range(days[0].date(), days[-1].date(), method)] if len(days) else []


def _begin(scope: Scope) -> str:
    """What the keys of a scope's jobs begin with; its names alone could be too long."""
    digest = sha256(json.dumps([*vars(scope).values()]).encode()).hexdigest()[:16]
    return f"{digest} {scope.model}/{scope.version} "


def _day(text: str, option: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError as error:
        raise BadParameter(f"{option} is {text[:80]!r}, expected a date like 2022-06-30") from error
