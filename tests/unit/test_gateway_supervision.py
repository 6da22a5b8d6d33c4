"""The gateway starts a supervisor again, whatever ended the one before or kept it from starting."""

import asyncio
import io
import subprocess
import sys
from typing import Any

import pytest

from serving.gateway import supervision
from serving.gateway.log import Log
from serving.gateway.metrics import Metrics
from serving.gateway.supervision import Supervision
from serving.messages import Config, Hello, Recorded

CONFIG = Config(
    models=["har"], stage="Production", host="127.0.0.1", port=1, keys="", webhook_secret="",
    calibration=True, max_body=1, timeout_s=1.0, queue_s=1.0, poll_s=1.0, access_log=False,
)  # fmt: skip
# It says one thing, and ends when the gateway closes its end of the socket.
SPEAKS = """
import socket, sys
from serving.channel import Channel
from serving.messages import Recorded, Up
connection = socket.socket(fileno=int(sys.argv[1]))
Channel(connection, Up).send(Recorded(recorded=1, dropped=0))
while connection.recv(65536):
    pass
"""


def _hello() -> Hello:
    return Hello(pid=1, running=[], routes=[])


def _run(on_message: Any, until: Any) -> str:
    """The log of a supervision that ran until a condition held."""
    stream = io.BytesIO()

    async def run() -> None:
        supervised = Supervision(CONFIG, Metrics(["har"]), Log(stream), _hello, on_message)
        supervised.start()
        async with asyncio.timeout(30):
            while not until():
                await asyncio.sleep(0.02)
        await supervised.stop(1.0)

    asyncio.run(run())
    return stream.getvalue().decode()


def test_a_supervisor_that_cannot_be_started_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    starts = []

    def refuse(*arguments: Any, **options: Any) -> None:
        starts.append((arguments, options))
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(supervision.subprocess, "Popen", refuse)
    log = _run(print, lambda: len(starts) == 2)
    assert "supervisor failed" in log


def test_after_a_message_that_cannot_be_taken_a_new_supervisor_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages: list[Recorded] = []
    popen = subprocess.Popen

    def speaker(command: list[str], **options: Any) -> Any:
        return popen([sys.executable, "-c", SPEAKS, command[-1]], **options)

    def take(message: Recorded) -> None:
        messages.append(message)
        raise ValueError("a counter cannot fall")

    monkeypatch.setattr(supervision.subprocess, "Popen", speaker)
    log = _run(take, lambda: len(messages) == 2)
    assert "ValueError: a counter cannot fall" in log
