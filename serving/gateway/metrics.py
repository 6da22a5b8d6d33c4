"""The gateway's metrics in the text format of Prometheus. No symbol is ever a label.

Labels come from closed sets: models that are served, `ENDPOINTS`, statuses and reasons. Children
of labels are kept, because looking one up costs more than counting.
"""

from collections.abc import Callable, Iterable
from typing import Literal, get_args

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from serving.messages import Route

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

ENDPOINTS = (
    "/forecast",
    "/invocations",
    "/health",
    "/ready",
    "/models",
    "/metrics",
    "/docs",
    "/openapi.json",
    "/webhooks/mlflow",
)
OTHER = "other"  # any other path
NO_MODEL = ""  # a request for no model, or for one that is not served

SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)

VERDICTS = ("uncalibrated", "stale", "calibrated")  # the value of a metric is the place

# Why a request was refused: for want of capacity, time or permission.
Reason = Literal[
    "queue_full", "deadline", "not_ready", "too_large", "too_slow", "connections", "key", "attempts"
]
REASONS: tuple[Reason, ...] = get_args(Reason)


class Metrics:
    """Metrics of one gateway, in a registry of their own; a main makes them once.

    `models` are those that are served, as users name them.
    """

    def __init__(self, models: Iterable[str]) -> None:
        # Without it, each counter has a second line with its time of birth.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._models = (*models, NO_MODEL)
        self._registry = CollectorRegistry()
        self._answers: dict[tuple[str, str, int], Counter] = {}
        self._latencies: dict[tuple[str, str], Histogram] = {}
        self._routes: dict[str, Route] = {}
        ProcessCollector(registry=self._registry)
        self._declare_requests()
        self._declare_scorers()
        self._declare_models()
        self._resolve()

    def text(self) -> bytes:
        """All metrics, as `CONTENT_TYPE`."""
        return generate_latest(self._registry)

    # --- requests

    def answered(self, model: str, path: str, status: int, seconds: float) -> None:
        """Count a request. Models that are not served and other paths share one label each."""
        if model not in self._models:
            model = NO_MODEL
        endpoint = path if path in ENDPOINTS else OTHER
        answers = self._answers.get((model, endpoint, status))
        if answers is None:
            answers = self.requests.labels(model, endpoint, str(status))
            self._answers[model, endpoint, status] = answers
        answers.inc()
        self._latency(model, endpoint).observe(seconds)

    def rejected(self, reason: Reason) -> None:
        """Count a refusal."""
        self._rejections[reason].inc()

    def batched(self, model: str, series: int) -> None:
        """Count a call of a scorer with so many series."""
        self._batches[model].observe(series)

    def watch_queue(self, model: str, length: Callable[[], int]) -> None:
        """Show the length of a queue: it is asked for when the metrics are read."""
        self.queue_length.labels(model).set_function(length)

    # --- models and scorers

    def serves(self, route: Route) -> None:
        """Show the version that answers now. It counts as a swap if another one did before."""
        before = self._routes.get(route.model)
        if before is not None:
            self.model_info.remove(*_labels(before))
            if (before.name, before.version) != (route.name, route.version):
                self.swaps.labels(route.model).inc()
        self._routes[route.model] = route
        self.model_info.labels(*_labels(route)).set(1)
        self.model_stale.labels(route.model).set(route.stale)

    def stale(self, model: str, stale: bool) -> None:
        """Show whether the registry answers for a model."""
        self.model_stale.labels(model).set(stale)

    def calibrated(self, model: str, number: int | None, age: int) -> None:
        """Show a calibration and its age in sessions of the data set.

        `number` is None for the identity, which has no age.
        """
        self.calibration_number.labels(model).set(number or 0)
        if number is None:
            self.calibration_age.remove(model)
        else:
            self.calibration_age.labels(model).set(age)

    def verdict(self, model: str, step: int, verdict: str) -> None:
        """Show the verdict on a step of the calibration in use."""
        self.calibration_verdict.labels(model, str(step)).set(VERDICTS.index(verdict))

    def damaged(self, model: str, damaged: bool) -> None:
        """Show whether the ledger's current calibration cannot be used."""
        self.calibration_damaged.labels(model).set(damaged)

    # --- declarations

    def _declare_requests(self) -> None:
        registry = self._registry
        by_endpoint = ("model", "endpoint")
        self.requests = Counter(
            "kronos_requests", "Requests that were answered.", (*by_endpoint, "status"),
            registry=registry,
        )  # fmt: skip
        self.latency = Histogram(
            "kronos_request_seconds", "Time from a request's first byte to its answer.",
            by_endpoint, buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self.in_progress = Gauge(
            "kronos_requests_in_progress", "Requests that are not answered yet.", registry=registry
        )
        self.rejections = Counter(
            "kronos_rejected",
            "Requests refused for want of capacity, time or permission.",
            ["reason"],
            registry=registry,
        )
        self.recorded = Counter(
            "kronos_recorded", "Answers that were written into the ledger.", registry=registry
        )
        self.dropped = Counter(
            "kronos_dropped", "Answers that the ledger lacks: it was full, down or refused them.",
            registry=registry,
        )  # fmt: skip

    def _declare_scorers(self) -> None:
        registry, by_model = self._registry, ["model"]
        self.queue_length = Gauge(
            "kronos_queue_length", "Series that wait for a scorer.", by_model, registry=registry
        )
        self.batch_size = Histogram(
            "kronos_batch_size", "Series in one call of a scorer.", by_model, buckets=BATCHES,
            registry=registry,
        )  # fmt: skip
        self.scorer_restarts = Counter(
            "kronos_scorer_restarts", "Scorers that ended by themselves.", by_model,
            registry=registry,
        )  # fmt: skip
        self.supervisor_restarts = Counter(
            "kronos_supervisor_restarts", "Supervisors that ended by themselves.",
            registry=registry,
        )  # fmt: skip

    def _declare_models(self) -> None:
        registry, by_model = self._registry, ["model"]
        self.model_info = Gauge(
            "kronos_model_info", "The version that answers; the value is 1.",
            ["model", "name", "version", "stage", "manifest"], registry=registry,
        )  # fmt: skip
        self.model_stale = Gauge(
            "kronos_model_stale", "1 while the registry cannot be asked for newer versions.",
            by_model, registry=registry,
        )  # fmt: skip
        self.swaps = Counter(
            "kronos_swaps", "Changes to another version.", by_model, registry=registry
        )
        self.load_failures = Counter(
            "kronos_load_failures", "Versions that could not be served.", by_model,
            registry=registry,
        )  # fmt: skip
        self.calibration_number = Gauge(
            "kronos_calibration_number", "Number of the calibration in use; 0: none.", by_model,
            registry=registry,
        )  # fmt: skip
        self.calibration_age = Gauge(
            "kronos_calibration_age_sessions",
            "Sessions of its data set since the last one that it was learned from.",
            by_model, registry=registry,
        )  # fmt: skip
        self.calibration_verdict = Gauge(
            "kronos_calibration_verdict", "0: uncalibrated, 1: stale, 2: calibrated.",
            ["model", "step"], registry=registry,
        )  # fmt: skip
        self.calibration_damaged = Gauge(
            "kronos_calibration_damaged",
            "1 while the ledger's current calibration cannot be used; the one before it is.",
            by_model, registry=registry,
        )  # fmt: skip

    def _resolve(self) -> None:
        """Resolve children early, so that they show 0 before anything happens."""
        self._rejections = {reason: self.rejections.labels(reason) for reason in REASONS}
        self._batches = {model: self.batch_size.labels(model) for model in self._models[:-1]}
        for model in self._models[:-1]:
            self.scorer_restarts.labels(model)
            self.swaps.labels(model)
            self.load_failures.labels(model)

    def _latency(self, model: str, endpoint: str) -> Histogram:
        latency = self._latencies.get((model, endpoint))
        if latency is None:
            latency = self.latency.labels(model, endpoint)
            self._latencies[model, endpoint] = latency
        return latency


def _labels(route: Route) -> tuple[str, str, str, str, str]:
    """Labels of model_info; twelve digits of a manifest are enough to tell it from others."""
    return route.model, route.name, str(route.version), route.stage, route.manifest[:12]
