"""python -m serving.gateway CONFIG LISTENING: the gateway, as `python -m serving start` runs it.

Both are file descriptors: a pipe that holds the configuration, and the listening socket.
"""

import asyncio
import gc
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import uvicorn
import uvloop

from registry.forecast.spec import ModelSpec
from serving.gateway.app import App
from serving.gateway.dispatch import Dispatcher
from serving.gateway.endpoints import Endpoints
from serving.gateway.forecasts import Forecasts
from serving.gateway.kept import Kept
from serving.gateway.keys import Keys
from serving.gateway.link import Link
from serving.gateway.log import Level, Log
from serving.gateway.metrics import Metrics
from serving.gateway.pace import Pace
from serving.gateway.processes import Processes
from serving.gateway.protocol import Limits, protocol
from serving.gateway.routes import Live, Routes
from serving.gateway.supervision import Supervision
from serving.gateway.tables import Tables
from serving.messages import (
    Calibrate,
    Changed,
    Config,
    Damaged,
    Drained,
    Ended,
    Hello,
    Hung,
    Recorded,
    Route,
    Run,
    Serve,
    Sessions,
    State,
    Stop,
)
from serving.references import model_of

_TERMINATED = (0, -signal.SIGTERM, 128 + signal.SIGTERM)  # exit codes of who was told to end
DRAIN_S = 70.0  # requests in flight are answered first
QUIT_S = 5.0  # for the supervisor to record what was answered


class _Server(uvicorn.Server):
    """A server that leaves signals to us: uvicorn would raise them again before all is stopped."""

    signal: int | None = None

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, number)

    def _end(self, number: int) -> None:
        """The first signal ends the server, after the requests in flight; others change nothing."""
        if self.signal is None:
            self.signal = number
        self.should_exit = True


class Gateway:
    """All parts of the process that answers."""

    def __init__(self, config: Config, listening: socket.socket) -> None:
        self.config = config
        self._listening = listening
        self.log = Log(sys.stderr.buffer, access=config.access_log)
        models = [model_of(reference) for reference in config.models]
        self.metrics = Metrics(models)
        self.routes = Routes(models, on_drained=self._drained)
        self.tables = Tables()
        self.processes = Processes(self._ended)
        self.supervision = Supervision(config, self.metrics, self.log, self._hello, self._take)
        self.kept = Kept()
        forecasts = Forecasts(
            self.routes, self.tables, self.supervision, self.kept, config.calibration
        )
        self.endpoints = Endpoints(
            config, self.routes, self.tables, forecasts, self.supervision, self.metrics
        )
        self._announced = False
        self._counted = Recorded(recorded=0, dropped=0)  # by this supervisor

    async def run(self) -> int:
        """Answer until a signal; then finish what is in flight. Returns the exit code."""
        app = App(self.endpoints.paths(), Keys.parse(self.config.keys), self.metrics, self.log)
        server = _Server(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=protocol(Limits(self.routes.full, self.metrics.rejected)),
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                timeout_graceful_shutdown=int(DRAIN_S),
            )
        )
        server.listen_to_signals()
        host, port = self._listening.getsockname()[:2]
        self.log.event("info", "listening", host=host, port=port)
        self.supervision.start()
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 50)  # requests leave no cycles; looking for them took 3 %
        try:
            await server.serve([self._listening])
        finally:
            self.log.event("info", "stopping")
            await self.supervision.stop(QUIT_S)
            await self.processes.stop_all()
        return 0 if server.signal is None else 128 + server.signal

    # --- messages of the supervisor

    def _take(self, message: Any) -> None:
        """Act on a message. One that fails is logged: those after it must not be lost with it."""
        try:
            self._act_on(message)
        except Exception as error:
            failure = f"{type(message).__name__}: {type(error).__name__}"
            self.log.event("error", "message failed", message=failure)

    def _act_on(self, message: Any) -> None:
        match message:
            case Run():
                self.processes.run(message)
            case Stop():
                self.processes.stop(message.scorer, kill=message.kill)
            case Serve():
                self._serve(message.route)
            case State():
                self._state(message)
            case Sessions():
                self.tables.take_sessions(message)
            case Calibrate():
                self._calibrate(message)
            case Damaged():
                self.tables.take_damaged(message)
                self._show_calibration_of(message.model, message.version)
            case Changed():
                self.kept.drop(message.data)
            case Recorded():
                self._recorded(message)

    def _serve(self, route: Route) -> None:
        self.routes.serve(route, self._live)
        dispatcher = self.routes.live[route.model].dispatcher
        self.metrics.watch_queue(route.model, lambda: dispatcher.queued)
        self.metrics.serves(route)
        self._show_calibration(route)
        self._announce()

    def _live(self, route: Route) -> Live:
        spec = ModelSpec.from_json(route.spec)
        dispatcher = Dispatcher(
            Link(route.host, route.port, route.token),
            name=route.name,
            version=route.version,
            joint=spec.joint,
            timeout_s=self.config.timeout_s,
            pace=Pace(self.config.queue_s, route.call_s),
            on_hung=lambda: self.supervision.send(Hung(scorer=route.scorer)),
            on_batch=lambda series: self.metrics.batched(route.model, series),
            on_refused=self.metrics.rejected,
        )
        return Live(route, spec, dispatcher)

    def _state(self, state: State) -> None:
        self.routes.states[state.model] = state
        self.metrics.stale(state.model, state.stale)
        if state.state == "failed" and state.refusal is not None:
            self.metrics.load_failures.labels(state.model).inc()
            self.log.event(
                "error", "load failed", model=state.model, version=state.version or 0,
                error_code=state.refusal.code, message=state.refusal.message,
            )  # fmt: skip

    def _calibrate(self, message: Calibrate) -> None:
        self.tables.take_calibration(message)
        self._show_calibration_of(message.model, message.version)

    def _recorded(self, message: Recorded) -> None:
        """Count what is new: a supervisor sends its own sums."""
        self.metrics.recorded.inc(message.recorded - self._counted.recorded)
        self.metrics.dropped.inc(message.dropped - self._counted.dropped)
        self._counted = message

    def _show_calibration_of(self, name: str, version: int) -> None:
        for live in self.routes.live.values():
            if (live.route.name, live.route.version) == (name, version):
                self._show_calibration(live.route)

    def _show_calibration(self, route: Route) -> None:
        calibration = self.tables.calibration(route.name, route.version)
        spec = self.routes.live[route.model].spec
        fits = calibration.fits(spec.levels)
        if not fits:
            message = "it was made for other levels than those of the version"
            self.log.event("error", "calibration refused", model=route.model, message=message)
        self.metrics.calibrated(route.model, calibration.number, calibration.age)
        for step in range(1, spec.max_horizon + 1):
            verdict = calibration.state([step], calibration.age) if fits else "uncalibrated"
            self.metrics.verdict(route.model, step, verdict)
        self.metrics.damaged(route.model, self.tables.is_damaged(route.name, route.version))

    def _announce(self) -> None:
        """When every model answers for the first time: one line of JSON on stdout."""
        if self._announced or not self.routes.ready:
            return
        self._announced = True
        host, port = self._listening.getsockname()[:2]
        shown = "127.0.0.1" if host == "0.0.0.0" else host
        url = f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"
        routes = [live.route for live in self.routes.live.values()]
        models = [{"model": r.model, "name": r.name, "version": r.version} for r in routes]
        print(json.dumps({"url": url, "pid": os.getpid(), "models": models}), flush=True)
        if sys.stderr.isatty():
            print(f"{url}/docs shows what it answers; Ctrl-C stops it", file=sys.stderr)

    # --- messages to the supervisor

    def _hello(self) -> Hello:
        self._counted = Recorded(recorded=0, dropped=0)
        self.kept.drop_all()  # the new supervisor does not know what was sent before
        routes = [live.route for live in self.routes.live.values() if not live.ended]
        return Hello(pid=os.getpid(), running=self.processes.running, routes=routes)

    def _ended(self, message: Ended) -> None:
        for live in self.routes.live.values():
            if live.route.scorer == message.scorer:
                self.metrics.scorer_restarts.labels(live.route.model).inc()
        self.routes.ended(message.scorer)
        level: Level = "info" if message.exit_code in _TERMINATED else "warning"
        self.log.event(level, "scorer ended", scorer=message.scorer, exit_code=message.exit_code)
        self.supervision.send(message)

    def _drained(self, scorer: str) -> None:
        self.supervision.send(Drained(scorer=scorer))


def main() -> None:
    """Read the configuration and run on the socket, both of which `serving start` made."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each connection takes a descriptor
    configuration, listening = map(int, sys.argv[1:])
    with os.fdopen(configuration, "rb") as pipe:
        config = msgspec.json.decode(pipe.read(), type=Config)
    sys.exit(uvloop.run(_run(config, socket.socket(fileno=listening))))


async def _run(config: Config, listening: socket.socket) -> int:
    return await Gateway(config, listening).run()


if __name__ == "__main__":
    main()
