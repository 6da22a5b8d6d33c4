"""The processes of scorers: started when the supervisor asks, gone with the gateway."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from registry.attached import attached
from registry.errors import KronosError
from serving.log import Log
from serving.messages import Ended, Run

STOP_TIMEOUT_S = 70.0  # MLflow gives up a request after 60 s
_LOOK_S = 0.1  # between two looks at a process


class Processes:
    """Scorers by their ids. Start them from the main thread: they are attached to it."""

    def __init__(self, on_ended: Callable[[Ended], None]) -> None:
        self._on_ended = on_ended
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._watchers: set[asyncio.Task[None]] = set()
        self._stopping: set[str] = set()

    @property
    def running(self) -> list[str]:
        return list(self._running)

    def run(self, message: Run) -> None:
        """Start a scorer; its end, or that it cannot be started, is reported."""
        log = Log(Path(message.log))
        try:
            log.begin(message.title)
            process = subprocess.Popen(
                attached(message.command),
                env=message.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, KronosError) as error:
            self._on_ended(Ended(scorer=message.scorer, exit_code=-1, last_error=str(error)))
            return
        if process.stdout is not None:
            log.follow(process.stdout, process.pid)
        self._running[message.scorer] = process
        task = asyncio.create_task(self._watch(message.scorer, process, log))
        self._watchers.add(task)
        task.add_done_callback(self._watchers.discard)

    def signal(self, scorer: str, number: int) -> None:
        """Send a signal to all processes of a scorer."""
        process = self._running.get(scorer)
        if process is not None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, number)

    def stop(self, scorer: str, *, kill: bool = False) -> None:
        """SIGTERM, and SIGKILL after STOP_TIMEOUT_S; or SIGKILL at once."""
        self.signal(scorer, signal.SIGKILL if kill else signal.SIGTERM)
        if not kill and scorer in self._running:
            self._stopping.add(scorer)
            loop = asyncio.get_running_loop()
            loop.call_later(STOP_TIMEOUT_S, self.signal, scorer, signal.SIGKILL)

    async def stop_all(self) -> None:
        """Stop all scorers and wait for their end."""
        for scorer in self.running:
            self.stop(scorer)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_TIMEOUT_S + 5):
                while self._running:
                    await asyncio.sleep(0.05)

    async def _watch(self, scorer: str, process: "subprocess.Popen[bytes]", log: Log) -> None:
        """Report the end of a scorer.

        MLflow's own process may end before its child has answered the last requests, so a scorer
        that is being stopped has ended when all of its processes have closed their output.
        """
        while process.poll() is None or (scorer in self._stopping and not log.ended()):
            await asyncio.sleep(_LOOK_S)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a child that outlives MLflow's own process
        while not log.ended():
            await asyncio.sleep(_LOOK_S)
        del self._running[scorer]
        self._stopping.discard(scorer)
        code = process.returncode
        self._on_ended(Ended(scorer=scorer, exit_code=code, last_error=log.last_error()))
