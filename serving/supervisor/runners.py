"""A scorer that the gateway runs for one version, as its supervisor knows it."""

from dataclasses import dataclass

from serving.messages import Route
from serving.supervisor.candidates import Candidate, Key, Pointer

LOADING, WARMING, WARM = "loading", "warming", "warm"


@dataclass
class Runner:
    """A process, from its start to its end."""

    id: str
    candidate: Candidate
    host: str
    port: int
    token: str
    begun: float  # on the fleet's clock; then when it was warm
    phase: str = LOADING
    since: str = ""  # when it was warm, ISO 8601 in UTC
    call_s: float = 0.0  # seconds that the last warm-up call took
    replaced_at: float = 0.0  # on the fleet's clock
    drained_at: float | None = None  # on the fleet's clock

    @property
    def key(self) -> Key:
        return self.candidate.key


def route(model: str, runner: Runner, *, stale: bool) -> Route:
    """The route of a warm scorer that answers for `model`."""
    candidate = runner.candidate
    pointer = candidate.pointer
    facts = candidate.facts
    return Route(
        model=model,
        name=pointer.name,
        version=pointer.version,
        stage=pointer.stage,
        manifest=pointer.manifest,
        scorer=runner.id,
        host=runner.host,
        port=runner.port,
        token=runner.token,
        since=runner.since,
        spec=candidate.spec,
        call_s=runner.call_s,
        data=facts.get("data", ""),
        trained_until=facts.get("trained_until", ""),
        pretrained_until=facts.get("pretrained_until", ""),
        notes=_notes(model, pointer),
        stale=stale,
    )


def _notes(model: str, pointer: Pointer) -> tuple[str, ...]:
    if not pointer.instead:
        return ()
    return (f"simulated: {pointer.reference} answers for {model}: {pointer.instead}",)


def adopted(route: Route, candidate: Candidate, now: float) -> Runner:
    """The scorer of a route that an earlier supervisor made."""
    return Runner(
        id=route.scorer,
        candidate=candidate,
        host=route.host,
        port=route.port,
        token=route.token,
        begun=now,
        phase=WARM,
        since=route.since,
        call_s=route.call_s,
    )
