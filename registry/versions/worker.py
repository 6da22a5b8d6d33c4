"""A version in a separate process, for a version whose code differs from this process's code."""

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, cast

from registry import interrupts
from registry.codes import from_code
from registry.errors import KronosError
from registry.forecast.forecast import Forecast
from registry.forecast.history import History
from registry.forecast.rendering import PACKED, unpacked
from registry.forecast.spec import ModelSpec, Request
from registry.versions import environments, worker_program

STOP_TIMEOUT_S = 30.0


class Worker:
    """A Forecaster whose code runs in another process. It handles one request at a time.

    If the process ended, the next request starts it again, until `close` is called.
    """

    def __init__(
        self, spec: ModelSpec, root: Path, on_close: Callable[[], object] = lambda: None
    ) -> None:
        """Start the version at `root`; its files stay until `on_close` is called.

        Raises the version's loading error, or KronosError.
        """
        self.spec = spec
        self._root, self._on_close = root, on_close
        self._lock = threading.Lock()
        self._closed = False
        self._start()

    def predict(self, history: History, request: Request) -> Forecast:
        """Forecast at spec.levels, bit for bit as the version's code computes it.

        Raises the version's own errors, and KronosError (code WORKER) if its process ended.
        """
        parameters = {
            **request.options,
            "horizon": request.horizon,
            "levels": list(self.spec.levels),
            "seed": request.seed,
            "output": PACKED,
        }
        with self._lock:
            if self._closed:
                raise KronosError(
                    f"{self.spec.name} was closed; load the version again", code="WORKER"
                )
            if self._process.poll() is not None:
                self._release()
                self._start()
            reply = self._ask({"params": parameters}, history)
        return unpacked(reply, history, self.spec.levels)

    def close(self) -> None:
        """Stop the process after its current request: it ends when its input is closed."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with contextlib.suppress(BrokenPipeError):
                self._requests.close()
            self._stop(STOP_TIMEOUT_S)
            self._on_close()

    def _start(self) -> None:
        program = Path(worker_program.__file__).resolve()
        with interrupts.no_ctrl_c_for_children():
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(program), str(self._root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=self._root,
                env=environments.of_versions(),
            )
        try:
            _value(self._hear())
        except KronosError:
            self._stop(STOP_TIMEOUT_S)
            raise

    @property
    def _requests(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdin)

    @property
    def _replies(self) -> IO[bytes]:
        return cast(IO[bytes], self._process.stdout)

    def _ask(self, header: Mapping[str, Any], history: History) -> Any:
        """The value of the reply. Raises the error that the reply holds."""
        frame = history.frame()
        try:
            worker_program.send(self._requests, header, frame)
        except BrokenPipeError as error:
            raise self._ended() from error
        except BaseException:  # half a message may be in the pipe
            self._stop()
            raise
        return _value(self._hear())

    def _hear(self) -> dict[str, Any]:
        """The next reply.

        If the reply is not read to its end, the process is stopped. Otherwise the next request
        would get the reply to this one.
        """
        try:
            head, _ = worker_program.receive(self._replies)
        except EOFError as error:
            raise self._ended() from error
        except BaseException:
            self._stop()
            raise
        reply: dict[str, Any] = json.loads(head)
        return reply

    def _ended(self) -> KronosError:
        code = self._stop(STOP_TIMEOUT_S)
        return KronosError(
            f"the process of {self.spec.name} ended with exit code {code}; its messages are above. "
            "The next request starts it again",
            code="WORKER",
        )

    def _stop(self, timeout_s: float = 0) -> int:
        """Exit code of the process. It is killed if it does not end within the timeout."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._release()
        return self._process.returncode

    def _release(self) -> None:
        """Reap the process and close this side of its pipes."""
        self._process.wait()
        for pipe in (self._requests, self._replies):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


def _value(reply: Mapping[str, Any]) -> Any:
    """The value of a reply. If the reply holds an error, raises the class of its code."""
    if "code" in reply:
        raise from_code(reply["code"], reply["message"], reply["status"])
    return reply["value"]
