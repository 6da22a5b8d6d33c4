"""The history of each item of a request: as it was sent, or from the ledger."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from registry.codes import from_code
from registry.errors import BadHistory, BadInput, BadParameter, KronosError, NotFound
from registry.forecast import names
from registry.forecast.spec import ModelSpec
from serving import messages
from serving.gateway import calls
from serving.gateway.calls import Series
from serving.gateway.history import ASSUMED, LEDGER, SENT, History
from serving.gateway.items import Item
from serving.gateway.kept import Kept, Key
from serving.gateway.supervision import Supervision
from serving.gateway.tables import Tables
from serving.messages import Found, Route


@dataclass(slots=True)
class Histories:
    """Histories by symbol, those that only complete a universe, and what was refused."""

    wanted: dict[str, History] = field(default_factory=dict)
    others: dict[str, History] = field(default_factory=dict)
    refused: dict[str, KronosError] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


async def collect(
    items: Sequence[Item],
    data: str,
    route: Route,
    spec: ModelSpec,
    tables: Tables,
    supervision: Supervision,
    kept: Kept,
) -> Histories:
    """The histories of all items. Raises BadParameter, NotFound and NotReady."""
    sent = [item for item in items if item.series is not None or item.bars is not None]
    asked = [item.symbol for item in items if item.series is None and item.bars is None]
    if spec.joint and not spec.subset and sent and asked:
        raise BadParameter(
            f"{route.model} forecasts its series together: send all of them, or none"
        )
    histories = Histories()
    markets: dict[Any, Found] = {}  # covariates of the same days are the same for all symbols
    for item in sent:
        try:
            columns = _columns(item, spec, tables)
            history = await _completed(
                item.symbol, columns, data, route, spec, supervision, markets
            )
            histories.wanted[item.symbol] = history
        except (BadInput, NotFound) as error:
            histories.refused[item.symbol] = error
    if asked:
        await _look_up(asked, histories, data, route, spec, supervision, kept)
    return histories


# --- from the ledger --------------------------------------------------------------------------


async def _look_up(
    asked: Sequence[str],
    histories: Histories,
    data: str,
    route: Route,
    spec: ModelSpec,
    supervision: Supervision,
    kept: Kept,
) -> None:
    missing = []
    for symbol in asked:
        history = kept.get(_key(symbol, data, route))
        if history is None:
            missing.append(symbol)
        else:
            histories.wanted[symbol] = history
    if not missing:
        return
    drops = kept.drops(data)
    wanted = set(missing)
    found = await _ask(supervision, route, data, missing, _wanted_columns(spec), ())
    for one in found.series:
        history = _of_ledger(one)
        kind = histories.wanted if one.symbol in wanted else histories.others
        kind[one.symbol] = history
        if not (spec.joint or found.notes):
            kept.put(_key(one.symbol, data, route), history, drops)
    for symbol, refusal in found.refused.items():
        error = from_code(refusal.code, refusal.message, refusal.status)
        histories.refused[symbol] = error
    histories.notes += found.notes


def _key(symbol: str, data: str, route: Route) -> Key:
    return route.name, route.version, data, symbol


def _of_ledger(one: messages.Series) -> History:
    columns = {names.DS: calls.values(one.ds)}
    for name, column in one.columns.items():
        columns[name] = calls.values(column)
    covariates = {name: LEDGER for name in one.columns if name not in _OF_SERIES}
    series = Series(one.symbol, len(one.ds), columns)
    return History(series, one.ds[-1], _last_close(one.columns), LEDGER, LEDGER, covariates)


def _last_close(columns: Mapping[str, Sequence[float]]) -> float | None:
    closes = columns.get(names.OHLC[3])
    return closes[-1] if closes else None


async def _ask(
    supervision: Supervision,
    route: Route,
    data: str,
    symbols: Sequence[str],
    columns: Sequence[str],
    days: Sequence[str],
) -> Found:
    return await supervision.look_up(
        {
            "model": route.name,
            "version": route.version,
            "data": data or route.data,
            "symbols": tuple(symbols),
            "columns": tuple(columns),
            "days": tuple(days),
        }
    )


# --- as sent ----------------------------------------------------------------------------------

_OF_SERIES = {names.UNIQUE_ID, names.DS, names.Y, *names.BAR}


@dataclass(slots=True)
class _Columns:
    days: list[str]
    assumed: bool
    numbers: dict[str, list[float]]  # y, bars and features


def _wanted_columns(spec: ModelSpec) -> list[str]:
    """Columns beside unique_id and ds."""
    keys = {names.UNIQUE_ID, names.DS}
    return [name for name in (*spec.columns, *spec.optional) if name not in keys]


def _columns(item: Item, spec: ModelSpec, tables: Tables) -> _Columns:
    """The last max_context rows of what was sent: older ones have no effect on a forecast."""
    numbers = dict(_numbers(item, spec))
    length = len(numbers[names.Y])
    kept = min(length, spec.max_context)
    for name, column in item.features.items():
        _check_feature(name, spec)
        numbers[name] = column
    cut = {name: column[-kept:] for name, column in numbers.items()}
    if item.ds is not None:
        return _Columns(item.ds[-kept:], False, cut)
    return _Columns(tables.last_sessions(spec.calendar, kept), True, cut)


def _numbers(item: Item, spec: ModelSpec) -> dict[str, list[float]]:
    """y, and the bars if the version looks at them."""
    bars = item.bars
    if bars is None:
        if item.series is None:
            raise BadHistory("neither series nor bars were sent", code="EMPTY")
        return {names.Y: item.series}
    closes = bars[names.OHLC[3]]
    if any(close <= 0 for close in closes):
        raise BadHistory("bars: a price is not positive", code="BAD_PRICE")
    numbers = {names.Y: [math.log(after / before) for before, after in pairwise(closes)]}
    for name in names.BAR:
        if name in bars and name in (*spec.columns, *spec.optional):
            numbers[name] = bars[name][1:]
    return numbers


def _check_feature(name: str, spec: ModelSpec) -> None:
    columns = [one for one in _wanted_columns(spec) if one not in _OF_SERIES]
    if name not in columns:
        listed = ", ".join(columns) or "none"
        raise BadParameter(
            f"features: {spec.name} knows {listed}; another one was sent", code="UNKNOWN_PARAM"
        )


async def _completed(
    symbol: str,
    columns: _Columns,
    data: str,
    route: Route,
    spec: ModelSpec,
    supervision: Supervision,
    markets: dict[Any, Found],
) -> History:
    """The history with the covariates that were not sent, from the ledger."""
    missing = [name for name in spec.columns if name not in (names.UNIQUE_ID, names.DS)]
    missing = [name for name in missing if name not in columns.numbers]
    if any(name in names.BAR for name in missing):
        raise BadHistory(
            f"{route.model} looks at bars: send them as `bars`, or leave `series` out",
            code="MISSING_COLUMN",
        )
    covariates = {name: SENT for name in columns.numbers if name not in _OF_SERIES}
    if missing:
        key = (*missing, *columns.days)
        if key not in markets:
            markets[key] = await _ask(supervision, route, data, [symbol], missing, columns.days)
        found = markets[key]
        for refusal in found.refused.values():
            raise from_code(refusal.code, refusal.message, refusal.status)
        columns.numbers.update(found.series[0].columns)
        covariates |= dict.fromkeys(missing, LEDGER)
    fragments = {names.DS: calls.values(columns.days)}
    for name in _wanted_columns(spec):
        if name in columns.numbers:
            fragments[name] = calls.values(columns.numbers[name])
    series = Series(symbol, len(columns.days), fragments)
    ds = ASSUMED if columns.assumed else SENT
    close = _last_close(columns.numbers)
    return History(series, columns.days[-1], close, SENT, ds, covariates)
