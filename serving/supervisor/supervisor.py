"""The supervisor's main loop: events of all threads come in, decisions of the fleet go out."""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from datetime import UTC, datetime
from typing import Any

from registry.errors import KronosError, NotReady
from registry.settings import Settings
from registry.versions import exported
from serving.channel import Channel
from serving.messages import (
    Answered,
    Config,
    Drained,
    Ended,
    Hello,
    Hung,
    LookUp,
    Quit,
    Run,
    Serve,
    State,
    Stop,
    Wake,
)
from serving.references import model_of
from serving.supervisor.access import RegistryAccess, is_outage
from serving.supervisor.candidates import Candidate, Pointer
from serving.supervisor.desk import Desk
from serving.supervisor.effects import Effect, Fetch, Keep, Mark, WarmUp, Watch
from serving.supervisor.events import log
from serving.supervisor.fleet import Fleet, pointer_of
from serving.supervisor.polling import Poller
from serving.supervisor.refusals import refusal, shown
from serving.supervisor.runners import Runner
from serving.supervisor.scorers import Starter, Watcher
from serving.supervisor.slot import Limits
from serving.supervisor.sources import Source, source_of
from serving.supervisor.warmup import warm_up

TICK_S = 0.5
SILENT_S = 20.0  # without an answer the registry counts as down
LOOK_UPS = 4
REFRESH_S = 5.0  # that a version waits for its calibration at most
CLOSE_S = 5.0  # for what waits to be recorded

Event = Callable[[], None]  # run by the main loop


class Supervisor:
    """Everything that decides runs in `run`; other threads only put events into its queue."""

    def __init__(self, settings: Settings, config: Config, channel: Channel) -> None:
        self._channel = channel
        self._events: queue.SimpleQueue[Event | None] = queue.SimpleQueue()
        access = RegistryAccess(settings)
        self._sources: dict[str, Source] = {}
        for reference in config.models:
            source = source_of(settings, access, reference, config.stage)
            self._sources[model_of(reference)] = source
        self._fleet = Fleet(list(self._sources), Starter(settings), Limits(load_s=settings.load_s))
        self._poller = Poller(self._sources, config.poll_s, self._on_looked, self._on_missing)
        self._keeping = ThreadPoolExecutor(1, "keep")  # in order
        self._looking_up = ThreadPoolExecutor(LOOK_UPS, "look-up")
        self._refreshing_pool = ThreadPoolExecutor(2, "refresh")
        self._watchers: dict[str, Watcher] = {}
        self._desk = Desk(settings, self._send)
        self._reported: dict[str, str] = {}  # failures that last, by what fails
        self._refreshing = threading.Lock()
        self._refresh_s = config.poll_s
        self._refresh_at = 0.0

    def run(self, hello: Hello) -> None:
        """Supervise until the gateway quits or its end of the socket is closed."""
        self._adopt(hello)
        self._poller.start()
        threading.Thread(target=self._receive, name="receive", daemon=True).start()
        tick_at = _now()
        while True:
            self._act()
            if _now() >= tick_at:  # however many events wait
                self._tick()
                tick_at = _now() + TICK_S
                continue
            try:
                event = self._events.get(timeout=max(tick_at - _now(), 0))
            except queue.Empty:
                continue
            if event is None:
                break
            event()
        self._desk.close(CLOSE_S)

    def end(self) -> None:
        """Make `run` return. A signal handler may call this."""
        self._events.put(None)

    # --- events

    def _receive(self) -> None:
        try:
            while (message := self._channel.receive()) is not None:
                if isinstance(message, Quit):
                    break
                self._take(message)
        except OSError as error:
            log("the gateway is gone", level="warning", message=str(error))
        self.end()

    def _take(self, message: Any) -> None:
        """One message of the gateway, in the receiving thread."""
        fleet = self._fleet
        if isinstance(message, LookUp):
            candidate = fleet.candidate(message.model, message.version)
            self._looking_up.submit(self._answer, message, candidate)
        elif isinstance(message, Answered):
            self._desk.record(message.served)
        elif isinstance(message, Wake):
            self._poller.wake()
        elif isinstance(message, Drained):
            self._put(lambda: fleet.drained(message.scorer, _now()))
        elif isinstance(message, Hung):
            self._put(lambda: self._on_hung(message.scorer))
        elif isinstance(message, Ended):
            self._put(lambda: self._on_ended(message))

    def _answer(self, request: LookUp, candidate: Candidate | None) -> None:
        self._send(self._desk.answer(request, candidate))

    def _on_ended(self, ended: Ended) -> None:
        words = shown(ended.last_error)
        log("scorer ended", scorer=ended.scorer, exit_code=ended.exit_code)
        self._unwatch(ended.scorer)
        self._fleet.ended(ended.scorer, ended.exit_code, words, _now())

    def _on_hung(self, scorer: str) -> None:
        log("scorer does not answer", level="warning", scorer=scorer)
        self._fleet.hung(scorer, _now())

    def _on_looked(self, model: str, pointers: list[Pointer]) -> None:
        slot = self._fleet.slots[model]
        self._report(f"registry, {model}", None)
        self._put(lambda: slot.looked(pointers, _now()))

    def _on_missing(self, model: str, error: KronosError, outage: bool) -> None:
        slot = self._fleet.slots[model]
        refused = refusal(error)
        self._report(f"registry, {model}", error)
        if not outage:
            self._put(lambda: slot.missing(refused, _now()))
            return
        kept = self._sources[model].copies.served_last()
        self._put(lambda: slot.unreachable(refused, kept, _now()))

    def _on_silence(self) -> None:
        """The registry neither answers nor fails, so nothing comes from the polling thread."""
        message = f"no answer in {SILENT_S:g} s"
        error = NotReady(message, code="TRACKING_UNAVAILABLE")
        for model in self._sources:
            self._on_missing(model, error, outage=True)

    def _report(self, part: str, error: KronosError | None) -> None:
        """Log a failure of the registry or the ledger once, and its end."""
        message = f"{error.code}: {error.message}" if error is not None else ""
        if message == self._reported.get(part, ""):
            return
        self._reported[part] = message
        if message:
            log("no answer", level="warning", part=part, message=message)
        else:
            log("answers again", part=part)

    def _put(self, event: Event) -> None:
        self._events.put(event)

    def _tick(self) -> None:
        now = _now()
        self._fleet.tick(now)
        if self._poller.silent_s() > SILENT_S:
            self._on_silence()
        if now >= self._refresh_at:
            self._refresh_at = now + self._refresh_s
            candidates = [runner.candidate for runner in self._fleet.serving()]
            self._refreshing_pool.submit(self._refresh, candidates)

    def _refresh(self, candidates: list[Candidate]) -> None:
        """Send tables. Only one thread at a time does: a database may hang."""
        if not self._refreshing.acquire(timeout=REFRESH_S):
            return
        try:
            self._desk.refresh(candidates)
        except Exception as error:  # it is tried again at the next refresh
            self._report("ledger", _known(error))
        else:
            self._report("ledger", None)
        finally:
            self._refreshing.release()

    # --- effects

    def _act(self) -> None:
        for effect in self._fleet.take():
            self._carry_out(effect)

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, Run | Stop | Serve | State):
            _log_message(effect)
            self._send(effect)
        if isinstance(effect, Stop):
            self._unwatch(effect.scorer)
        elif isinstance(effect, Serve):
            self._refresh_at = 0.0
        elif isinstance(effect, Watch):
            self._watch(effect.runner)
        elif isinstance(effect, WarmUp):
            self._start_thread(self._warm_up, effect.runner)
        elif isinstance(effect, Fetch):
            self._start_thread(self._fetch, effect)
        elif isinstance(effect, Keep):
            self._desk.serves(effect.candidate)
            self._keeping.submit(self._keep, effect)
        elif isinstance(effect, Mark):
            self._start_thread(self._mark, effect)

    def _send(self, message: Any) -> None:
        try:
            self._channel.send(message)
        except OSError:  # the gateway is gone, and the receiving thread hears of it, too
            self.end()

    def _watch(self, runner: Runner) -> None:
        fleet = self._fleet
        self._watchers[runner.id] = Watcher(
            runner,
            on_ready=lambda scorer: self._put(lambda: fleet.ready(scorer, _now())),
            on_hung=lambda scorer: self._put(lambda: self._on_hung(scorer)),
            ready=bool(runner.since),
        ).start()

    def _unwatch(self, scorer: str) -> None:
        watcher = self._watchers.pop(scorer, None)
        if watcher is not None:
            watcher.stop()

    def _start_thread(self, function: Callable[[Any], None], argument: Any) -> None:
        threading.Thread(target=function, args=(argument,), daemon=True).start()

    def _warm_up(self, runner: Runner) -> None:
        """Before a version answers, the gateway has its calibration and sessions."""
        fleet = self._fleet
        refreshed = self._refreshing_pool.submit(self._refresh, [runner.candidate])
        wait([refreshed], timeout=REFRESH_S)
        try:
            call_s = warm_up(runner)
        except KronosError as error:
            refused = refusal(error)
            self._put(lambda: fleet.failed(runner.id, refused, _now()))
            return
        since = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._put(lambda: fleet.warmed(runner.id, since, call_s, _now()))

    def _fetch(self, fetch: Fetch) -> None:
        source, slot = self._sources[fetch.model], self._fleet.slots[fetch.model]
        try:
            if fetch.local:
                candidate = source.copies.verified(fetch.pointer)
            else:
                candidate = source.fetch(fetch.pointer)
        except Exception as raised:
            error = _known(raised)
            refused, outage = refusal(error), is_outage(error)
            reference = fetch.pointer.reference
            log("files refused", level="warning", version=reference, message=error.message)
            if outage:
                kept = source.copies.served_last()
                self._put(lambda: slot.put_off(fetch, refused, kept, _now()))
            else:
                self._put(lambda: slot.refused(fetch, refused, _now()))
            return
        self._put(lambda: slot.fetched(fetch, candidate, _now()))

    def _keep(self, keep: Keep) -> None:
        try:
            self._sources[keep.model].copies.keep(keep.candidate.pointer, keep.in_use)
        except (KronosError, OSError) as error:
            log("copies cannot be kept", level="error", model=keep.model, message=str(error))

    def _mark(self, mark: Mark) -> None:
        try:
            self._sources[mark.model].mark(mark.pointer, mark.reason)
        except KronosError as error:
            log("tag not written", level="warning", model=mark.model, message=error.message)

    # --- an earlier supervisor

    def _adopt(self, hello: Hello) -> None:
        candidates = {}
        for route in hello.routes:
            source = self._sources.get(route.model)
            if source is None:
                continue
            pointer = pointer_of(route)
            facts = {
                "data": route.data,
                "trained_until": route.trained_until,
                "pretrained_until": route.pretrained_until,
            }
            root = source.copies.path(pointer) / exported.MODEL
            candidate = Candidate(pointer, root, route.spec, facts)
            try:
                candidate = source.copies.verified(pointer)
            except Exception as error:  # it runs, so it goes on
                message = _known(error).message
                log("no copy", level="warning", version=pointer.reference, message=message)
            candidates[route.model] = candidate
            self._desk.serves(candidate)
        self._fleet.adopt(hello, candidates, _now())


def _known(error: Exception) -> KronosError:
    """An unexpected error counts as an outage: it says nothing about the version."""
    if isinstance(error, KronosError):
        return error
    return KronosError(f"{type(error).__name__}: {error}")


def _log_message(message: Run | Stop | Serve | State) -> None:
    if isinstance(message, Run):
        log("starting", scorer=message.scorer)
    elif isinstance(message, Stop):
        log("stopping", scorer=message.scorer, kill=message.kill)
    elif isinstance(message, Serve):
        route = message.route
        log("serving", model=route.model, version=f"{route.name}/{route.version}",
            scorer=route.scorer, stage=route.stage, stale=route.stale)  # fmt: skip
    else:
        refused = message.refusal
        log("state", model=message.model, state=message.state, version=message.version,
            stale=message.stale or None, error_code=refused.code if refused else None,
            message=refused.message if refused else None)  # fmt: skip


def _now() -> float:
    return time.monotonic()
