"""The gateway's metrics: what they count, their labels, and the conventions of Prometheus."""

import re
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from serving.gateway import metrics
from serving.gateway.metrics import Metrics
from serving.messages import Route


def made() -> Metrics:
    return Metrics(["nbeats", "har"])


def families(of: Metrics) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(of.text().decode())}


def value(of: Metrics, name: str, **labels: str) -> float | None:
    """Value of a sample with exactly these labels."""
    for family in families(of).values():
        for sample in family.samples:
            if (sample.name, sample.labels) == (name, labels):
                return sample.value
    return None


def route(version: int, stage: str = "Production") -> Route:
    return Route(
        model="nbeats", name="nbeats", version=version, stage=stage,
        manifest=f"{version:064x}"[::-1], scorer="1", host="127.0.0.1", port=1, token="t",
        since="", spec={},
    )  # fmt: skip


def test_requests_are_counted_and_timed() -> None:
    counted = made()
    for seconds in (0.0009, 0.02, 70.0):
        counted.answered("nbeats", "/forecast", 200, seconds)
    counted.answered("nbeats", "/forecast", 400, 0.001)
    labels = {"model": "nbeats", "endpoint": "/forecast"}
    assert value(counted, "kronos_requests_total", **labels, status="200") == 3
    assert value(counted, "kronos_requests_total", **labels, status="400") == 1
    assert value(counted, "kronos_request_seconds_count", **labels) == 4
    assert value(counted, "kronos_request_seconds_bucket", **labels, le="0.001") == 2
    assert value(counted, "kronos_request_seconds_bucket", **labels, le="60.0") == 3
    assert value(counted, "kronos_request_seconds_sum", **labels) == pytest.approx(70.0219)


def test_labels_come_from_closed_sets_whatever_is_asked_for() -> None:
    counted = made()
    for n in range(500):
        counted.answered(f"model{n}", f"/forecast/{n}", 404, 0.001)
    counted.answered("AAPL", "/forecast?symbol=AAPL", 404, 0.001)
    samples = families(counted)["kronos_requests"].samples
    assert len(samples) == 1
    assert samples[0].labels == {"model": "", "endpoint": "other", "status": "404"}
    assert samples[0].value == 501
    assert b"AAPL" not in counted.text()


def test_a_second_version_is_a_swap_and_the_first_one_is_not() -> None:
    counted = made()
    counted.serves(route(1))
    assert value(counted, "kronos_swaps_total", model="nbeats") == 0
    counted.serves(route(1, "Staging"))
    assert value(counted, "kronos_swaps_total", model="nbeats") == 0
    counted.serves(route(2))
    assert value(counted, "kronos_swaps_total", model="nbeats") == 1
    samples = families(counted)["kronos_model_info"].samples
    assert [sample.labels for sample in samples] == [
        {
            "model": "nbeats",
            "name": "nbeats",
            "version": "2",
            "stage": "Production",
            "manifest": "200000000000",
        }
    ]


def test_a_registry_that_does_not_answer_is_seen() -> None:
    counted = made()
    counted.serves(route(1))
    assert value(counted, "kronos_model_stale", model="nbeats") == 0
    counted.stale("nbeats", True)
    assert value(counted, "kronos_model_stale", model="nbeats") == 1


def test_a_calibration_has_an_age_and_the_identity_has_none() -> None:
    counted = made()
    counted.calibrated("nbeats", 7, 2)
    assert value(counted, "kronos_calibration_number", model="nbeats") == 7
    assert value(counted, "kronos_calibration_age_sessions", model="nbeats") == 2
    counted.calibrated("nbeats", None, 0)
    assert value(counted, "kronos_calibration_number", model="nbeats") == 0
    assert value(counted, "kronos_calibration_age_sessions", model="nbeats") is None


def test_verdicts_are_shown_by_step_and_a_damaged_calibration_is_an_alarm() -> None:
    counted = made()
    for step, verdict in enumerate(("calibrated", "stale", "uncalibrated"), start=1):
        counted.verdict("nbeats", step, verdict)
    name = "kronos_calibration_verdict"
    shown = [value(counted, name, model="nbeats", step=str(step)) for step in (1, 2, 3)]
    assert shown == [2, 1, 0]
    counted.damaged("nbeats", True)
    assert value(counted, "kronos_calibration_damaged", model="nbeats") == 1
    counted.damaged("nbeats", False)
    assert value(counted, "kronos_calibration_damaged", model="nbeats") == 0


def test_batches_queues_refusals_and_restarts_are_counted() -> None:
    counted = made()
    waiting = [1, 2]
    counted.watch_queue("har", lambda: len(waiting))
    counted.batched("har", 3)
    counted.rejected("queue_full")
    counted.scorer_restarts.labels("har").inc()
    counted.supervisor_restarts.inc()
    counted.load_failures.labels("har").inc()
    counted.recorded.inc(2)
    counted.in_progress.inc()
    waiting.append(3)
    assert value(counted, "kronos_queue_length", model="har") == 3
    assert value(counted, "kronos_batch_size_bucket", model="har", le="2.0") == 0
    assert value(counted, "kronos_batch_size_bucket", model="har", le="4.0") == 1
    assert value(counted, "kronos_rejected_total", reason="queue_full") == 1
    assert value(counted, "kronos_rejected_total", reason="deadline") == 0
    assert value(counted, "kronos_scorer_restarts_total", model="har") == 1
    assert value(counted, "kronos_supervisor_restarts_total") == 1
    assert value(counted, "kronos_load_failures_total", model="har") == 1
    assert value(counted, "kronos_recorded_total") == 2
    assert value(counted, "kronos_dropped_total") == 0
    assert value(counted, "kronos_requests_in_progress") == 1


def test_two_gateways_in_one_process_do_not_share_numbers() -> None:
    first, second = made(), made()
    first.rejected("deadline")
    assert value(second, "kronos_rejected_total", reason="deadline") == 0


def test_names_follow_the_conventions_of_prometheus() -> None:
    counted = made()
    counted.answered("nbeats", "/forecast", 200, 0.1)
    shown = families(counted)
    ours = {name: family for name, family in shown.items() if not name.startswith("process_")}
    assert len(ours) == 18
    for name, family in ours.items():
        assert re.fullmatch("kronos_[a-z_]+[a-z]", name)
        assert not re.search("milli|micro|minutes|_ms|_kb|_(total|count|sum|bucket)$", name)
        assert family.documentation.endswith(".")
        of_counter = all(sample.name == f"{name}_total" for sample in family.samples)
        assert of_counter == (family.type == "counter") or not family.samples


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux counts these")
def test_the_process_is_measured() -> None:
    memory = value(made(), "process_resident_memory_bytes")
    assert memory is not None
    assert memory > 1_000_000


def test_the_text_is_of_the_declared_format() -> None:
    assert metrics.CONTENT_TYPE == "text/plain; version=0.0.4; charset=utf-8"
    text = made().text().decode()
    assert text.endswith("\n")
    assert "_created" not in text
