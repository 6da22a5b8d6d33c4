"""Histories and covariates from the ledger, for requests that bring none."""

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime

import numpy as np
import pandas as pd

from registry import sets
from registry.codes import from_code
from registry.errors import BadHistory, BadInput, BadParameter, KronosError, NotFound
from registry.forecast import calendars, names
from registry.forecast.arrays import Dates
from registry.forecast.checks import refusal, screened
from registry.forecast.history import Refused, read_history
from registry.forecast.spec import ModelSpec
from registry.ledger import database, loads
from registry.ledger.archive import COLUMNS, Known
from registry.ledger.claims import now
from registry.ledger.observations import MARKET
from registry.settings import Settings
from registry.versions import suitability
from serving.messages import Found, LookUp, Lost, Refusal, Series
from serving.supervisor.datasets import DataSet, check_suits, data_set
from serving.supervisor.ledger import SharedLedger, refusal_of

ADVISED = 1  # unknown symbols of a look-up for which similar ones are searched: it takes 50 ms

_log = logging.getLogger(__name__)


class Lookups:
    """Answers look-ups, from several threads at once."""

    def __init__(self, settings: Settings, ledger: SharedLedger | None = None) -> None:
        self._ledger = ledger or SharedLedger(settings)
        self._lock = threading.Lock()
        self._sets: dict[str, DataSet] = {}
        self._completions: dict[str, datetime] = {}

    def close(self) -> None:
        self._ledger.close()

    def answer(self, request: LookUp, spec: ModelSpec, facts: Mapping[str, str]) -> Found | Lost:
        """The histories of symbols, or with `days` the covariates of these sessions.

        `facts` are those of the version. Symbols without a history are in `refused`.
        """
        try:
            return self._found(request, spec, facts)
        except KronosError as error:
            return Lost(id=request.id, refusal=refusal_of(error))
        except Exception:  # whatever it is, the request that waits must get an answer
            _log.exception("a look-up failed")
            message = "the look-up in the ledger failed; the log of the supervisor says why"
            return Lost(id=request.id, refusal=refusal_of(KronosError(message)))

    def changed(self) -> set[str]:
        """Data sets with another state than at the last call; all of them at the first.

        Raises KronosError (LEDGER_UNAVAILABLE).
        """
        with self._ledger.opened() as archive, database.read(archive.engine) as connection:
            completions = loads.completions(connection)
        before, self._completions = self._completions, completions
        instant = now()
        with self._lock:
            passed = {name for name, one in self._sets.items() if one.ended(instant)}
            for name in passed:
                del self._sets[name]
        differ = dict(set(before.items()) ^ set(completions.items()))
        return passed | set(differ)

    def _found(self, request: LookUp, spec: ModelSpec, facts: Mapping[str, str]) -> Found:
        data = request.data or facts.get("data", "")
        if not data:
            raise BadParameter(
                f"{spec.name} names no data set that it was trained on: name one in `data`"
            )
        if not sets.NAME.fullmatch(data):
            raise NotFound("no data set has this name: it has a character other than a-z, 0-9, _")
        with self._ledger.opened() as archive, archive.known(data) as known:
            dataset = self._data_set(known)
            check_suits(_reference(request), facts, spec, dataset)
            kind = _Covariates if request.days else _Histories
            work = kind(request, spec, dataset)
            table = work.read(known)
        return work.found(table)  # the connection is free for the next look-up meanwhile

    def _data_set(self, known: Known) -> DataSet:
        with self._lock:
            kept = self._sets.get(known.load.data)
        if kept is not None and kept.is_current(known):
            return kept
        dataset = data_set(known)
        with self._lock:
            self._sets[dataset.name] = dataset
        return dataset


class _Histories:
    """A look-up of the last sessions of symbols."""

    def __init__(self, request: LookUp, spec: ModelSpec, dataset: DataSet) -> None:
        """Choose the symbols to read. Raises BadHistory (UNIVERSE) if the data set lacks some."""
        self._request, self._spec, self._dataset = request, spec, dataset
        self._asked = asked = tuple(dict.fromkeys(request.symbols))
        self._refused: dict[str, Refusal] = {}
        self._notes: list[str] = []
        known, members = set(dataset.symbols), set(spec.universe or dataset.symbols)
        others = [symbol for symbol in asked if symbol not in known or symbol not in members]
        for place, symbol in enumerate(others):
            self._refused[symbol] = self._refusal(symbol, advise=place < ADVISED)
        self._symbols = tuple(sorted(set(asked) - set(others)))
        if self._symbols and self._is_joint:
            self._symbols = suitability.symbols_of(spec, dataset.name, dataset.symbols, ())

    @property
    def _is_joint(self) -> bool:
        """Whether the universe is read whole, whichever symbols are asked for."""
        return self._spec.universe is not None and (self._spec.joint or not self._spec.subset)

    @property
    def _needs_all(self) -> bool:
        return self._spec.universe is not None and not self._spec.subset

    def read(self, known: Known) -> pd.DataFrame:
        """The rows that a forecast can need. Raises BadHistory (MISSING_COLUMN)."""
        spec, dataset = self._spec, self._dataset
        lacking = [name for name in spec.columns[2:] if name not in dataset.overview.columns]
        if lacking:
            raise _missing(_reference(self._request), dataset, lacking)
        optional = [name for name in spec.optional if name in dataset.overview.columns]
        start = suitability.since(spec, dataset.overview.last)
        columns = [*spec.columns[2:], *optional]
        return known.history(self._symbols, since=f"{start:%Y-%m-%d}", columns=columns)

    def found(self, frame: pd.DataFrame) -> Found:
        """The series that pass all checks. Raises BadHistory if the model needs one that fails."""
        frame = self._fresh(frame)
        series = self._series(frame) if len(frame) else []
        return Found(
            id=self._request.id,
            series=series,
            refused=self._refused,
            notes=tuple(self._notes),
        )

    def _fresh(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Rows of the symbols that have traded lately, as many as the model looks at."""
        spec, last = self._spec, self._dataset.overview.last
        to_the_end = int((frame[names.DS] == last).sum())
        if to_the_end < len(self._symbols):  # else nothing is late, and the last session is common
            late = suitability.stale(spec, frame, self._symbols, last)
            if self._needs_all:
                suitability.check_fresh(late)
            self._leave_out(late)
            frame = frame[~frame[names.UNIQUE_ID].isin([one.unique_id for one in late])]
            frame = suitability.up_to_common(spec, frame)
        if len(self._symbols) == 1:  # a third of the time that groups take
            return frame.iloc[-spec.max_context :].reset_index(drop=True)
        rows = frame.groupby(names.UNIQUE_ID, observed=True).tail(spec.max_context)
        return rows.reset_index(drop=True)

    def _series(self, frame: pd.DataFrame) -> list[Series]:
        history = screened(read_history(frame, self._spec), self._spec)
        if history.refused and self._needs_all:
            raise refusal(history)
        self._leave_out([_named(one) for one in history.refused])
        if not history.ids:
            return []
        columns = [name for name in frame.columns if name not in (names.UNIQUE_ID, names.DS)]
        kept = frame
        if history.refused:
            kept = frame[frame[names.UNIQUE_ID].isin(history.ids)]
        ds = _texts(kept[names.DS].to_numpy())
        values = {name: kept[name].to_numpy(dtype=np.float64).tolist() for name in columns}
        series = []
        for symbol, start, end in zip(
            history.ids, history.bounds[:-1].tolist(), history.bounds[1:].tolist(), strict=True
        ):
            part = {name: column[start:end] for name, column in values.items()}
            series.append(Series(symbol=symbol, ds=ds[start:end], columns=part))
        return series

    def _leave_out(self, refused: Sequence[Refused]) -> None:
        """Refuse symbols that are asked for; of other members of the universe there is a note."""
        for one in refused:
            if one.unique_id in self._asked:
                error = from_code(one.code, one.message, BadHistory.status)
                self._refused[one.unique_id] = refusal_of(error)
        others = [one.unique_id for one in refused if one.unique_id not in self._asked]
        if others:
            listed = suitability.listed(others)
            self._notes.append(f"left out of the universe, because it was refused: {listed}")

    def _refusal(self, symbol: str, advise: bool) -> Refusal:
        """Why there is no history of a symbol that the data set or the version does not know."""
        known = self._dataset.symbols
        if not advise:  # without a search for similar names
            known = (symbol,) if symbol in known else ()
        try:
            suitability.symbols_of(self._spec, self._dataset.name, known, [symbol])
        except BadInput as error:
            return refusal_of(error)
        raise RuntimeError("a symbol that is not known is known")


class _Covariates:
    """A look-up of the covariates of some sessions, for a series that the caller sent."""

    def __init__(self, request: LookUp, spec: ModelSpec, dataset: DataSet) -> None:
        """Raises BadHistory for a day that is no session, or a column that the ledger lacks."""
        columns = request.columns or spec.columns
        self._request, self._dataset = request, dataset
        self._columns = [name for name in columns if name not in names.HISTORY]
        lacking = [
            name for name in self._columns if name not in dataset.overview.columns & set(MARKET)
        ]
        if lacking:
            raise BadHistory(
                f"{spec.name} needs {', '.join(lacking)} of this series, which the ledger cannot "
                "add to it: send them with the series",
                code="MISSING_COLUMN",
            )
        self._days = _days(request.days, spec.calendar)

    def read(self, known: Known) -> pd.DataFrame:
        return known.market(since=str(self._days.min()), columns=self._columns)

    def found(self, table: pd.DataFrame) -> Found:
        """The same values for every symbol; a refusal of each if the ledger lacks a day."""
        stored = table[names.DS].to_numpy().astype("datetime64[D]")
        values = table[self._columns].to_numpy(dtype=np.float64)
        places = np.minimum(np.searchsorted(stored, self._days), max(len(stored) - 1, 0))
        lacks = np.ones(len(self._days), dtype=bool)
        if len(stored):
            lacks = (stored[places] != self._days) | ~np.isfinite(values[places]).all(axis=1)
        symbols = self._request.symbols
        if lacks.any():
            refused = dict.fromkeys(symbols, self._lacking(self._days[lacks]))
            return Found(id=self._request.id, series=[], refused=refused)
        columns = dict(zip(self._columns, values[places].T.tolist(), strict=True))
        days = list(self._request.days)
        series = [Series(symbol=symbol, ds=days, columns=columns) for symbol in symbols]
        return Found(id=self._request.id, series=series)

    def _lacking(self, days: Dates) -> Refusal:
        name = self._dataset.name
        more = f" and {len(days) - 1} more" if len(days) > 1 else ""
        error = BadHistory(
            f"{name} in the ledger, known until {self._dataset.overview.last:%Y-%m-%d}, has no "
            f"{', '.join(self._columns)} for {days[0]}{more}: load newer data by "
            f"`python -m jobs data load {name}`, or send them with the series",
            code="NO_COVARIATES",
        )
        return refusal_of(error)


def _reference(request: LookUp) -> str:
    return f"{request.model}/{request.version}"


def _days(texts: Sequence[str], calendar: str) -> Dates:
    """The days as datetime64[D]. Raises BadHistory unless each is a session of the calendar."""
    try:
        days: Dates = np.array(texts, dtype="datetime64[D]")
    except ValueError as error:
        raise BadHistory("a date cannot be read", code="BAD_TIMESTAMP") from error
    closed = calendars.not_sessions(calendar, days)
    if len(closed):
        raise BadHistory(f"{closed[0]} is no session of {calendar}", code="NOT_A_SESSION")
    return days


def _missing(reference: str, dataset: DataSet, lacking: Sequence[str]) -> BadHistory:
    """The error (MISSING_COLUMN) for columns that the data set lacks, or that are never kept."""
    never = [name for name in lacking if name not in COLUMNS]
    where = "the ledger does not keep: send a series" if never else f"{dataset.name} lacks"
    return BadHistory(
        f"{reference} needs {', '.join(never or lacking)}, which {where}", code="MISSING_COLUMN"
    )


def _named(series: Refused) -> Refused:
    """A refused series whose message names it: symbols of the ledger are no secret here."""
    fault = series.message.split(" ", 4)[4]  # after "series 2 of 40"
    return Refused(series.series, series.unique_id, series.code, f"{series.unique_id} {fault}")


def _texts(ds: Dates) -> list[str]:
    texts: list[str] = np.datetime_as_string(ds, unit="D").tolist()
    return texts
