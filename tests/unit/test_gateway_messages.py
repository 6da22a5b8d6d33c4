"""What the gateway does with messages of its supervisor, without processes."""

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from registry.forecast.spec import ModelSpec
from serving.gateway.__main__ import Gateway
from serving.messages import Calibrate, Config, Damaged, Route

SPEC = ModelSpec("ewma", "baselines", min_context=60, max_context=500, max_horizon=5)


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    config = Config(
        models=["ewma"], stage="Production", host="127.0.0.1", port=0, keys="", webhook_secret="",
        calibration=True, max_body=1000, timeout_s=1, queue_s=1, poll_s=1,
    )  # fmt: skip
    with socket.socket() as listening:
        yield Gateway(config, listening)


def calibrate(number: int, scale: float) -> Calibrate:
    return Calibrate(
        model="ewma", version=1, number=number, levels=[0.05, 0.95], keys=[("global", "")],
        steps=[1], bias=[0.0], scale=[scale], offsets=[[0.0, 0.0]],
    )  # fmt: skip


def test_a_calibration_that_is_none_leaves_the_one_before(gateway: Gateway) -> None:
    for number, scale in ((1, 1.0), (2, -1.0)):
        gateway._take(calibrate(number, scale))
    assert gateway.tables.calibration("ewma", 1).number == 1
    gateway._take(calibrate(3, 2.0))
    assert gateway.tables.calibration("ewma", 1).number == 3


def test_the_metrics_show_the_verdicts_and_a_damaged_calibration(gateway: Gateway) -> None:
    def line(name: str, labels: str = "") -> str:
        shown = gateway.metrics.text().decode().splitlines()
        [sample] = [row for row in shown if row.startswith(f'{name}{{model="ewma"{labels}}}')]
        return sample.rpartition(" ")[2]

    async def main() -> None:
        gateway._serve(_route(1))
        assert line("kronos_calibration_verdict", ',step="1"') == "0.0"
        learned = Calibrate(
            model="ewma", version=1, number=1, levels=[*SPEC.levels], keys=[("global", "")],
            steps=[1], bias=[0.0], scale=[1.5], offsets=[[0.0] * len(SPEC.levels)],
            verdicts={"1": "calibrated", "2": "stale"}, age=5,
        )  # fmt: skip
        gateway._take(learned)
        steps = [line("kronos_calibration_verdict", f',step="{step}"') for step in (1, 2, 3)]
        assert steps == ["2.0", "1.0", "0.0"]
        assert line("kronos_calibration_age_sessions") == "5.0"
        gateway._take(msgspec.structs.replace(learned, age=6))
        assert line("kronos_calibration_verdict", ',step="1"') == "1.0"
        gateway._take(Damaged(model="ewma", version=1))
        assert line("kronos_calibration_damaged") == "1.0"
        assert gateway.tables.calibration("ewma", 1).number == 1
        gateway._take(calibrate(2, 1.0))
        assert line("kronos_calibration_damaged") == "0.0"
        assert line("kronos_calibration_verdict", ',step="1"') == "0.0"  # of other levels

    asyncio.run(main())


def test_after_a_roll_back_the_metrics_show_the_queue_of_the_version_that_answers(
    gateway: Gateway,
) -> None:
    async def main() -> None:
        for version in (1, 2, 1):
            gateway._serve(_route(version))
        queue: Any = gateway.routes.live["ewma"].dispatcher._queue
        queue.extend(["one", "two"])
        assert b'kronos_queue_length{model="ewma"} 2.0' in gateway.metrics.text()
        queue.clear()

    asyncio.run(main())


def _route(version: int) -> Route:
    return Route(
        model="ewma", name="ewma", version=version, stage="Production", manifest="0" * 64,
        scorer=f"s{version}", host="127.0.0.1", port=1, token="t", since="", spec=SPEC.to_json(),
    )  # fmt: skip
