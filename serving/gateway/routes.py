"""Which version answers for each model now, and which ones still finish requests."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from registry.errors import BadParameter, NotReady
from registry.forecast.spec import ModelSpec
from serving.gateway.dispatch import Dispatcher
from serving.messages import Refusal, Route, State


@dataclass(slots=True)
class Live:
    """A version that answers, or that finishes the requests it has."""

    route: Route
    spec: ModelSpec
    dispatcher: Dispatcher
    in_flight: int = 0  # requests, from their arrival to their reply
    replaced: bool = False
    ended: bool = False  # its process is gone

    @contextmanager
    def held(self, on_idle: Callable[["Live"], None]) -> Iterator[None]:
        """Count a request. After the last one of a replaced version, call `on_idle`."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1
            if self.replaced and not self.in_flight:
                on_idle(self)


@dataclass
class Routes:
    """The models of a gateway, in the order in which they were named."""

    models: list[str]
    on_drained: Callable[[str], None]  # with the id of a scorer
    live: dict[str, Live] = field(default_factory=dict)
    states: dict[str, State] = field(default_factory=dict)
    _draining: dict[str, Live] = field(default_factory=dict)  # by id of its scorer

    def serve(self, route: Route, make: Callable[[Route], Live]) -> None:
        """Send new requests to this version; the one before it drains."""
        before = self.live.get(route.model)
        if before is not None and before.route.scorer == route.scorer:
            before.route = route  # the same process; its stage or its age changed
            return
        live = self._draining.pop(route.scorer, None) or make(route)
        live.route, live.replaced = route, False
        self.live[route.model] = live
        if before is None or before.ended:
            return
        before.replaced = True
        self._draining[before.route.scorer] = before
        if not before.in_flight:
            self.on_drained(before.route.scorer)

    def drained(self, live: Live) -> None:
        if self._draining.get(live.route.scorer) is live:
            self.on_drained(live.route.scorer)

    def ended(self, scorer: str) -> None:
        """The process of a scorer is gone: nothing is sent to it any more."""
        old = self._draining.pop(scorer, None)
        for live in filter(None, [old, *self.live.values()]):
            if live.route.scorer == scorer:
                live.ended = True
                live.dispatcher.close()

    def of(self, model: str | None) -> Live:
        """The version that answers for a model; without a name, for the only one.

        Raises BadParameter (BAD_MODEL_NAME), and NotReady if no version of it is warm.
        """
        if model is None and len(self.models) == 1:
            model = self.models[0]
        if model not in self.models:
            raise BadParameter(
                f"name one of the models of this gateway as `model`: {', '.join(self.models)}",
                code="BAD_MODEL_NAME",
            )
        live = self.live.get(model)
        if live is None or live.ended:
            raise NotReady(self._why_not(model))
        return live

    @property
    def ready(self) -> bool:
        """Whether a warm version of every model answers."""
        live = [self.live.get(model) for model in self.models]
        return all(one is not None and not one.ended for one in live)

    def full(self, coming: int = 0) -> bool:
        """Whether a request would be refused, whichever model it names.

        `coming` requests come before it, whose models nobody knows yet.
        """
        for live in self.live.values():
            if not live.dispatcher.full(coming):
                return False
        return bool(self.live)

    def _why_not(self, model: str) -> str:
        state = self.states.get(model)
        if state is not None and state.refusal is not None:
            return f"no version of {model} is ready: {public(state.refusal)}"
        return f"no version of {model} is ready yet; try again in a moment"


def public(refusal: Refusal) -> str:
    """Why a model is not served, in words for clients: those of a failure may hold a path."""
    if refusal.status >= 500:
        return f"{refusal.code}; the gateway's log says more"
    return refusal.message
