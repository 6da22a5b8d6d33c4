"""The slots of all models: which one an event is about."""

from collections.abc import Sequence

from serving.messages import Hello, Refusal, Route, Stop
from serving.supervisor.candidates import Candidate, Pointer
from serving.supervisor.effects import Effect, Watch
from serving.supervisor.refusals import load_failed
from serving.supervisor.runners import Runner, adopted
from serving.supervisor.slot import Limits, Slot, Start

STRANGERS_S = 30.0


class Fleet:
    """Events go to `slots[model]`, or by the id of a scorer; `take` gives all effects."""

    def __init__(self, models: Sequence[str], start: Start, limits: Limits | None = None) -> None:
        self.slots = {model: Slot(model, start, limits) for model in models}
        self._effects: list[Effect] = []
        self._strangers: list[str] = []  # scorers of an earlier supervisor that are not routed to
        self._strangers_end = 0.0

    def take(self) -> list[Effect]:
        """The effects of all events since the last call."""
        effects, self._effects = self._effects, []
        for slot in self.slots.values():
            effects += slot.take()
        return effects

    def tick(self, now: float) -> None:
        for slot in self.slots.values():
            slot.tick(now)
        if self._strangers and now >= self._strangers_end:
            self._effects += [Stop(scorer=scorer) for scorer in self._strangers]
            self._strangers = []

    def adopt(self, hello: Hello, candidates: dict[str, Candidate], now: float) -> None:
        """Go on with what runs. `candidates` are the versions of the routes, by model.

        Other scorers are stopped after a while: the gateway may still have requests for them.
        """
        known = set()
        for route in hello.routes:
            candidate = candidates.get(route.model)
            slot = self.slots.get(route.model)
            if slot is None or candidate is None:
                continue
            runner = None
            if route.scorer in hello.running:
                runner = adopted(route, candidate, now)
                known.add(runner.id)
                self._effects.append(Watch(runner))
            slot.adopt(candidate, runner, now)
        self._strangers = [scorer for scorer in hello.running if scorer not in known]
        self._strangers_end = now + STRANGERS_S

    # --- scorers

    def ready(self, scorer: str, now: float) -> None:
        for slot in self.slots.values():
            slot.ready(scorer, now)

    def warmed(self, scorer: str, since: str, call_s: float, now: float) -> None:
        for slot in self.slots.values():
            slot.warmed(scorer, since, call_s, now)

    def failed(self, scorer: str, refusal: Refusal, now: float) -> None:
        for slot in self.slots.values():
            slot.failed(scorer, refusal, now)

    def ended(self, scorer: str, exit_code: int, last_error: str, now: float) -> None:
        """Its last words count only while it loads: later ones may be about a request."""
        for slot in self.slots.values():
            runner = slot.runner(scorer)
            if runner is None:
                continue
            reference = runner.candidate.pointer.reference
            message = f"the scorer of {reference} ended (exit code {exit_code})"
            if runner is slot.starting:
                message += f": {last_error}"
            slot.ended(scorer, load_failed(message), now)

    def hung(self, scorer: str, now: float) -> None:
        for slot in self.slots.values():
            runner = slot.runner(scorer)
            if runner is not None:
                reference = runner.candidate.pointer.reference
                slot.hung(scorer, load_failed(f"the scorer of {reference} does not answer"), now)

    def drained(self, scorer: str, now: float) -> None:
        for slot in self.slots.values():
            slot.drained(scorer, now)

    # --- versions

    def candidate(self, model: str, version: int) -> Candidate | None:
        """A version that runs, by the name that users or the registry give its model."""
        for slot in self.slots.values():
            for runner in slot.runners:
                pointer = runner.candidate.pointer
                if pointer.version == version and model in (slot.model, pointer.name):
                    return runner.candidate
        return None

    def serving(self) -> list[Runner]:
        """The scorers that requests are routed to."""
        runners = [slot.serving for slot in self.slots.values()]
        return [runner for runner in runners if runner is not None]


def pointer_of(route: Route) -> Pointer:
    """The version of a route, as far as the route says."""
    instead = ""
    for note in route.notes:
        instead = note.rpartition(": ")[2] if note.startswith("simulated: ") else instead
    return Pointer(route.name, route.version, route.manifest, route.stage, instead)
