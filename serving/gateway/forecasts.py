"""POST /forecast: from the items of a request to the reply."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from registry.errors import BadHistory, BadParameter, KronosError
from registry.forecast.spec import ModelSpec
from serving.gateway import calls, histories, replies
from serving.gateway.calls import Answer, Row, Series
from serving.gateway.dispatch import Job
from serving.gateway.histories import Histories
from serving.gateway.items import Item
from serving.gateway.kept import Kept
from serving.gateway.reading import ForecastRequest, Refused
from serving.gateway.routes import Live, Routes
from serving.gateway.supervision import Supervision
from serving.gateway.tables import Calibration, Tables
from serving.messages import Issued, Route

_REFUSED = "refused"  # note of a version; its places are those of a call


@dataclass(slots=True)
class Reply:
    """A reply, and what of it is recorded."""

    content: dict[str, Any]
    route: Route
    forecasts: dict[str, Issued | None] = field(default_factory=dict)  # by forecast_id


@dataclass(frozen=True, slots=True)
class Plan:
    """What a request asks of a version."""

    steps: list[int]
    horizon: int
    levels: tuple[float, ...]
    parameters: bytes
    cumulative: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """What a version said of the histories of a request."""

    live: Live
    plan: Plan
    data: str  # data set, or empty
    gathered: Histories
    rows: Mapping[str, Row | KronosError]  # by symbol
    notes: Sequence[str]
    calibration: Calibration
    tables: Tables

    def age_of_calibration(self, cutoff: str) -> int:
        """Sessions from the last one that the calibration was learned from to a cutoff."""
        calendar = self.live.spec.calendar
        return self.tables.sessions_since(calendar, self.calibration.learned_until, cutoff)


@dataclass
class Forecasts:
    """Answers requests by the versions that are live."""

    routes: Routes
    tables: Tables
    supervision: Supervision
    kept: Kept
    calibration: bool  # False: every number is raw

    async def answer(self, request: ForecastRequest) -> Reply:
        """The reply to a request. Raises KronosError for a request that cannot be answered."""
        live = self.routes.of(request.model)
        with live.held(self.routes.drained):
            plan = _plan(request, live.spec)
            data = request.data or live.route.data
            gathered = await histories.collect(
                request.items,
                data,
                live.route,
                live.spec,
                self.tables,
                self.supervision,
                self.kept,
            )
            rows, notes = await _ask(live, plan, gathered)
        calibration = self._calibration(live, data)
        answered = Answered(live, plan, data, gathered, rows, notes, calibration, self.tables)
        if request.batch:
            return _many(request, answered)
        return _one(request.items[0], answered)

    def _calibration(self, live: Live, data: str) -> Calibration:
        """The identity if calibration is off, or not made for this data set and these levels."""
        route = live.route
        calibration = self.tables.calibration(route.name, route.version)
        if self.calibration and data == route.data and calibration.fits(live.spec.levels):
            return calibration
        return Calibration()


def _plan(request: ForecastRequest, spec: ModelSpec) -> Plan:
    """The checked request. Raises BadParameter and NotAvailable."""
    sent: dict[str, Any] = dict(request.options)
    if "output" in sent:
        raise BadParameter("options: output is no option of /forecast", code="UNKNOWN_PARAM")
    if request.steps is not None:
        sent["horizon"] = max(request.steps)
    if request.levels is not None:
        sent["levels"] = request.levels
    if request.seed is not None:
        sent["seed"] = request.seed
    checked = spec.request(sent)
    if request.cumulative:
        replies.check_cumulative(spec)
    steps = request.steps or range(1, checked.horizon + 1)
    parameters = calls.parameters(checked.horizon, request.seed, request.options)
    return Plan(
        steps=list(steps),
        horizon=checked.horizon,
        levels=checked.levels,
        parameters=parameters,
        cumulative=request.cumulative,
    )


# --- the version's answer ---------------------------------------------------------------------


async def _ask(
    live: Live, plan: Plan, gathered: Histories
) -> tuple[dict[str, Row | KronosError], list[str]]:
    """Rows by symbol, and notes.

    Each part is asked after the one before it: all at once, the last ones would wait too long.
    """
    everyone = {**gathered.others, **gathered.wanted}
    series = [everyone[symbol].series for symbol in sorted(everyone)]
    rows: dict[str, Row | KronosError] = {}
    notes: list[str] = []
    for part in _parts(series, live):
        for answer in await _answers(part, plan, live):
            rows |= answer.rows
            notes += _notes(answer, live.spec)
    return rows, notes


async def _answers(part: Sequence[Series], plan: Plan, live: Live) -> list[Answer]:
    """Answers to a part. If a history refuses all of it, its halves are asked, down to that one."""
    try:
        answer = await live.dispatcher.ask(Job(part, plan.parameters))
    except BadHistory as error:
        if live.spec.joint:
            raise
        if len(part) == 1:
            return [Answer({part[0].symbol: error}, {})]
        half = len(part) // 2
        first = await _answers(part[:half], plan, live)
        return first + await _answers(part[half:], plan, live)
    return [answer] if isinstance(answer, Answer) else []


def _notes(answer: Answer, spec: ModelSpec) -> list[str]:
    """Notes of a call. Our reply lists refused series by their places in the request."""
    if spec.joint:
        return [*answer.notes.values()]
    return [note for kind, note in answer.notes.items() if kind != _REFUSED]


def _parts(series: Sequence[Series], live: Live) -> Iterator[Sequence[Series]]:
    """Series of one call each: those of a joint model stay together, and so do equal columns.

    How many there are follows from the calls that were answered meanwhile.
    """
    if live.spec.joint:
        if series:
            yield series
        return
    by_columns: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        by_columns.setdefault(tuple(one.columns), []).append(one)
    for group in by_columns.values():
        while group:
            most = live.dispatcher.most
            yield group[:most]
            group = group[most:]


# --- replies ----------------------------------------------------------------------------------


def _one(item: Item, answered: Answered) -> Reply:
    """The reply to a single item. Raises what refused it."""
    reply = Reply({}, answered.live.route)
    content = _content(item.symbol, answered, reply)
    content["meta"] |= _shared(answered)
    reply.content = content
    return reply


def _many(request: ForecastRequest, answered: Answered) -> Reply:
    """The reply to a batch: what could be answered, and why the rest could not."""
    reply = Reply({}, answered.live.route)
    forecasts = []
    refused = list(request.refused)
    for place, item in zip(_places(request), request.items, strict=True):
        try:
            forecasts.append(_content(item.symbol, answered, reply))
        except KronosError as error:
            refused.append(Refused(place, item.symbol, error.code, error.message))
    reply.content = {
        "forecasts": forecasts,
        "refused": sorted(refused, key=lambda one: one.place),
        "meta": _shared(answered),
    }
    return reply


def _places(request: ForecastRequest) -> list[int]:
    """Places in the batch of the items that were not refused when it was read."""
    taken = {one.place for one in request.refused}
    number = len(request.items) + len(request.refused)
    return [place for place in range(1, number + 1) if place not in taken]


def _row(symbol: str, answered: Answered) -> Row:
    """The row of a symbol. Raises the error that refused it."""
    if symbol in answered.gathered.refused:
        raise answered.gathered.refused[symbol]
    row = answered.rows.get(symbol)
    if row is None:
        raise KronosError("the version sent no forecast of the series")
    if isinstance(row, KronosError):
        raise row
    return row


def _content(symbol: str, answered: Answered, reply: Reply) -> dict[str, Any]:
    """One forecast, whose numbers are noted in `reply` for the ledger. Raises what refused it."""
    row = _row(symbol, answered)
    history = answered.gathered.wanted[symbol]
    plan, calibration = answered.plan, answered.calibration
    levels = answered.live.spec.levels
    both = replies.numbers(row, symbol, levels, calibration)
    values = replies.asked(
        row, both, levels, plan.levels, cumulative=plan.cumulative, close=history.close
    )
    forecast_id = replies.forecast_id()
    issued = replies.issued(history, both, levels, answered.data, calibration)
    reply.forecasts[forecast_id] = issued
    if both.calibrated is None:
        calibration = Calibration()
    age = answered.age_of_calibration(history.cutoff)
    meta = {
        "forecast_id": forecast_id,
        "sessions": {str(step): row.sessions[step - 1] for step in plan.steps},
        "calibration": replies.of_calibration(calibration, age, plan.steps),
        **replies.of_history(history),
    }
    keys = replies.keys_of(plan.levels)
    return {"symbol": symbol, **replies.shown(values, plan.steps, keys), "meta": meta}


def _shared(answered: Answered) -> dict[str, Any]:
    """The part of `meta` that holds for every forecast of a reply."""
    plan, route = answered.plan, answered.live.route
    return {
        **replies.of_version(route),
        "data": answered.data or None,
        "target": replies.CUMULATIVE if plan.cumulative else replies.TARGET,
        "cumulative": plan.cumulative,
        "quantiles": list(plan.levels),
        "notes": replies.notes_of(route.notes, answered.notes, answered.gathered.notes),
    }
