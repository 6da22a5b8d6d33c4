"""A version in a process of its own, for code that differs from the code running here.

The parent starts this file as a program; it imports nothing of ours but what the version holds. Requests and
replies are length-prefixed messages on its standard input and output: a JSON header and an Arrow stream.
"""

import contextlib
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa


def _send(stream: IO[bytes], header: Mapping[str, Any], frame: pd.DataFrame | None = None) -> None:
    head = json.dumps(header).encode()
    body = b""
    if frame is not None:
        sink = pa.BufferOutputStream()
        table = pa.Table.from_pandas(frame, preserve_index=False)
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        body = sink.getvalue().to_pybytes()
    stream.write(struct.pack("<QQ", len(head), len(body)) + head + body)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], pd.DataFrame | None]:
    sizes = stream.read(16)
    if len(sizes) < 16:
        raise EOFError("the other side is gone")
    head, body = struct.unpack("<QQ", sizes)
    header: dict[str, Any] = json.loads(stream.read(head))
    frame = pa.ipc.open_stream(stream.read(body)).read_all().to_pandas() if body else None
    return header, frame


class Worker:
    """Stands in for an MLflow pyfunc: `metadata` and `predict`. One request at a time, the others wait."""

    def __init__(self, root: Path) -> None:
        from mlflow.models import Model

        from registry.tracking import inherited

        self.metadata = Model.load(str(root))
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).resolve()), str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=root,
            env={**inherited(), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        try:
            self._ask({"ready": True}, None)
        except BaseException:
            self.close()
            raise

    def _ask(self, header: Mapping[str, Any], frame: pd.DataFrame | None) -> Any:
        from registry.errors import BadInput, KronosError

        if self._process.stdin is None or self._process.stdout is None:
            raise KronosError("the worker has no pipes")
        try:
            with self._lock:
                _send(self._process.stdin, header, frame)
                reply, answer = _receive(self._process.stdout)
        except (EOFError, BrokenPipeError) as error:
            code = self._process.wait()
            raise KronosError(
                f"the version's own process ended with exit code {code}; see its messages above"
            ) from error
        if "code" in reply:
            kind = BadInput if reply["status"] < 500 else KronosError
            raise kind(reply["message"], code=reply["code"])
        return reply.get("value") if answer is None else answer

    def predict(self, history: pd.DataFrame, params: Mapping[str, Any] | None = None) -> Any:
        return self._ask({"params": dict(params or {})}, history)

    def close(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


def main(root: str) -> None:
    """Serve one version on standard input and output until the parent closes it."""
    replies = sys.stdout.buffer
    sys.stdout = sys.stderr  # what libraries print must not end up between the replies
    import mlflow

    model = mlflow.pyfunc.load_model(root)
    while True:
        try:
            header, frame = _receive(sys.stdin.buffer)
        except EOFError:
            return
        if frame is None:
            _send(replies, {"value": "ready"})
            continue
        try:
            value = model.predict(frame, params=header["params"])
        except mlflow.MlflowException as error:
            code = error.json_kwargs.get("code", error.error_code)
            _send(replies, {"code": code, "message": error.message, "status": error.get_http_status_code()})
            continue
        if isinstance(value, pd.DataFrame):
            _send(replies, {}, value)
        else:
            _send(replies, {"value": value})


if __name__ == "__main__":
    main(sys.argv[1])
