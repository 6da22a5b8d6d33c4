"""The forms of a reply: a frame of returns, a frame of prices, or packed for programs."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.internals import create_dataframe_from_blocks

from registry.errors import BadForecast, BadHistory, NotAvailable
from registry.forecast import bars, calendars, names
from registry.forecast.arrays import Dates, Floats, Places
from registry.forecast.forecast import Forecast
from registry.forecast.history import History, repeated
from registry.forecast.identity import Identity
from registry.forecast.quantiles import path_quantiles

FRAME, PRICES, PACKED = names.OUTPUTS
BLOCK = "<f8"  # type of packed numbers: little-endian float64


def render(forecast: Forecast, calendar: str, output: str, identity: Identity | None = None) -> Any:
    """The forecast in one of the forms names.OUTPUTS, with the dates of its sessions.

    The reply names `identity`, the version of the forecast. Raises NotAvailable for prices if the
    forecast has none.
    """
    sessions = calendars.next_sessions_many(calendar, forecast.cutoffs, forecast.horizon)
    forms = {FRAME: frame, PRICES: price_frame, PACKED: packed}
    return forms[output](forecast, sessions, identity)


def frame(forecast: Forecast, sessions: Dates, identity: Identity | None = None) -> pd.DataFrame:
    """unique_id, step, ds, mean, q...: one row for each series and step; `sessions` are [N, H]."""
    values = np.concatenate([forecast.mean[:, :, None], forecast.quantiles], axis=2)
    return _long(forecast, sessions, (), values, identity)


def price_frame(
    forecast: Forecast, sessions: Dates, identity: Identity | None = None
) -> pd.DataFrame:
    """unique_id, step, ds, the median of each field of the bar, mean and q... of the close.

    The medians form a possible bar: an order that holds in every path holds between medians.
    """
    if forecast.price_paths is None:
        raise NotAvailable("this model forecasts returns; it knows no prices")
    closes = forecast.price_paths[..., 3]
    medians = np.median(forecast.price_paths, axis=1)
    quantiles = path_quantiles(closes, forecast.levels)
    values = np.concatenate([medians, closes.mean(axis=1)[:, :, None], quantiles], axis=2)
    return _long(forecast, sessions, names.BAR, values, identity)


def _long(
    forecast: Forecast,
    sessions: Dates,
    fields: tuple[str, ...],
    values: Floats,
    identity: Identity | None,
) -> pd.DataFrame:
    """A frame with one row for each series and step of `values` [N, H, C].

    Columns: keys, then the values (`fields` of a bar, mean, quantiles), then notes, whose last one
    is the identity. Notes are a column because MLflow's reply has no other place for them.
    """
    series, horizon, width = values.shape
    rows = series * horizon
    step = np.tile(np.arange(1, horizon + 1), series)
    place = np.arange(4 + width)
    blocks: list[tuple[Any, Places]] = [
        (repeated(forecast.unique_id, horizon), place[:1]),
        (step[None], place[1:2]),
        (sessions.astype("datetime64[ns]", copy=False).reshape(1, rows), place[2:3]),
        (values.reshape(rows, width).T, place[3:-1]),
    ]
    notes = [*forecast.notes.values()]
    if identity is not None:
        notes.append(identity.note)
    if notes:
        blocks.append((repeated(["; ".join(notes)], rows), place[-1:]))
    labels = _labels(fields, forecast.levels, noted=bool(notes))
    labels = labels.view()  # so that a caller cannot change the cached one
    # pandas' own constructor inspects every column and takes five times as long.
    long: pd.DataFrame = create_dataframe_from_blocks(
        blocks, index=pd.RangeIndex(rows), columns=labels
    )
    return long


@lru_cache(maxsize=256)
def _labels(fields: tuple[str, ...], levels: tuple[float, ...], *, noted: bool) -> "pd.Index[str]":
    """Labels of a long frame: keys, fields of a bar, mean, quantiles, notes."""
    quantiles = [names.quantile_column(level) for level in levels]
    notes = [names.NOTES] if noted else []
    keys = (names.UNIQUE_ID, names.STEP, names.DS)
    return pd.Index([*keys, *fields, names.MEAN, *quantiles, *notes])


# --- packed -----------------------------------------------------------------------------------


def packed(forecast: Forecast, sessions: Dates, identity: Identity | None = None) -> dict[str, Any]:
    """The forecast as base64 blocks of float64: mean and quantiles [N, H, 1 + Q], paths or bars.

    Beside them model, version and manifest: the identity.
    """
    columns = [names.MEAN, *map(names.quantile_column, forecast.levels)]
    values = np.concatenate([forecast.mean[:, :, None], forecast.quantiles], axis=2)
    reply = {
        names.UNIQUE_ID: list(forecast.unique_id),
        names.DS: np.datetime_as_string(sessions.astype("datetime64[D]")).tolist(),
        **_block(values, columns),
        names.NOTES: dict(forecast.notes),
        **(identity.fields if identity else {}),
    }
    if forecast.price_paths is not None:
        reply["price_paths"] = _block(forecast.price_paths, names.BAR)
    elif forecast.paths is not None:
        steps = [str(step) for step in range(1, forecast.horizon + 1)]
        reply["paths"] = _block(forecast.paths, steps)
    if forecast.measured:
        reply["measured"] = {name: values.tolist() for name, values in forecast.measured.items()}
    return reply


def refused(history: History) -> list[dict[str, Any]]:
    """The refused series of a caller's table: place from 1, unique_id, code, message."""
    return [asdict(series) for series in history.refused]


def unpacked(reply: Mapping[str, Any], history: History, levels: Sequence[float]) -> Forecast:
    """The forecast of `history`, at `levels`, from a reply of `packed`, bit for bit.

    The first versions wrote no notes. Raises BadHistory if the version refuses a series, and
    BadForecast for a reply with other series.
    """
    for series in reply.get(names.REFUSED, []):
        raise BadHistory(f"the version's own check: {series['message']}", code=series["code"])
    ids = tuple(reply[names.UNIQUE_ID])
    if ids != history.ids:
        raise BadForecast(
            f"the reply holds other series ({len(ids)}) than the history ({len(history.ids)})"
        )
    values = block(reply)
    prices = block(reply["price_paths"]) if "price_paths" in reply else None
    paths = block(reply["paths"]) if "paths" in reply else None
    if prices is not None:
        paths = bars.path_returns(prices, history.last(names.OHLC[3]))
    measured = reply.get("measured", {})
    return Forecast(
        unique_id=ids,
        cutoffs=history.cutoffs,
        levels=tuple(levels),
        quantiles=values[:, :, 1:],
        mean=values[:, :, 0],
        paths=paths,
        price_paths=prices,
        notes=dict(reply.get(names.NOTES, {})),
        measured={name: np.array(numbers, dtype=np.float64) for name, numbers in measured.items()},
    )


def _block(values: Floats, columns: Sequence[str]) -> dict[str, Any]:
    """An array as base64, with its shape and the names along its last axis."""
    data = base64.b64encode(values.astype(BLOCK).tobytes()).decode("ascii")
    return {"columns": list(columns), "shape": list(values.shape), "dtype": BLOCK, "data": data}


def block(packed_array: Mapping[str, Any]) -> Floats:
    """The array in a packed block."""
    flat = np.frombuffer(base64.b64decode(packed_array["data"]), dtype=BLOCK)
    return flat.reshape(packed_array["shape"]).astype(np.float64)
