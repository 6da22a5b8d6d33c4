"""What runs for one model: decisions only. Events and a clock go in, effects come out.

A new version starts beside the old one, which goes on until the new one is warm. A version that
fails leaves the old one serving and is blocked for a while. The version before stays warm for a
while, so that a roll-back takes effect at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from serving.messages import Refusal, Run, Serve, State, Stop
from serving.supervisor.candidates import Candidate, Key, Pointer
from serving.supervisor.effects import Effect, Fetch, Keep, Mark, WarmUp, Watch
from serving.supervisor.refusals import load_failed
from serving.supervisor.runners import LOADING, WARM, WARMING, Runner, route

NOT_FOUND = 404  # nothing is in the stage yet

Start = Callable[[Candidate, float], tuple[Runner, Run]]


@dataclass(frozen=True)
class Limits:
    """Seconds."""

    load_s: float = 180.0  # from the start of a scorer until it is warm
    linger_s: float = 60.0  # that a replaced version stays warm after its last request
    drain_s: float = 150.0  # that a replaced version may take for its requests
    retry_s: float = 300.0  # until a version that failed is tried again
    outage_s: float = 10.0  # until files are fetched again after an outage
    restart_s: float = 0.5  # before the first restart; doubles each time
    longest_restart_s: float = 30.0
    steady_s: float = 60.0  # a scorer that was warm for so long did not fail at its start


@dataclass(frozen=True)
class _Block:
    """A version that is not tried before a time."""

    until: float
    refusal: Refusal
    outage: bool = False  # of the registry: no reason to serve another version instead


class Slot:
    """The scorers of one model. Every method is an event; `take` gives what follows from it."""

    def __init__(self, model: str, start: Start, limits: Limits | None = None) -> None:
        self.model = model
        self.serving: Runner | None = None
        self.starting: Runner | None = None
        self.lingering: Runner | None = None  # the version before, drained or not
        self.retiring: list[Runner] = []  # older ones that still have requests
        self.fetching: Fetch | None = None
        self.current: Candidate | None = None  # served last, even if its process has ended
        self._start = start
        self._limits = limits or Limits()
        self._wanted: tuple[Pointer, ...] = ()
        self._blocked: dict[Key, _Block] = {}
        self._proven: set[Key] = set()  # they were warm, and have no tag that says they failed
        self._kept: Pointer | None = None  # served last by an earlier process; for an outage
        self._refusal: Refusal | None = None  # of the reference or the registry
        self._trouble: Refusal | None = None  # why the process of `current` ended
        self._stale = False  # the registry does not answer
        self._unconfirmed = False  # the version came from this disk; no registry named it yet
        self._restarts = 0
        self._restart_at = 0.0
        self._told: State | None = None
        self._effects: list[Effect] = []

    def take(self) -> list[Effect]:
        """The effects of the events since the last call, with the model's state if it changed."""
        state = self._state()
        if state != self._told:
            self._effects.append(state)
            self._told = state
        effects, self._effects = self._effects, []
        return effects

    @property
    def runners(self) -> list[Runner]:
        """All scorers that run."""
        alone = (self.serving, self.starting, self.lingering)
        return [*(runner for runner in alone if runner is not None), *self.retiring]

    def runner(self, scorer: str) -> Runner | None:
        """The scorer with this id, if it is one of this model and runs."""
        return next((runner for runner in self.runners if runner.id == scorer), None)

    # --- the registry

    def looked(self, pointers: Sequence[Pointer], now: float) -> None:
        """The reference names these versions, the best one first."""
        self._wanted = tuple(pointers)
        self._refusal, self._stale = None, False
        keys = {pointer.key for pointer in pointers}
        for key in set(self._blocked) - keys:
            del self._blocked[key]
        self._settle(now)
        self._refresh()

    def missing(self, refusal: Refusal, now: float) -> None:
        """The reference names nothing. What is served goes on."""
        self._wanted, self._blocked, self._kept = (), {}, None
        self._refusal, self._stale = refusal, False
        self._settle(now)

    def unreachable(self, refusal: Refusal, kept: Pointer | None, now: float) -> None:
        """The registry does not answer. `kept` was served last, by an earlier process."""
        self._refusal, self._stale = refusal, True
        self._kept = kept
        self._settle(now)

    # --- files

    def fetched(self, fetch: Fetch, candidate: Candidate, now: float) -> None:
        """The files of a version were verified."""
        if fetch != self.fetching:
            return
        self.fetching = None
        self.starting, run = self._start(candidate, now)
        self._effects += [run, Watch(self.starting)]
        self._settle(now)

    def refused(self, fetch: Fetch, refusal: Refusal, now: float) -> None:
        """The files of a version cannot be used, by its own fault."""
        if fetch != self.fetching:
            return
        self.fetching = None
        pointer = fetch.pointer
        if not fetch.local:
            self._fail(pointer, refusal, now)
        elif self._is_wanted(pointer.key) and not self._stale:
            self._fetch(pointer, local=False)
        elif pointer == self._kept:
            self._kept, self._trouble = None, refusal
        else:
            self._delay_restart(refusal, now)
        self._settle(now)

    def put_off(self, fetch: Fetch, refusal: Refusal, kept: Pointer | None, now: float) -> None:
        """The files of a version cannot be looked at: the registry does not answer."""
        if fetch != self.fetching:
            return
        self.fetching = None
        self._kept = kept
        until = now + self._limits.outage_s
        self._blocked[fetch.pointer.key] = _Block(until, refusal, outage=True)
        self._settle(now)

    # --- processes

    def ready(self, scorer: str, now: float) -> None:
        """A scorer answers for the first time."""
        runner = self.starting
        if runner is not None and runner.id == scorer and runner.phase == LOADING:
            runner.phase = WARMING
            self._effects.append(WarmUp(runner))
        self._settle(now)

    def warmed(self, scorer: str, since: str, call_s: float, now: float) -> None:
        """A scorer answered its example well."""
        runner = self.starting
        if runner is None or runner.id != scorer:
            return
        self.starting = None
        runner.phase, runner.begun = WARM, now
        runner.since, runner.call_s = since, call_s
        self._serve(runner, now)
        self._settle(now)

    def failed(self, scorer: str, refusal: Refusal, now: float) -> None:
        """A scorer failed its warm-up."""
        if self.starting is not None and self.starting.id == scorer:
            self._abandon(refusal, now)
            self._settle(now)

    def ended(self, scorer: str, refusal: Refusal, now: float) -> None:
        """The process of a scorer is gone."""
        if self.starting is not None and self.starting.id == scorer:
            pointer, self.starting = self.starting.candidate.pointer, None
            self._fail(pointer, refusal, now)
        elif self.serving is not None and self.serving.id == scorer:
            runner, self.serving = self.serving, None
            if now - runner.begun >= self._limits.steady_s:
                self._restarts = 0
            self._delay_restart(refusal, now)
        elif self.lingering is not None and self.lingering.id == scorer:
            self.lingering = None
        self.retiring = [runner for runner in self.retiring if runner.id != scorer]
        self._settle(now)

    def hung(self, scorer: str, refusal: Refusal, now: float) -> None:
        """A scorer does not answer any more."""
        if self.runner(scorer) is not None:
            self._effects.append(Stop(scorer=scorer, kill=True))
            self.ended(scorer, refusal, now)

    def drained(self, scorer: str, now: float) -> None:
        """A scorer that was replaced has answered its last request."""
        if self.lingering is not None and self.lingering.id == scorer:
            self.lingering.drained_at = now
        for runner in list(self.retiring):
            if runner.id == scorer:
                self.retiring.remove(runner)
                self._effects.append(Stop(scorer=scorer))

    def adopt(self, candidate: Candidate, runner: Runner | None, now: float) -> None:
        """An earlier supervisor served this version; without `runner`, its process has ended."""
        self.current, self.serving = candidate, runner
        self._proven.add(candidate.key)
        self._restart_at = now

    # --- time

    def tick(self, now: float) -> None:
        """Time has passed."""
        starting = self.starting
        limit_s = self._limits.load_s
        if starting is not None and now - starting.begun > limit_s:
            reference = starting.candidate.pointer.reference
            stage = "ready" if starting.phase == LOADING else "warm"
            message = f"{reference} was not {stage} in {limit_s:g} s (KRONOS_LOAD_S)"
            self._abandon(load_failed(message), now)
        self._end_lingering(now)
        self._settle(now)

    def _end_lingering(self, now: float) -> None:
        """Stop scorers of replaced versions when their time is over."""
        runner = self.lingering
        if runner is not None and self._is_over(runner, now):
            self.lingering = None
            self._effects.append(Stop(scorer=runner.id))
        for runner in list(self.retiring):
            if now - runner.replaced_at > self._limits.drain_s:
                self.retiring.remove(runner)
                self._effects.append(Stop(scorer=runner.id))

    def _is_over(self, runner: Runner, now: float) -> bool:
        if runner.drained_at is None:
            return now - runner.replaced_at > self._limits.drain_s
        return now - runner.drained_at > self._limits.linger_s

    # --- decisions

    def _goal(self, now: float) -> Pointer | None:
        """The version that shall be served."""
        target = self._target(now)
        if target is not None:
            return target
        if self.current is not None:
            return self.current.pointer
        kept = self._kept
        return None if kept is None or kept.key in self._blocked else kept

    def _target(self, now: float) -> Pointer | None:
        """The best version that the reference names and that is not blocked.

        A version that stands in for the model is not taken while the model itself is served.
        """
        genuine = self.current is not None and not self.current.pointer.instead
        for pointer in self._wanted:
            block = self._blocked.get(pointer.key)
            blocked = block is not None and now < block.until
            if blocked and block is not None and block.outage:
                return None
            if not blocked and not (pointer.instead and genuine):
                return pointer
        return None

    def _is_wanted(self, key: Key) -> bool:
        return any(pointer.key == key for pointer in self._wanted)

    def _settle(self, now: float) -> None:
        """Work towards the version that shall be served, unless that is done already."""
        goal = self._goal(now)
        key = goal.key if goal is not None else None
        if self.fetching is not None and self.fetching.pointer.key != key:
            self.fetching = None
        if self.starting is not None and self.starting.key != key:
            self._effects.append(Stop(scorer=self.starting.id, kill=True))
            self.starting = None
        serving = self.serving is not None and self.serving.key == key
        if goal is None or serving or self.fetching is not None or self.starting is not None:
            return
        if self.lingering is not None and self.lingering.key == key:
            runner, self.lingering = self.lingering, None
            self._serve(runner, now)
        else:
            self._fetch_goal(goal, now)

    def _fetch_goal(self, goal: Pointer, now: float) -> None:
        again = self.current is not None and self.current.key == goal.key  # its process has ended
        if not again:
            self._fetch(goal, local=goal == self._kept and not self._is_wanted(goal.key))
        elif now >= self._restart_at:
            self._fetch(goal, local=True)

    def _fetch(self, pointer: Pointer, *, local: bool) -> None:
        self.fetching = Fetch(self.model, pointer, local)
        self._effects.append(self.fetching)

    def _serve(self, runner: Runner, now: float) -> None:
        """Route to a warm scorer; the one before lingers."""
        before, self.serving = self.serving, runner
        self._unconfirmed = not self._is_wanted(runner.key)
        self._trouble = None
        self._blocked.pop(runner.key, None)
        self._rename(runner)
        runner.drained_at = None
        self.current = runner.candidate
        self._effects.append(Serve(route=route(self.model, runner, stale=self._unconfirmed)))
        if before is not None:
            self._linger(before, now)
        if runner.key not in self._proven:
            self._proven.add(runner.key)
            self._mark(runner.candidate.pointer, "")
        in_use = {one.key for one in self.runners}
        self._effects.append(Keep(self.model, runner.candidate, frozenset(in_use)))

    def _rename(self, runner: Runner) -> None:
        """Take over stage and reason from the registry: they change without the files."""
        for pointer in self._wanted:
            if pointer.key == runner.key:
                runner.candidate = replace(runner.candidate, pointer=pointer)
                return

    def _refresh(self) -> None:
        """Tell the gateway what the registry says anew about the version that is served."""
        runner = self.serving
        if runner is None or not self._is_wanted(runner.key):
            return
        before = runner.candidate
        self._rename(runner)
        self.current = runner.candidate
        if runner.candidate != before or self._unconfirmed:
            self._unconfirmed = False
            self._effects.append(Serve(route=route(self.model, runner, stale=False)))

    def _linger(self, runner: Runner, now: float) -> None:
        runner.replaced_at, runner.drained_at = now, None
        older, self.lingering = self.lingering, runner
        if older is None:
            return
        if older.drained_at is None:
            self.retiring.append(older)
        else:
            self._effects.append(Stop(scorer=older.id))

    # --- failures

    def _abandon(self, refusal: Refusal, now: float) -> None:
        """Stop the scorer that starts."""
        runner, self.starting = self.starting, None
        if runner is not None:
            self._effects.append(Stop(scorer=runner.id, kill=True))
            self._fail(runner.candidate.pointer, refusal, now)

    def _fail(self, pointer: Pointer, refusal: Refusal, now: float) -> None:
        """Block a version, but not the one that was served last: that one is started again."""
        if self.current is not None and self.current.key == pointer.key:
            self._delay_restart(refusal, now)
            return
        self._proven.discard(pointer.key)
        self._blocked[pointer.key] = _Block(now + self._limits.retry_s, refusal)
        self._mark(pointer, f"{refusal.code}: {refusal.message}")

    def _mark(self, pointer: Pointer, reason: str) -> None:
        if not self._stale:
            self._effects.append(Mark(self.model, pointer, reason))

    def _delay_restart(self, refusal: Refusal, now: float) -> None:
        self._trouble = refusal
        delay_s = self._limits.restart_s * 2**self._restarts
        self._restart_at = now + min(delay_s, self._limits.longest_restart_s)
        self._restarts = min(self._restarts + 1, 10)

    # --- for the gateway

    def _state(self) -> State:
        """What happens beside the version that is served."""
        best = self._wanted[0] if self._wanted else None
        block = self._blocked.get(best.key) if best is not None else None
        pointer = self._at_work()
        state, refusal = "starting", self._trouble or self._refusal
        if pointer is None and block is not None and not block.outage:
            state, refusal, pointer = "failed", block.refusal, best
        elif pointer is None and self.serving is not None:
            state, pointer = "serving", self.serving.candidate.pointer
            refusal = block.refusal if block is not None else refusal
        elif pointer is None and refusal is not None and not self._stale:
            state = "waiting" if refusal.status == NOT_FOUND else "failed"
        return State(
            model=self.model,
            state=state,
            version=pointer.version if pointer is not None else None,
            refusal=refusal,
            stale=self._stale,
        )

    def _at_work(self) -> Pointer | None:
        """The version that is being started, or waits to be started again."""
        if self.starting is not None:
            return self.starting.candidate.pointer
        if self.fetching is not None:
            return self.fetching.pointer
        if self.serving is None and self.current is not None:
            return self.current.pointer
        return None
