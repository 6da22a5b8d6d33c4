"""The ASGI application: which endpoint answers, who may ask, and what is counted."""

import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from registry.errors import (
    Forbidden,
    KronosError,
    NotFound,
    NotReady,
    Overloaded,
    TooLarge,
    TooSlow,
    Unauthenticated,
    WrongMethod,
)
from serving.gateway import http
from serving.gateway.http import Gone, Receive, Request, Response, Send
from serving.gateway.keys import Attempts, Key, Keys
from serving.gateway.log import Log
from serving.gateway.metrics import Metrics, Reason

# What else is counted is counted where it is refused.
_REASONS: dict[type[KronosError], Reason] = {
    Forbidden: "key",
    NotReady: "not_ready",
    TooLarge: "too_large",
    TooSlow: "too_slow",
}

Endpoint = Callable[[Request, Key | None], Awaitable[Response]]


@dataclass(frozen=True)
class Path:
    """An endpoint; an open one needs no key."""

    method: str
    endpoint: Endpoint
    open: bool = False


class App:
    """Answers requests. All state is in its endpoints."""

    def __init__(self, paths: Mapping[str, Path], keys: Keys, metrics: Metrics, log: Log) -> None:
        self._paths = paths
        self._keys = keys
        self._attempts = Attempts()
        self._metrics = metrics
        self._log = log

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        request = Request.of(scope, receive)
        self._metrics.in_progress.inc()
        try:
            response = await self._response(request)
            self._count(request, response.status)
            with suppress(OSError):  # the client may have gone
                await response.send(send, request.id)
        except Gone:
            self._count(request, 499)
        finally:
            self._metrics.in_progress.dec()

    async def _response(self, request: Request) -> Response:
        try:
            path = self._path(request)
            key = None if path.open else self._key(request)
            return await path.endpoint(request, key)
        except KronosError as error:
            return self._refusal(error, request)
        except Gone:
            raise
        except Exception as error:  # its words may hold what was sent, so they go nowhere
            self._log.event("error", "failed", request_id=request.id, message=type(error).__name__)
            failed = KronosError("the gateway failed; its log has the request's id")
            return http.refusal(failed, request.id)

    def _path(self, request: Request) -> Path:
        path = self._paths.get(request.path)
        if path is None:
            raise NotFound(f"no such path; there are {', '.join(self._paths)}")
        if request.method != path.method and not (request.method, path.method) == ("HEAD", "GET"):
            raise WrongMethod(f"the path answers {path.method} only")
        return path

    def _key(self, request: Request) -> Key | None:
        try:
            return self._keys.find(request.headers.get(b"authorization", b""))
        except Unauthenticated as error:
            if self._attempts.failed(request.client, time.monotonic()):
                self._metrics.rejected("attempts")
                raise Overloaded("too many wrong keys; try again in a minute") from error
            self._metrics.rejected("key")
            raise

    def _refusal(self, error: KronosError, request: Request) -> Response:
        reason = _REASONS.get(type(error))
        if reason is not None:
            self._metrics.rejected(reason)
        response = http.refusal(error, request.id)
        if isinstance(error, WrongMethod):
            response.headers.append((b"allow", self._paths[request.path].method.encode()))
        return response

    def _count(self, request: Request, status: int) -> None:
        seconds = time.perf_counter() - request.begun
        self._metrics.answered(request.model, request.path, status, seconds)
        if self._log.wants(status):
            self._log.request(
                request_id=request.id,
                endpoint=request.path,
                status=status,
                seconds=round(seconds, 6),
                model=request.model,
            )
