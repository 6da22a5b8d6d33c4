"""What each path of the gateway answers."""

import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from registry.errors import Unsupported
from serving.gateway import bodies, http, metrics, reading, replies, webhooks
from serving.gateway.app import Path
from serving.gateway.arrow import replies as arrow_replies
from serving.gateway.arrow import requests as arrow_requests
from serving.gateway.dispatch import Job
from serving.gateway.forecasts import Forecasts, Reply
from serving.gateway.http import Request, Response
from serving.gateway.keys import Key
from serving.gateway.link import HEADER
from serving.gateway.link import Reply as Passed
from serving.gateway.metrics import Metrics
from serving.gateway.openapi.document import HTML, document
from serving.gateway.openapi.page import page
from serving.gateway.routes import Live, Routes, public
from serving.gateway.supervision import Supervision
from serving.gateway.tables import Tables
from serving.messages import Config, Served, Wake

LONGEST_KEPT = 1 << 20  # bytes of a body that the ledger keeps
LONGEST_WEBHOOK = 1 << 16  # bytes of a body from somebody who is not known yet


@dataclass
class Endpoints:
    """The parts of a gateway, and its answers."""

    config: Config
    routes: Routes
    tables: Tables
    forecasts: Forecasts
    supervision: Supervision
    metrics: Metrics
    _document: bytes = field(init=False)  # in JSON
    _page: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Write the document and its page once."""
        config = self.config
        described = document(self.routes.models, keys=bool(config.keys))
        host = "127.0.0.1" if config.host == "0.0.0.0" else config.host
        self._document = http.answer(described).body
        self._page = page(described, f"http://{host}:{config.port}").encode()

    def paths(self) -> dict[str, Path]:
        return {
            "/forecast": Path("POST", self.forecast),
            "/invocations": Path("POST", self.invocations),
            "/health": Path("GET", self.health, open=True),
            "/ready": Path("GET", self.ready, open=True),
            "/models": Path("GET", self.models),
            "/metrics": Path("GET", self.prometheus),
            "/docs": Path("GET", self.docs, open=True),
            "/openapi.json": Path("GET", self.openapi, open=True),
            "/webhooks/mlflow": Path("POST", self.webhook, open=True),
        }

    # --- forecasts

    async def forecast(self, request: Request, key: Key | None) -> Response:
        """Forecasts for people and programs, calibrated."""
        media = bodies.check_headers(request.text("content-type"), request.text("content-encoding"))
        body = await request.body(self.config.max_body)
        received_at = datetime.now(UTC)
        if media == bodies.ARROW:
            asked = arrow_requests.forecast_request(body, request.query)
        else:
            http.check_no_query(request.query)
            asked = reading.forecast_request(body)
        self._permit(request, asked.model, key)
        reply = await self.forecasts.answer(asked)
        if bodies.wants_arrow(request.text("accept")):
            response = Response(200, arrow_replies.stream(reply.content), bodies.ARROW.encode())
        else:
            response = http.answer(reply.content)
        self._record(request, reply, received_at, body)
        return response

    async def invocations(self, request: Request, key: Key | None) -> Response:
        """MLflow's own protocol, passed through: raw numbers."""
        model = http.parameter(request.query, "model")
        if b"content-encoding" in request.headers:
            raise Unsupported("a compressed body is not read", code="UNSUPPORTED_ENCODING")
        self._permit(request, model, key)
        body = await request.body(self.config.max_body)
        live = self.routes.of(model)
        content_type = request.headers.get(b"content-type", b"")
        with live.held(self.routes.drained):
            passed = await live.dispatcher.ask(Job(raw=body, content_type=content_type))
        return _passed(passed)

    def _permit(self, request: Request, model: str | None, key: Key | None) -> None:
        """Note the model of a request. Raises Forbidden if the key is for others."""
        if model is None and len(self.routes.models) == 1:
            model = self.routes.models[0]
        request.model = model or ""
        if key is not None and model is not None:
            key.permit(model)

    def _record(self, request: Request, reply: Reply, received_at: datetime, body: bytes) -> None:
        """Hand what was answered to the supervisor, which keeps it in the ledger."""
        kept = body if len(body) <= LONGEST_KEPT else b""
        at = received_at.isoformat()
        for place, (forecast_id, issue) in enumerate(reply.forecasts.items()):
            self.supervision.record(
                Served(
                    request_id=request.id if not place else f"{request.id}-{place + 1}",
                    forecast_id=forecast_id,
                    model=reply.route.name,
                    version=reply.route.version,
                    received_at=at,
                    status=200,
                    body=b"" if place else kept,
                    issue=issue,
                )
            )

    # --- the state of things

    async def health(self, _: Request, __: Key | None) -> Response:
        """Whether the process answers."""
        return http.answer({"status": "alive"})

    async def ready(self, _: Request, __: Key | None) -> Response:
        """Whether a warm version of every model answers."""
        models = {model: self._state(model) for model in self.routes.models}
        ready = self.routes.ready
        response = http.answer({"ready": ready, "models": models}, 200 if ready else 503)
        if not ready:
            response.headers.append(http.RETRY_AFTER)
        return response

    async def models(self, _: Request, key: Key | None) -> Response:
        """What answers for each model of the key, since when, and how it is calibrated."""
        allowed = key.models if key is not None else frozenset()
        models = [model for model in self.routes.models if not allowed or model in allowed]
        shown = [self._shown(model) for model in models]
        return http.answer({"models": shown})

    async def prometheus(self, _: Request, __: Key | None) -> Response:
        return Response(200, self.metrics.text(), metrics.CONTENT_TYPE.encode())

    async def docs(self, _: Request, __: Key | None) -> Response:
        """The document as a page."""
        return Response(200, self._page, HTML.encode())

    async def openapi(self, _: Request, __: Key | None) -> Response:
        return Response(200, self._document)

    async def webhook(self, request: Request, _: Key | None) -> Response:
        """A signed webhook of MLflow: look at the registry now."""
        body = await request.body(LONGEST_WEBHOOK)
        webhooks.verify(request.headers, body, self.config.webhook_secret, time.time())
        self.supervision.send(Wake())
        return http.answer({"status": "looking"}, 202)

    def _state(self, model: str) -> str:
        live = self.routes.live.get(model)
        if live is not None and not live.ended:
            return "serving"
        state = self.routes.states.get(model)
        return "starting" if state is None else state.state

    def _shown(self, model: str) -> dict[str, Any]:
        state = self.routes.states.get(model)
        shown: dict[str, Any] = {"model": model, "state": self._state(model)}
        live = self.routes.live.get(model)
        if live is not None:
            shown |= self._version(live)
        if state is not None and state.refusal is not None and state.state != "waiting":
            failed = {"code": state.refusal.code, "message": public(state.refusal)}
            shown["failed"] = {"version": state.version, **failed}
        return shown

    def _version(self, live: Live) -> dict[str, Any]:
        route, spec = live.route, live.spec
        calibration = self.tables.calibration(route.name, route.version)
        steps = [*range(1, spec.max_horizon + 1)]
        return {
            "name": route.name,
            "version": route.version,
            "stage": route.stage,
            "manifest": route.manifest,
            "since": route.since,
            "stale": route.stale,
            "data": route.data,
            "calendar": spec.calendar,
            "horizon": spec.max_horizon,
            "min_context": spec.min_context,
            "max_context": spec.max_context,
            "levels": spec.levels,
            "columns": spec.columns,
            "optional": spec.optional,
            "universe": spec.universe,
            "trained_until": route.trained_until or None,
            "pretrained_until": route.pretrained_until or None,
            "calibration": {
                "enabled": self.config.calibration,
                **replies.of_calibration(calibration, calibration.age, steps),
            },
            "notes": route.notes,
        }


def _passed(reply: object) -> Response:
    """A scorer's reply, with its own type and the header that names the scorer."""
    if not isinstance(reply, Passed):
        raise TypeError(f"a raw request got {type(reply).__name__}")
    kind = reply.headers.get(b"content-type", http.JSON)
    return Response(reply.status, reply.body, kind, [(HEADER, reply.headers[HEADER])])
