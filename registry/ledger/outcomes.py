"""Forecasts with their outcomes as a frame."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from registry.forecast import calendars, names
from registry.forecast.arrays import Dates, Floats, Places
from registry.ledger import bulk, observations
from registry.ledger.forecasts import forecast_blocks
from registry.ledger.observations import symbols
from registry.ledger.scores import COVERED, RAW, scores
from registry.ledger.selection import Known

_TOGETHER = 1_500_000  # rows that are read at a time, about
_TEXTS = ("forecast_id", "model", "data", "source")
_SYMBOLS = 1 << 32  # more than any symbol_id; packs (forecast, symbol) into one number
_COVERED = np.array([0.0, 1.0, np.nan])  # by code
_UNSCORED = 2  # code of a band that the levels do not have


def frame(connection: sa.Connection, known: Known, calibrated: bool = False) -> pd.DataFrame:
    """One row for each forecast, symbol and step, sorted by cutoff, forecast, symbol and step.

    forecast_id, model, version, data, source, calibration, cutoff, issued_at, unique_id, step, ds;
    mean and a column for each level (log return of the session); the outcome y with crps, pit,
    covered_50, covered_80 and covered_90: NaN while it was not known. `calibrated` gives those of
    calibrated quantiles, which equal the raw ones if no calibration was applied.
    """
    heads = connection.execute(known.forecasts.order_by("cutoff", "id")).all()
    reader = _Reader(connection, known, _listed(connection), heads, calibrated)
    parts = []
    for same in _by_form(heads):
        number = 1 + _TOGETHER // (max(head.series for head in same) * same[0].horizon)
        for start in range(0, len(same), number):
            parts.append(reader.frame(same[start : start + number]))
    if not parts:
        return reader.empty()
    return pd.concat(parts, ignore_index=True)


def _listed(connection: sa.Connection) -> pa.Table:
    """id and symbol, by id."""
    c = symbols.c
    return bulk.select(connection, sa.select(c.id, c.symbol).order_by(c.id))


def _by_form(heads: Sequence[Any]) -> list[list[Any]]:
    """Forecasts that have the same levels, steps and calendar, together."""
    forms: dict[tuple[str, int, str], list[Any]] = {}
    for head in heads:
        forms.setdefault((head.levels, head.horizon, head.calendar), []).append(head)
    return list(forms.values())


@dataclass(frozen=True)
class _Reader:
    """Reads some forecasts of `heads` at a time."""

    connection: sa.Connection
    known: Known
    listed: pa.Table
    heads: Sequence[Any]
    calibrated: bool

    def frame(self, heads: Sequence[Any]) -> pd.DataFrame:
        """Rows of forecasts that have one form."""
        levels, horizon = json.loads(heads[0].levels), heads[0].horizon
        blocks = self._blocks(heads)
        keys = _of(blocks, "key")
        numbers = np.array([head.id for head in heads], dtype=np.int64)
        order = np.argsort(numbers)
        place = order[np.searchsorted(numbers, keys // _SYMBOLS, sorter=order)].repeat(horizon)
        steps = np.tile(np.arange(1, horizon + 1), len(keys))
        columns = self._head_columns(heads, place)
        columns[names.UNIQUE_ID] = self._symbols((keys % _SYMBOLS).repeat(horizon))
        columns[names.STEP] = steps
        columns[names.DS] = _sessions(heads, horizon)[place, steps - 1]
        shape = (horizon, 1 + len(levels))
        values = bulk.unpacked_blocks(blocks.column("block"), shape).reshape(-1, shape[1])
        quantiles = [names.quantile_column(level) for level in levels]
        columns |= dict(zip((names.MEAN, *quantiles), values.T, strict=True))
        columns |= self._scores(heads, keys, horizon)
        return pd.DataFrame(columns, copy=False)

    def empty(self) -> pd.DataFrame:
        """A frame of no forecast, so without levels."""
        columns = self._head_columns([], np.array([], dtype=np.int64))
        columns[names.UNIQUE_ID] = self._symbols(np.array([], dtype=np.int64))
        columns[names.STEP] = np.array([], dtype=np.int64)
        columns[names.DS] = np.array([], dtype="datetime64[ns]")
        columns |= dict.fromkeys((names.MEAN, names.Y, *RAW), np.array([], dtype=np.float64))
        return pd.DataFrame(columns)

    def _head_columns(self, heads: Sequence[Any], place: Places) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name in _TEXTS:  # with all forecasts' texts, so that parts can be joined
            texts = pd.Index(sorted({getattr(head, name) for head in self.heads}), dtype=object)
            codes = texts.get_indexer([getattr(head, name) for head in heads])
            columns[name] = pd.Categorical.from_codes(codes[place], texts)
        columns["version"] = np.array([head.version for head in heads], dtype=np.int64)[place]
        calibrations = [head.calibration for head in heads]
        columns["calibration"] = np.array(calibrations, dtype=np.float64)[place]
        cutoffs = np.array([head.cutoff for head in heads], dtype="datetime64[ns]")
        columns["cutoff"] = cutoffs[place]
        issued = pd.DatetimeIndex([head.issued_at for head in heads], tz="UTC").as_unit("us")
        columns["issued_at"] = issued[place]
        order = ("forecast_id", "model", "version", *_TEXTS[2:], "calibration")
        return {name: columns.pop(name) for name in order} | columns

    def _symbols(self, ids: Places) -> "pd.Categorical[Any]":
        codes = np.searchsorted(_of(self.listed, "id"), ids)
        listed = self.listed.column("symbol").to_pylist()
        texts, number = np.unique(np.array(listed, dtype=object), return_inverse=True)
        named: pd.Categorical[Any] = pd.Categorical.from_codes(number[codes], pd.Index(texts))
        return named

    def _blocks(self, heads: Sequence[Any]) -> pa.Table:
        """key and block of each symbol, by key."""
        c = forecast_blocks.c
        block = sa.func.coalesce(c.calibrated, c.raw) if self.calibrated else c.raw
        query = sa.select(_key(c), block.label("block")).where(*self._conditions(c, heads))
        return bulk.select_filled(self.connection, query.order_by(c.forecast, c.symbol_id))

    def _scores(self, heads: Sequence[Any], keys: Places, horizon: int) -> dict[str, Floats]:
        """y and scores of each row [M * H] of the blocks with these keys [M]; NaN where there are
        none.

        Few columns are read, because on SQLite each value is an object: a code holds the step, and
        which bands covered the outcome.
        """
        c = scores.c
        chosen = {name: self._chosen(name) for name in RAW}
        code: sa.ColumnElement[Any] = sa.cast(c.step, sa.BigInteger)
        for name in COVERED:
            code = code * len(_COVERED) + sa.func.coalesce(chosen[name], _UNSCORED)
        numbers = [c.y, chosen["crps"].label("crps"), chosen["pit"].label("pit")]
        columns = [_key(c), code.label("code"), *numbers]
        query = observations.as_of(scores, self.known.instant).with_only_columns(*columns)
        rows = bulk.select_filled(self.connection, query.where(*self._conditions(c, heads)))
        codes = _of(rows, "code")
        found = {name: rows.column(name).to_numpy() for name in (names.Y, "crps", "pit")}
        for name in reversed(COVERED):
            codes, covered = np.divmod(codes, len(_COVERED))
            found[name] = _COVERED[covered]
        places = np.searchsorted(keys, _of(rows, "key")) * horizon + codes - 1
        return {name: _put(found[name], places, len(keys) * horizon) for name in (names.Y, *RAW)}

    def _chosen(self, name: str) -> sa.ColumnElement[Any]:
        """A score, raw or calibrated."""
        raw = scores.c[name]
        return sa.func.coalesce(scores.c[f"{name}_calibrated"], raw) if self.calibrated else raw

    def _conditions(self, c: Any, heads: Sequence[Any]) -> "list[sa.ColumnElement[bool]]":
        of_forecasts = c.forecast.in_([head.id for head in heads])
        return [of_forecasts, *self.known.selection.of_symbols(c.symbol_id)]


def _key(c: Any) -> sa.ColumnElement[int]:
    """Forecast and symbol as one number."""
    key: sa.ColumnElement[int] = sa.cast(c.forecast, sa.BigInteger) * _SYMBOLS + c.symbol_id
    return key.label("key")


def _put(values: Any, places: Places, number: int) -> Floats:
    """Values at some places of `number` rows; NaN elsewhere."""
    column = np.full(number, np.nan)
    column[places] = values
    return column


def _of(rows: pa.Table, name: str) -> Places:
    numbers: Places = rows.column(name).to_numpy()
    return numbers


def _sessions(heads: Sequence[Any], horizon: int) -> Dates:
    """Sessions [K, H] after the cutoffs of forecasts that have one calendar (datetime64[ns])."""
    cutoffs = np.array([head.cutoff for head in heads], dtype="datetime64[ns]")
    return calendars.next_sessions_many(heads[0].calendar, cutoffs, horizon)
