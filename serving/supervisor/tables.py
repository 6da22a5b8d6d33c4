"""The small tables that the gateway needs beside histories: sessions and calibrations."""

import logging
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from registry.errors import Conflict, Corrupt, KronosError, NotFound
from registry.forecast import calendars, names
from registry.ledger import calibrations, instants
from registry.ledger.archive import Archive
from registry.ledger.states import Calibration, Scope
from serving.messages import Calibrate, Damaged, Sessions
from serving.supervisor.ledger import SharedLedger

YEARS = 20  # of past sessions
VERDICTS = ("calibrated", "stale", "uncalibrated")
RETRY_S = 60.0  # after which a damaged calibration is read again

_log = logging.getLogger(__name__)


def sessions(calendar: str, now: datetime) -> Sessions:
    """The sessions of the last YEARS years and all that the calendar knows to come.

    Raises NotFound (UNKNOWN_CALENDAR).
    """
    first, last = calendars.span(calendar)
    today = pd.Timestamp(now.date())
    start = max(pd.Timestamp(first), today - pd.DateOffset(years=YEARS))
    index = calendars.sessions(calendar, start, pd.Timestamp(last))
    days = index.to_numpy().astype("datetime64[D]")
    closes = instants.closes_of(calendar, days).astype("datetime64[us]")
    return Sessions(
        calendar=calendar,
        days=np.datetime_as_string(days, unit="D").tolist(),
        closes=(closes.astype(np.int64) / 1e6).tolist(),
    )


def calibration(archive: Archive, scope: Scope) -> Calibrate:
    """The current calibration of a version on a data set. Raises Corrupt."""
    current = calibrations.current(archive.engine, scope)
    if current is None:
        return Calibrate(model=scope.model, version=scope.version)
    return Calibrate(
        model=scope.model,
        version=scope.version,
        number=current.number,
        method=current.method,
        learned_until=current.learned_until.isoformat(),
        levels=list(current.levels),
        keys=list(current.keys),
        steps=current.steps.tolist(),
        bias=current.bias.tolist(),
        scale=current.scale.tolist(),
        offsets=current.offsets.tolist(),
        sectors=_sectors(archive, scope.data, current),
        verdicts=_verdicts(current.evidence),
        learned_from=_learned_from(current.evidence),
        age=_age(archive, scope.data, current),
    )


class Calibrations:
    """Tells which calibrations have changed since they were last told, from one thread.

    `faults` has the error of each version whose calibration is damaged: the one before it stays.
    """

    def __init__(self, ledger: SharedLedger, registry: str) -> None:
        self._ledger, self._registry = ledger, registry
        self._told: dict[Scope, int | None] = {}
        self._failed: dict[Scope, tuple[int | None, float]] = {}  # number, and when
        self.faults: dict[tuple[str, int], KronosError] = {}

    def changes(self, served: Iterable[tuple[str, int, str]]) -> list[Calibrate | Damaged]:
        """The calibrations to tell of the versions (model, version, data set) that are served.

        Without a change this is one short query. Raises KronosError (LEDGER_UNAVAILABLE).
        """
        scopes = [self._scope(*one) for one in served if one[2]]
        changed: list[Calibrate | Damaged] = []
        with self._ledger.opened() as archive:
            numbers = calibrations.current_numbers(archive.engine, self._registry)
            for scope in scopes:
                number = numbers.get(scope)
                if self._is_news(scope, number):
                    changed.append(self._read(archive, scope, number))
        return changed

    def forget(self, data: str) -> None:
        """Tell the calibrations on a data set again: the sectors of its symbols may differ."""
        self._told = {scope: n for scope, n in self._told.items() if scope.data != data}

    def _scope(self, model: str, version: int, data: str) -> Scope:
        return Scope(registry=self._registry, model=model, version=version, data=data)

    def _is_news(self, scope: Scope, number: int | None) -> bool:
        if scope in self._failed:
            damaged, failed_at = self._failed[scope]
            return number != damaged or time.monotonic() - failed_at > RETRY_S
        return scope not in self._told or self._told[scope] != number

    def _read(self, archive: Archive, scope: Scope, number: int | None) -> Calibrate | Damaged:
        key = (scope.model, scope.version)
        try:
            read = calibration(archive, scope)
        except (Corrupt, ValueError) as error:  # ValueError: its evidence, which no digest covers
            fault = error if isinstance(error, Corrupt) else Corrupt("its evidence is no JSON")
            _log.error("the calibration of %s/%s is not used: %s", *key, fault)
            self.faults[key] = fault
            self._failed[scope] = (number, time.monotonic())
            return Damaged(model=scope.model, version=scope.version)
        self.faults.pop(key, None)
        self._failed.pop(scope, None)
        self._told[scope] = read.number
        return read


def _sectors(archive: Archive, data: str, current: Calibration) -> dict[str, str]:
    """The sector of each symbol, if the calibration has states of sectors."""
    if not any(kind == names.SECTOR for kind, _ in current.keys):
        return {}
    try:
        listed = archive.symbols(data)
    except NotFound:  # removed from the ledger since
        return {}
    known = listed[listed[names.SECTOR].notna()]
    return dict(zip(known["symbol"], known[names.SECTOR], strict=True))


def _age(archive: Archive, data: str, current: Calibration) -> int:
    """Sessions of the data set since the last one that a calibration was learned from."""
    try:
        with archive.known(data) as known:
            last, calendar = known.last_session, known.load.calendar
    except (NotFound, Conflict):  # removed from the ledger since, and perhaps not loaded again
        return 0
    return 0 if last is None else calendars.sessions_since(calendar, current.learned_until, last)


def _learned_from(evidence: Mapping[str, Any]) -> dict[str, int]:
    """Numbers of nights, live and backfilled, if they are there."""
    nights = evidence.get("learned_from")
    if not isinstance(nights, Mapping) or set(nights) != {"live", "backfill"}:
        return {}
    return {source: number for source, number in nights.items() if isinstance(number, int)}


def _verdicts(evidence: Mapping[str, Any]) -> dict[str, str]:
    """The verdict on each step, as far as there is one."""
    verdicts = evidence.get("verdicts", {})
    if not isinstance(verdicts, Mapping):
        return {}
    return {str(step): verdict for step, verdict in verdicts.items() if verdict in VERDICTS}
