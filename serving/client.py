"""Client of the gateway in one file, for other projects to copy: it needs Python 3.11 and httpx.

    from client import Client

    with Client("http://127.0.0.1:8080", key="...") as client:
        forecast = client.forecast("AAPL", horizon=[1, 5], series=returns)
        forecast.yhat[5]             # mean log return of the 5th session
        forecast.quantiles[5][0.05]  # it is lower one time in twenty
        forecast.frame()             # pandas: one row per step

`AsyncClient` has the same methods to await. All errors are a GatewayError:

    GatewayError        `code`, `message`, `status`, `request_id`
    ├─ BadRequest       4xx, or refused here before it was sent
    ├─ Unauthorized     401, 403: no key, a wrong one, or one for other models
    ├─ NotFound         404: no such symbol or data set
    ├─ Busy             429, 503: too many requests, or no version is ready yet
    ├─ ServerError      5xx, or a reply that cannot be read
    ├─ Unreachable      no connection, or it broke
    └─ Timeout          no reply within `timeout_s`

Busy and Unreachable are tried again. pandas is imported only where a frame is made.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import httpx

if TYPE_CHECKING:
    import pandas as pd

REQUEST_ID = "kronos-request-id"
FIRST_PAUSE_S = 0.1  # longest pause before the first retry; it doubles with each one
LONGEST_PAUSE_S = 5.0

Numbers: TypeAlias = Iterable[float]  # a list, a numpy array or a pandas Series
Days: TypeAlias = Iterable[str | date]  # 2022-12-28; a DatetimeIndex counts
Columns: TypeAlias = "Mapping[str, Numbers] | pd.DataFrame"

T = TypeVar("T")


# --- errors -----------------------------------------------------------------------------------


class GatewayError(Exception):
    """Why there is no forecast. `code` is one of the gateway's, or one of this file."""

    def __init__(
        self,
        code: str,
        message: str,
        status: int | None = None,
        request_id: str = "",
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(code, message, status, request_id, retry_after_s)
        self.code = code
        self.message = message
        self.status = status  # of HTTP; None if no reply came
        self.request_id = request_id  # in the gateway's log; empty if nothing was sent
        self.retry_after_s = retry_after_s  # what the gateway asked for

    def __str__(self) -> str:
        request = f" (request {self.request_id})" if self.request_id else ""
        return f"{self.code}: {self.message}{request}"


class BadRequest(GatewayError):
    """The request is wrong; it will be refused again."""


class Unauthorized(GatewayError):
    """The gateway does not accept the key."""


class NotFound(GatewayError):
    """The gateway does not know a name in the request."""


class Busy(GatewayError):
    """The gateway cannot answer now."""


class ServerError(GatewayError):
    """The gateway failed, or something else answered in its place."""


class Unreachable(GatewayError):
    """There is no connection to the gateway."""


class Timeout(GatewayError):
    """The reply did not come in time."""


_KINDS: dict[int, type[GatewayError]] = {
    401: Unauthorized,
    403: Unauthorized,
    404: NotFound,
    429: Busy,
    503: Busy,
}


# --- requests and replies ---------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One symbol of `forecasts`. Without `series` and `bars`, the gateway looks its history up.

    `ds` and each feature have one value for each value of `series`, or for each bar. The first
    bar is only the base of the first return.
    """

    symbol: str
    series: Numbers | None = None  # log returns, oldest first
    ds: Days | None = None  # sessions
    bars: Columns | None = None  # open, high, low, close, perhaps volume and amount
    features: Columns | None = None  # covariates that the model declares


@dataclass(frozen=True, kw_only=True)
class _Reply:
    """Base of what the gateway sends."""

    extra: dict[str, Any] = field(default_factory=dict)  # keys that this file does not know

    @classmethod
    def _read(cls, sent: Mapping[str, Any]) -> Self:
        names = cls.__dataclass_fields__.keys() - {"extra"}
        known = {name: value for name, value in sent.items() if name in names}
        extra = {name: value for name, value in sent.items() if name not in names}
        return cls(**known, extra=extra)


@dataclass(frozen=True, kw_only=True)
class Calibration(_Reply):
    """How a forecast was corrected by the errors of earlier ones."""

    version: int | None  # None: by none
    state: str  # calibrated | stale | uncalibrated
    learned_until: str | None = None  # last session that it was learned from
    learned_from: dict[str, int] | None = None  # nights: live, and backfill: made afterwards
    age: int | None = None  # sessions from `learned_until` to the cutoff; stale above 5


@dataclass(frozen=True, kw_only=True)
class Meta(_Reply):
    """What a forecast rests on. Dates are text, as 2022-12-28."""

    model: str  # registered name
    version: int
    stage: str
    manifest: str  # first digits of the sha256 of the version's manifest
    trained_until: str | None
    pretrained_until: str | None
    data: str | None  # data set
    target: str
    cumulative: bool
    levels: list[float]
    notes: list[str]
    forecast_id: str
    sessions: dict[int, str]  # date of each step
    calibration: Calibration
    cutoff: str  # last session of the history
    history: str  # sent | ledger
    ds: str  # sent | ledger | assumed: the last completed session
    covariates: dict[str, str]  # by column: sent | ledger
    input_digest: str  # sha256 of the rows that the version looked at
    asked: str | None = None  # the model that was asked for, if another one answered
    stale: bool = False  # the registry did not answer when the version was started

    @classmethod
    def _read(cls, sent: Mapping[str, Any]) -> Self:
        known = dict(sent)
        known["version"] = known.pop("ver")
        known["levels"] = known.pop("quantiles")
        known["sessions"] = {int(step): day for step, day in known["sessions"].items()}
        known["calibration"] = Calibration._read(known["calibration"])
        return super()._read(known)


@dataclass(frozen=True, kw_only=True)
class Forecast(_Reply):
    """Forecast of one symbol: log returns of single sessions, or up to each if cumulative."""

    symbol: str
    yhat: dict[int, float]  # mean of each step
    quantiles: dict[int, dict[float, float]]  # by step and level
    meta: Meta

    def frame(self) -> pd.DataFrame:
        """One row per step: unique_id, step, ds, mean, then a column as q0.05 per level."""
        return _frame([self])

    @classmethod
    def _read(cls, sent: Mapping[str, Any]) -> Self:
        known = dict(sent)
        meta = Meta._read(known["meta"])
        known["meta"] = meta
        known["yhat"] = {int(step): float(mean) for step, mean in known["yhat"].items()}
        known["quantiles"] = {
            int(step): _by_level(by_key, meta.levels) for step, by_key in known.pop("q").items()
        }
        return super()._read(known)


@dataclass(frozen=True, kw_only=True)
class Refused(_Reply):
    """A symbol of `forecasts` without a forecast, and why."""

    place: int  # in the request, from 1
    symbol: str | None
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Forecasts(_Reply):
    """Forecasts of many symbols, in the order of the request, and what was refused."""

    forecasts: list[Forecast]
    refused: list[Refused]

    def __iter__(self) -> Iterator[Forecast]:
        return iter(self.forecasts)

    def __len__(self) -> int:
        return len(self.forecasts)

    def frame(self) -> pd.DataFrame:
        """The forecasts below each other, as `Forecast.frame`."""
        return _frame(self.forecasts)

    @classmethod
    def _read(cls, sent: Mapping[str, Any]) -> Self:
        known = dict(sent)
        shared = known.pop("meta")
        forecasts = []
        for one in known["forecasts"]:
            meta = {**shared, **one["meta"]}
            forecasts.append(Forecast._read({**one, "meta": meta}))
        known["forecasts"] = forecasts
        known["refused"] = [Refused._read(one) for one in known["refused"]]
        return super()._read(known)


@dataclass(frozen=True, kw_only=True)
class Model(_Reply):
    """A model of the gateway. All but `model` and `state` is of the version that answers."""

    model: str
    state: str  # starting | serving | failed
    name: str | None = None  # registered name
    version: int | None = None
    stage: str | None = None
    manifest: str | None = None  # sha256
    since: str | None = None  # when it was warm, ISO 8601 in UTC
    data: str | None = None
    calendar: str | None = None
    horizon: int | None = None  # sessions ahead
    min_context: int | None = None  # sessions that it needs
    max_context: int | None = None  # sessions that it looks at
    levels: list[float] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    optional: list[str] = field(default_factory=list)
    trained_until: str | None = None
    pretrained_until: str | None = None
    calibration: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, Any] = field(default_factory=dict)  # version, code, message
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Ready(_Reply):
    """Whether a warm version of every model answers. It is true in a condition if so."""

    ready: bool
    models: dict[str, str]  # state of each

    def __bool__(self) -> bool:
        return self.ready


def _by_level(by_key: Mapping[str, float], levels: Iterable[float]) -> dict[float, float]:
    """Quantiles by level; the keys are p05, p50 and p02.5."""
    return {level: float(by_key[_percent_key(level)]) for level in levels}


def _percent_key(level: float) -> str:
    percent = round(level * 100, 9)
    digits = f"{percent:g}" if percent % 1 else f"{percent:.0f}"
    return f"p0{digits}" if percent < 10 else f"p{digits}"


def _frame(forecasts: Iterable[Forecast]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for forecast in forecasts:
        for step, mean in forecast.yhat.items():
            day = forecast.meta.sessions[step]
            at_levels = {f"q{level!r}": q for level, q in forecast.quantiles[step].items()}
            key = {"unique_id": forecast.symbol, "step": step, "ds": day}
            rows.append({**key, "mean": mean, **at_levels})
    columns = None if rows else ["unique_id", "step", "ds", "mean"]
    frame = pd.DataFrame(rows, columns=columns)
    frame["ds"] = pd.to_datetime(frame["ds"])
    return frame


# --- clients ----------------------------------------------------------------------------------


class Client:
    """A connection to a gateway. Threads may share it; close it, or use it in `with`.

    `timeout_s` holds for a whole call with its retries. `retries` are of Busy and Unreachable.
    """

    def __init__(self, url: str, key: str = "", timeout_s: float = 10.0, retries: int = 3) -> None:
        self._limits = _Limits(timeout_s, retries)
        self._http = httpx.Client(base_url=_checked(url), headers=_headers(key), timeout=timeout_s)

    def forecast(
        self,
        symbol: str,
        *,
        horizon: int | Iterable[int] | None = None,
        series: Numbers | None = None,
        ds: Days | None = None,
        bars: Columns | None = None,
        features: Columns | None = None,
        data: str | None = None,
        model: str | None = None,
        levels: Iterable[float] | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        cumulative: bool = False,
    ) -> Forecast:
        """Forecast one symbol; the gateway looks its history up if no `series` or `bars` is sent.

        `horizon` is 5 for steps 1 to 5, or a list of steps. `series` are log returns, oldest
        first, in a list, a numpy array or a pandas Series; the dates of a DatetimeIndex are sent
        as `ds`. `cumulative` asks models that sample paths for returns from the cutoff to each
        step. Everything that is left out has the gateway's default. Raises GatewayError.

            forecast = client.forecast("AAPL", horizon=[1, 5], data="mystocks")
            forecast.yhat[1], forecast.meta.calibration.state
        """
        item = Item(symbol, series, ds, bars, features)
        asked = _asked(model, horizon, data, levels, seed, options, cumulative)
        return self._answer(_one(item, asked))

    def forecasts(
        self,
        items: Iterable[str | Item] = (),
        *,
        frame: pd.DataFrame | None = None,
        horizon: int | Iterable[int] | None = None,
        data: str | None = None,
        model: str | None = None,
        levels: Iterable[float] | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        cumulative: bool = False,
    ) -> Forecasts:
        """Forecast many symbols. The gateway refuses bad ones alone: see `refused`.

        An item is a symbol, or an Item with its own history. `frame` is a pandas frame of
        histories with the columns unique_id, ds, y and covariates, or with bars (open, high, low,
        close) in place of y.

            forecasts = client.forecasts(["AAPL", Item("MSFT", series=returns)], horizon=5)
            forecasts.frame()
        """
        asked = _asked(model, horizon, data, levels, seed, options, cumulative)
        return self._answer(_many(items, frame, asked))

    def models(self) -> list[Model]:
        """The models of the gateway, and which versions answer."""
        return self._answer(_MODELS)

    def ready(self) -> Ready:
        """Whether every model has a version that answers: `if client.ready(): ...`"""
        return self._answer(_READY)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _answer(self, call: _Call[T]) -> T:
        attempts = _Attempts(self._limits)
        while True:
            try:
                with _translated(attempts):
                    return call.result(attempts.id, *self._send(call, attempts))
            except GatewayError as error:
                pause_s = attempts.pause_s(error)
            time.sleep(pause_s)

    def _send(self, call: _Call[T], attempts: _Attempts) -> tuple[httpx.Response, bytes]:
        """A response and its body, each part of which httpx awaits for `left_s` at most."""
        parts = []
        left_s = attempts.left_s()
        headers = attempts.headers
        with self._http.stream(
            call.method, call.path, content=call.body, headers=headers, timeout=left_s
        ) as response:
            for part in response.iter_bytes():
                parts.append(part)
                attempts.check()
        return response, b"".join(parts)


class AsyncClient:
    """`Client` for asyncio: the same methods, to await. One event loop at a time.

    async with AsyncClient("http://127.0.0.1:8080") as client:
        forecast = await client.forecast("AAPL", horizon=5)
    """

    def __init__(self, url: str, key: str = "", timeout_s: float = 10.0, retries: int = 3) -> None:
        self._limits = _Limits(timeout_s, retries)
        self._http = httpx.AsyncClient(base_url=_checked(url), headers=_headers(key), timeout=None)

    async def forecast(
        self,
        symbol: str,
        *,
        horizon: int | Iterable[int] | None = None,
        series: Numbers | None = None,
        ds: Days | None = None,
        bars: Columns | None = None,
        features: Columns | None = None,
        data: str | None = None,
        model: str | None = None,
        levels: Iterable[float] | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        cumulative: bool = False,
    ) -> Forecast:
        """As `Client.forecast`."""
        item = Item(symbol, series, ds, bars, features)
        asked = _asked(model, horizon, data, levels, seed, options, cumulative)
        return await self._answer(_one(item, asked))

    async def forecasts(
        self,
        items: Iterable[str | Item] = (),
        *,
        frame: pd.DataFrame | None = None,
        horizon: int | Iterable[int] | None = None,
        data: str | None = None,
        model: str | None = None,
        levels: Iterable[float] | None = None,
        seed: int | None = None,
        options: Mapping[str, Any] | None = None,
        cumulative: bool = False,
    ) -> Forecasts:
        """As `Client.forecasts`."""
        asked = _asked(model, horizon, data, levels, seed, options, cumulative)
        return await self._answer(_many(items, frame, asked))

    async def models(self) -> list[Model]:
        """As `Client.models`."""
        return await self._answer(_MODELS)

    async def ready(self) -> Ready:
        """As `Client.ready`."""
        return await self._answer(_READY)

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def _answer(self, call: _Call[T]) -> T:
        attempts = _Attempts(self._limits)
        while True:
            try:
                with _translated(attempts):
                    response = await self._send(call, attempts)
                    return call.result(attempts.id, response, response.content)
            except GatewayError as error:
                pause_s = attempts.pause_s(error)
            await asyncio.sleep(pause_s)

    async def _send(self, call: _Call[T], attempts: _Attempts) -> httpx.Response:
        async with asyncio.timeout(attempts.left_s()):
            return await self._http.request(
                call.method, call.path, content=call.body, headers=attempts.headers
            )


def _checked(url: str) -> str:
    parts = httpx.URL(url)
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError("url: expected the address of a gateway, as http://127.0.0.1:8080")
    return url


def _headers(key: str) -> dict[str, str]:
    if not (key.isascii() and key.isprintable()):
        raise ValueError("key: expected printable ASCII; strip the end of the line of a file")
    headers = {"accept": "application/json"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    return headers


# --- attempts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Limits:
    timeout_s: float
    retries: int

    def __post_init__(self) -> None:
        if not 0 < self.timeout_s < math.inf:
            raise ValueError("timeout_s: expected a positive number of seconds")
        if self.retries < 0:
            raise ValueError("retries: expected 0 or more")


class _Attempts:
    """The attempts of one call: they share a request id, a deadline and the number of retries."""

    def __init__(self, limits: _Limits) -> None:
        self.id = secrets.token_hex(8)
        self.headers = {REQUEST_ID: self.id, "content-type": "application/json"}
        self._limits = limits
        self._deadline = time.monotonic() + limits.timeout_s
        self._retried = 0

    def left_s(self) -> float:
        return max(self._deadline - time.monotonic(), 0.001)

    def check(self) -> None:
        """Raise Timeout after the deadline."""
        if time.monotonic() > self._deadline:
            raise self.timeout()

    def timeout(self) -> Timeout:
        message = f"the gateway did not answer within {self._limits.timeout_s:g} s"
        return Timeout("TIMEOUT", message, None, self.id)

    def pause_s(self, error: GatewayError) -> float:
        """Seconds to wait before the next attempt. Raises the error if there is no next one."""
        if not isinstance(error, Busy | Unreachable) or self._retried == self._limits.retries:
            raise error
        pause_s = _pause_s(self._retried, error.retry_after_s)
        if pause_s >= self.left_s():
            raise error
        self._retried += 1
        return pause_s


def _pause_s(retried: int, retry_after_s: float) -> float:
    """Exponential back-off with full jitter, after what the gateway asked for."""
    longest_s = min(FIRST_PAUSE_S * 2**retried, LONGEST_PAUSE_S)
    return retry_after_s + random.uniform(0, longest_s)


@contextmanager
def _translated(attempts: _Attempts) -> Iterator[None]:
    """Errors of httpx and asyncio as ours."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise attempts.timeout() from error
    except httpx.RequestError as error:
        message = f"no reply of the gateway: {type(error).__name__}"
        raise Unreachable("UNREACHABLE", message, None, attempts.id) from error


# --- calls: what is sent, and how the reply is read ------------------------------------------


@dataclass(frozen=True)
class _Call(Generic[T]):
    method: str
    path: str
    read: Callable[[Any], T]  # of the JSON of a reply
    body: bytes | None = None
    statuses: tuple[int, ...] = (200,)  # of replies to read

    def result(self, request_id: str, response: httpx.Response, body: bytes) -> T:
        """The reply in a response. Raises GatewayError for another response."""
        status = response.status_code
        if status not in self.statuses:
            raise _failure(request_id, response, body)
        try:
            return self.read(json.loads(body))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if status != 200:
                raise _failure(request_id, response, body) from error
            message = "the reply cannot be read; is it a gateway that answers at this address?"
            raise ServerError("BAD_REPLY", message, status, request_id) from error


def _failure(request_id: str, response: httpx.Response, body: bytes) -> GatewayError:
    """The error in a response."""
    status = response.status_code
    try:
        sent = json.loads(body)
        code, message = str(sent["error_code"]), str(sent["message"])
    except (KeyError, TypeError, ValueError):
        code = f"HTTP_{status}"
        message = f"status {status} without a reason; is it a gateway that answers here?"
    kind = _KINDS.get(status, BadRequest if 400 <= status < 500 else ServerError)
    retry_after_s = _retry_after_s(response.headers.get("retry-after", ""))
    return kind(code, message, status, request_id, retry_after_s)


def _retry_after_s(value: str) -> float:
    """Seconds in a Retry-After header, which has seconds or a date; 0 for anything else."""
    if value.isdecimal():
        return float(value)
    try:
        wait = parsedate_to_datetime(value).astimezone(UTC) - datetime.now(UTC)
    except (OverflowError, ValueError):
        return 0.0
    return max(wait.total_seconds(), 0.0)


def _models(sent: Mapping[str, Any]) -> list[Model]:
    return [Model._read(one) for one in sent["models"]]


_MODELS = _Call("GET", "/models", _models)
_READY = _Call("GET", "/ready", Ready._read, statuses=(200, 503))


def _one(item: Item, asked: Mapping[str, Any]) -> _Call[Forecast]:
    body = _encoded({**_content(item), **asked})
    return _Call("POST", "/forecast", Forecast._read, body)


def _many(
    items: Iterable[str | Item], frame: pd.DataFrame | None, asked: Mapping[str, Any]
) -> _Call[Forecasts]:
    if isinstance(items, str):
        raise TypeError("items: expected a list of symbols, not one symbol")
    together = [Item(item) if isinstance(item, str) else item for item in items]
    if frame is not None:
        together += _items(frame)
    contents = [_content(item) for item in together]
    body = _encoded({"forecasts": contents, **asked})
    return _Call("POST", "/forecast", Forecasts._read, body)


def _asked(
    model: str | None,
    horizon: int | Iterable[int] | None,
    data: str | None,
    levels: Iterable[float] | None,
    seed: int | None,
    options: Mapping[str, Any] | None,
    cumulative: bool,
) -> dict[str, Any]:
    """The parameters that are not left out, as JSON has them."""
    parameters = {
        "model": model,
        "horizon": list(horizon) if isinstance(horizon, Iterable) else horizon,
        "data": data,
        "levels": None if levels is None else _numbers("levels", levels),
        "seed": seed,
        "options": None if options is None else dict(options),
        "cumulative": cumulative or None,
    }
    return _without_none(parameters)


def _without_none(content: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if value is not None}


def _encoded(content: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(content, allow_nan=False, default=_of_numpy).encode()
    except ValueError as error:
        raise BadRequest("NON_FINITE", "a parameter or option is NaN or infinite") from error


def _of_numpy(value: Any) -> Any:
    """A number or an array of numpy as JSON has it."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


# --- histories --------------------------------------------------------------------------------

_MIDNIGHT = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})([T ]00:00:00(\.0+)?)?")
_OHLC = ("open", "high", "low", "close")
_BAR = (*_OHLC, "volume", "amount")


def _items(frame: pd.DataFrame) -> list[Item]:
    """The histories of a frame, one for each unique_id. Their rows keep their order."""
    bars = [name for name in _BAR if name in frame] if {*_OHLC} <= {*frame} else []
    needed = ["unique_id", "ds"] if bars else ["unique_id", "ds", "y"]
    missing = [name for name in needed if name not in frame]
    if missing:
        raise BadRequest("MISSING_COLUMN", f"frame: {', '.join(missing)} missing")
    if bars and "y" in frame:
        message = "frame: it has y and bars; drop y, since returns follow from bars, or the bars"
        raise BadRequest("BAD_HISTORY", message)
    features = [name for name in frame if name not in (*needed, *bars)]
    items = []
    for symbol, rows in frame.groupby("unique_id", sort=False, observed=True, dropna=False):
        if not isinstance(symbol, str):
            raise BadRequest("BAD_SYMBOL", "frame: a unique_id is missing, or no text")
        item = Item(
            symbol=symbol,
            series=None if bars else rows["y"].tolist(),
            ds=rows["ds"].tolist(),
            bars={name: rows[name].tolist() for name in bars} or None,
            features={str(name): rows[name].tolist() for name in features} or None,
        )
        items.append(item)
    return items


def _content(item: Item) -> dict[str, Any]:
    """An item as JSON has it. Raises BadRequest for a value that is no number or no date."""
    symbol = item.symbol
    ds = _days_of_index(symbol, item) if item.ds is None else item.ds
    content = {
        "symbol": symbol,
        "series": None if item.series is None else _numbers(f"{symbol}: series", item.series),
        "ds": None if ds is None else _days(f"{symbol}: ds", ds),
        "bars": _columns(f"{symbol}: bars", item.bars),
        "features": _columns(f"{symbol}: features", item.features),
    }
    return _without_none(content)


def _columns(where: str, columns: Columns | None) -> dict[str, list[float]] | None:
    if columns is None:
        return None
    return {str(name): _numbers(f"{where}.{name}", column) for name, column in columns.items()}


def _numbers(where: str, values: Numbers) -> list[float]:
    """A list of finite numbers. Raises BadRequest with the place of another value."""
    numbers: list[float] = list(values.tolist() if hasattr(values, "tolist") else values)
    if _are_finite(numbers):
        return numbers
    place, number = next(one for one in enumerate(numbers, 1) if not _are_finite([one[1]]))
    at = f"{where}: value {place} of {len(numbers)}"
    if isinstance(number, float | None):
        raise BadRequest("NON_FINITE", f"{at} is missing or infinite; leave the session out")
    raise BadRequest("NOT_A_NUMBER", f"{at} is {type(number).__name__}, expected a number")


def _are_finite(numbers: Iterable[Any]) -> bool:
    """Whether all are finite numbers. Numbers beyond float64 are not."""
    try:
        return all(map(math.isfinite, numbers))
    except (TypeError, OverflowError):
        return False


def _days_of_index(symbol: str, item: Item) -> pd.DatetimeIndex | None:
    """Dates in the index of a pandas series or frame of bars; None for another history."""
    values: Any = item.bars if item.series is None else item.series
    pandas: Any = sys.modules.get("pandas")  # whoever has a series of pandas has imported it
    if pandas is None or not isinstance(values, pandas.Series | pandas.DataFrame):
        return None
    if isinstance(values.index, pandas.DatetimeIndex):
        days: pd.DatetimeIndex = values.index
        return days
    if pandas.api.types.is_integer_dtype(values.index):
        return None
    raise BadRequest("BAD_TIMESTAMP", f"{symbol}: the index has no dates; pass them as `ds`")


def _days(where: str, values: Days) -> list[str]:
    """Dates as text. Raises BadRequest for one with a time of day or in a time zone."""
    days = []
    for place, value in enumerate(values, 1):
        match = _MIDNIGHT.fullmatch(str(value))
        if match is None:
            message = (
                f"{where}: date {place} is missing, no date as 2022-12-28, in a time zone, or has "
                "a time of day"
            )
            raise BadRequest("BAD_TIMESTAMP", message)
        days.append(match[1])
    return days
