"""Forecasts with their outcomes as a frame."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa

from registry.errors import Corrupt
from registry.forecast import calendars, names
from registry.forecast.arrays import Dates, Floats, Places
from registry.ledger import bulk, observations
from registry.ledger.forecasts import forecast_blocks, forecasts
from registry.ledger.observations import symbols
from registry.ledger.scores import COVERED, RAW, scores
from registry.ledger.selection import Known

_TOGETHER = 1_500_000  # rows that are read at a time, about
_TEXTS = ("forecast_id", "registry", "model", "data", "source")
_SYMBOLS = 1 << 31  # more than any symbol_id; packs (forecast, symbol) into one number
_SPAN = 1 << 32  # forecasts and codes that fit beside a symbol
_COVERED = np.array([0.0, 1.0, np.nan])  # by code
_UNSCORED = 2  # code of a band that the levels do not have


def frame(connection: sa.Connection, known: Known, calibrated: bool = False) -> pd.DataFrame:
    """One row for each forecast, symbol and step, sorted by cutoff, forecast, symbol and step.

    forecast_id, registry, model, version, data, source, calibration, cutoff, issued_at, unique_id,
    step, ds; mean and a column for each level (log return of the session); the outcome y with crps,
    pit, covered_50, covered_80 and covered_90: NaN while it was not known. `calibrated` gives those
    of calibrated quantiles, which equal the raw ones if no calibration was applied.
    """
    query = known.forecasts.where(*_with_symbols(known)).order_by("cutoff", "id")
    heads = connection.execute(query).all()
    reader = _Reader(connection, known, _listed(connection), heads, calibrated)
    parts = [reader.frame(some) for same in _by_form(heads) for some in _some(same)]
    if not parts:
        return reader.empty()
    return _sorted(pd.concat(parts, ignore_index=True), heads)


def _with_symbols(known: Known) -> "list[sa.ColumnElement[bool]]":
    """Only forecasts of the selected symbols, if there are any: most served ones have one symbol.

    The database finds each of them in an index, which takes a twentieth of reading all heads.
    """
    b = forecast_blocks.c
    chosen = known.selection.of_symbols(b.symbol_id)
    if not chosen:
        return []
    return [sa.exists().where(b.forecast == forecasts.c.id, *chosen)]


def _sorted(joined: pd.DataFrame, heads: Sequence[Any]) -> pd.DataFrame:
    """Rows in the order of their forecasts."""
    places = {head.forecast_id: place for place, head in enumerate(heads)}
    texts = joined["forecast_id"].cat
    of_code = np.array([places[text] for text in texts.categories])
    place = of_code[texts.codes]
    if (place[1:] >= place[:-1]).all():
        return joined
    return joined.iloc[np.argsort(place, kind="stable")].reset_index(drop=True)


def _some(heads: Sequence[Any]) -> Iterator[list[Any]]:
    """Forecasts of one form that are read together, by id."""
    ascending = sorted(heads, key=lambda head: head.id)
    span = _SPAN // _width(heads[0].horizon)
    some: list[Any] = []
    rows = 0
    for head in ascending:
        if some and (rows > _TOGETHER or head.id - some[0].id >= span):
            yield some
            some, rows = [], 0
        some.append(head)
        rows += head.series * head.horizon
    yield some


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
    """Reads some of the forecasts `heads` at a time."""

    connection: sa.Connection
    known: Known
    listed: pa.Table
    heads: Sequence[Any]
    calibrated: bool

    def frame(self, heads: Sequence[Any]) -> pd.DataFrame:
        """Rows of forecasts that have one form, by id."""
        levels, horizon = json.loads(heads[0].levels), heads[0].horizon
        blocks = self._blocks(heads)
        ids, series = np.divmod(_of(blocks, "key"), _SYMBOLS)
        place = np.searchsorted(np.array([head.id for head in heads]), ids)
        ranks, texts = self._symbols()
        rank = ranks[np.searchsorted(_of(self.listed, "id"), series)]
        shape = (horizon, 1 + len(levels))
        values = bulk.unpacked_blocks(blocks.column("block"), shape)
        scored = self._scores(heads, _of(blocks, "key"), horizon)
        sort = np.lexsort((rank, place))
        if (np.diff(sort) != 1).any():  # else each is in its place already
            place, rank, values = place[sort], rank[sort], values[sort]
            scored = {name: column[sort] for name, column in scored.items()}
        rows = place.repeat(horizon)
        columns = self._head_columns(heads, rows)
        columns[names.UNIQUE_ID] = pd.Categorical.from_codes(rank.repeat(horizon), texts)
        columns[names.STEP] = np.tile(np.arange(1, horizon + 1), len(place))
        columns[names.DS] = _sessions(heads, horizon)[place].reshape(-1)
        quantiles = [names.quantile_column(level) for level in levels]
        numbers_of = values.reshape(-1, shape[1]).T
        columns |= dict(zip((names.MEAN, *quantiles), numbers_of, strict=True))
        columns |= {name: column.reshape(-1) for name, column in scored.items()}
        return pd.DataFrame(columns, copy=False)

    def empty(self) -> pd.DataFrame:
        """A frame of no forecast, so without levels."""
        columns = self._head_columns([], np.array([], dtype=np.int64))
        columns[names.UNIQUE_ID] = pd.Categorical.from_codes([], self._symbols()[1])
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
        order = (*_TEXTS[:3], "version", *_TEXTS[3:], "calibration")
        return {name: columns.pop(name) for name in order} | columns

    def _symbols(self) -> "tuple[Places, pd.Index[Any]]":
        """The rank of each listed symbol, and the symbols by rank."""
        listed = np.array(self.listed.column("symbol").to_pylist(), dtype=object)
        texts, ranks = np.unique(listed, return_inverse=True)
        return ranks, pd.Index(texts)

    def _blocks(self, heads: Sequence[Any]) -> pa.Table:
        """key and block of each symbol, by key."""
        c = forecast_blocks.c
        block = sa.func.coalesce(c.calibrated, c.raw) if self.calibrated else c.raw
        query = sa.select(_key(c).label("key"), block.label("block")).where(
            *self._conditions(c, heads)
        )
        return bulk.select_filled(self.connection, query.order_by(c.forecast, c.symbol_id))

    def _scores(self, heads: Sequence[Any], keys: Places, horizon: int) -> dict[str, Floats]:
        """y and scores [M, H] of the blocks with these keys [M]; NaN where there are none.

        Few columns are read, because on SQLite each value is an object: one number holds the key,
        the step, and which bands covered the outcome. Raises Corrupt for scores without a block.
        """
        c, first = scores.c, heads[0].id
        code: Any = c.step
        for name in COVERED:
            code = code * len(_COVERED) + sa.func.coalesce(self._chosen(name), _UNSCORED)
        width = _width(horizon)
        packed = _key(c, first) * width + code
        numbers = {name: self._chosen(name).label(name) for name in ("crps", "pit")}
        query = observations.as_of(scores, self.known.instant).where(*self._conditions(c, heads))
        if self.known.selection.symbols:  # the steps too, for the index
            query = query.where(c.step.in_(range(1, horizon + 1)))
        chosen = query.with_only_columns(packed.label("packed"), c.y, *numbers.values())
        rows = bulk.select_filled(self.connection, chosen)
        key, codes = np.divmod(_of(rows, "packed"), width)
        found = {name: rows.column(name).to_numpy() for name in (names.Y, *numbers)}
        for name in reversed(COVERED):
            codes, covered = np.divmod(codes, len(_COVERED))
            found[name] = _COVERED[covered]
        places = _places(keys - first * _SYMBOLS, key)
        shape = (len(keys), horizon)
        return {name: _put(found[name], (places, codes - 1), shape) for name in (names.Y, *RAW)}

    def _chosen(self, name: str) -> sa.ColumnElement[Any]:
        """A score, raw or calibrated."""
        raw = scores.c[name]
        return sa.func.coalesce(scores.c[f"{name}_calibrated"], raw) if self.calibrated else raw

    def _conditions(self, c: Any, heads: Sequence[Any]) -> "list[sa.ColumnElement[bool]]":
        of_forecasts = c.forecast.in_([head.id for head in heads])
        return [of_forecasts, *self.known.selection.of_symbols(c.symbol_id)]


def _width(horizon: int) -> int:
    """More than any code of a step and its bands."""
    width: int = (horizon + 1) * len(_COVERED) ** len(COVERED)
    return width


def _key(c: Any, first: int = 0) -> sa.ColumnElement[int]:
    """Forecast, counted from `first`, and symbol as one number."""
    key: sa.ColumnElement[int] = sa.cast(c.forecast - first, sa.BigInteger) * _SYMBOLS + c.symbol_id
    return key


def _places(keys: Places, wanted: Places) -> Places:
    """Where each wanted key stands among `keys`, which ascend."""
    places = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    if len(wanted) and (not len(keys) or (keys[places] != wanted).any()):
        raise Corrupt("the ledger has scores of a symbol whose forecast was lost; see `doctor`")
    return places


def _put(values: Any, places: tuple[Places, Places], shape: tuple[int, int]) -> Floats:
    """Values at some places [M, H]; NaN elsewhere."""
    column = np.full(shape, np.nan)
    column[places] = values
    return column


def _of(rows: pa.Table, name: str) -> Places:
    numbers: Places = rows.column(name).to_numpy()
    return numbers


def _sessions(heads: Sequence[Any], horizon: int) -> Dates:
    """Sessions [K, H] after the cutoffs of forecasts that have one calendar (datetime64[ns])."""
    cutoffs = np.array([head.cutoff for head in heads], dtype="datetime64[ns]")
    return calendars.next_sessions_many(heads[0].calendar, cutoffs, horizon)
