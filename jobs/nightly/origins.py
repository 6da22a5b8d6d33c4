"""Histories of a data set at cutoffs, each as the ledger knew it when the cutoff closed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from jobs.forecasting.forecast import checked
from registry.dates import is_date
from registry.errors import BadHistory, BadParameter
from registry.forecast import calendars, names
from registry.forecast.arrays import Dates
from registry.forecast.checks import refusal
from registry.forecast.history import History
from registry.forecast.spec import ModelSpec
from registry.ledger import instants
from registry.ledger.archive import Archive, Known
from registry.ledger.past import Past
from registry.versions import suitability

_ROWS = 8_000_000  # returns that are held at a time, about
_LEAST = 20  # cutoffs of a part, however many symbols


@dataclass(frozen=True)
class Asked:
    """Cutoffs that are asked for: the last one known at `as_of`, or a range."""

    as_of: str = ""
    since: str = ""
    until: str = ""

    def __post_init__(self) -> None:
        if self.as_of and (self.since or self.until):
            raise BadParameter("--as-of is one night and --from a range; leave one of them out")
        if self.until and not self.since:
            raise BadParameter("--to needs --from, the first session of the range")
        for name, text in (("--from", self.since), ("--to", self.until)):
            _check_date(name, text)
        if self.until and self.until < self.since:
            raise BadParameter(f"--to is {self.until}, before --from, {self.since}")

    @property
    def is_range(self) -> bool:
        return bool(self.since)


@dataclass(frozen=True, eq=False)
class Origins:
    """Reads what a model needs of a data set in the ledger.

    `now` is when the job began: what became known later is not read.
    """

    archive: Archive
    data: str
    calendar: str
    spec: ModelSpec
    columns: tuple[str, ...]  # y and the other numbers that the model uses
    symbols: pd.DataFrame  # of the data set, by name
    now: datetime

    @classmethod
    def of(
        cls,
        archive: Archive,
        data: str,
        spec: ModelSpec,
        columns: Sequence[str],
        now: datetime,
    ) -> "Origins":
        """Raises NotFound if the ledger lacks the data set."""
        with archive.known(data, now) as known:
            calendar = known.load.calendar
        return cls(archive, data, calendar, spec, tuple(columns), archive.symbols(data), now)

    @property
    def sectors(self) -> dict[str, str]:
        """The sector of each symbol that has one."""
        listed = self.symbols.dropna(subset=names.SECTOR)
        return dict(zip(listed["symbol"], listed[names.SECTOR], strict=True))

    def cutoffs(self, asked: Asked) -> list[date]:
        """Sessions of the data set, ascending. Raises BadParameter, and BadHistory for none."""
        if asked.is_range:
            return self._range(asked)
        with self._known(asked.as_of) as known:
            last = known.last_session
        if last is None:
            when = f"at {asked.as_of}" if asked.as_of else "yet"
            raise BadHistory(f"no session of {self.data} was known {when}", code="EMPTY")
        return [last.date()]

    def _range(self, asked: Asked) -> list[date]:
        with self._known("") as known:
            market = known.market(since=asked.since, columns=())
        until = pd.Timestamp(asked.until or self.now.date())
        days = [day.date() for day in market[names.DS] if day <= until]
        if not days:
            raise BadHistory(
                f"no session of {self.data} from {asked.since} to {until:%Y-%m-%d} is known",
                code="EMPTY",
            )
        return days

    def _known(self, as_of: str) -> AbstractContextManager[Known]:
        at = min(instants.as_of(as_of, self.calendar), self.now) if as_of else self.now
        return self.archive.known(self.data, at)

    def histories(self, cutoffs: Sequence[date]) -> Iterator[tuple[date, History | BadHistory]]:
        """The checked history of each cutoff, or why there is none. Cutoffs ascend."""
        for part in self._parts(cutoffs):
            with self._known("") as known:
                past = Past.read(known, self._since(part[0]), part[-1], self.columns)
            for cutoff in part:
                try:
                    yield cutoff, self._history(past, cutoff)
                except BadHistory as error:
                    yield cutoff, error

    def _parts(self, cutoffs: Sequence[date]) -> Iterator[Sequence[date]]:
        """Cutoffs whose sessions are read at a time, so that memory stays bounded."""
        together = _ROWS // max(1, len(self.symbols)) - self.spec.max_context
        size = max(_LEAST, together)
        for start in range(0, len(cutoffs), size):
            yield cutoffs[start : start + size]

    def _since(self, cutoff: date) -> date:
        first: date = suitability.since(self.spec, pd.Timestamp(cutoff)).date()
        return first

    def _history(self, past: Past, cutoff: date) -> History:
        """Raises BadHistory if no series can be forecast.

        A series that lacks the session of the cutoff is refused: its steps would be other sessions.
        """
        first, last = self._since(cutoff), pd.Timestamp(cutoff)
        whole = past.history(first, cutoff, instants.close_of(self.calendar, cutoff))
        needed = suitability.symbols_of(self.spec, self.data, self._listed(whole, last), ())
        ends = dict(zip(whole.ids, pd.DatetimeIndex(whole.cutoffs), strict=True))
        late = suitability.ended(self.spec, ends, needed, pd.Timestamp(first), last, late=0)
        fresh = set(needed) - {series.unique_id for series in late}
        if late and self.spec.joint and not self.spec.subset:
            fresh = set()
        kept = whole.only(np.flatnonzero([name in fresh for name in whole.ids]))
        if not kept.ids:
            kept = replace(kept, refused=tuple(late))
            raise refusal(kept)
        history = checked(kept, self.spec, late)
        if not history.ids:
            raise refusal(history)
        return history

    def _listed(self, whole: History, last: pd.Timestamp) -> list[str]:
        """Symbols that had a return by a session."""
        listed = self._names[self._first_sessions <= last.to_datetime64()]
        return sorted({*listed.tolist(), *whole.ids})

    @cached_property
    def _names(self) -> Any:
        return self.symbols["symbol"].to_numpy(dtype=object)

    @cached_property
    def _first_sessions(self) -> Dates:
        days: Dates = self.symbols["listed_from"].to_numpy().astype("datetime64[D]")
        return days


def next_close(calendar: str, cutoff: date) -> datetime:
    """When the session after a cutoff closes."""
    following = calendars.next_sessions(calendar, pd.Timestamp(cutoff), 1)[0]
    return instants.close_of(calendar, following.date())


def _check_date(name: str, text: str) -> None:
    if text and not is_date(text):  # dates of another form would be compared wrongly
        raise BadParameter(f"{name} is {text[:64]!r}, expected a date like 2020-01-31")
