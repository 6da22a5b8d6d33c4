"""The program in which a version runs its own code: python -P worker_program.py FOLDER.

It imports nothing of ours but what the version holds, so it runs versions of any age. Messages on
standard input and output are length-prefixed: a JSON header and, with a request, an Arrow stream.
An error is answered, and the next message is waited for.
"""

import json
import logging
import os
import struct
import sys
from collections.abc import Mapping
from typing import IO, Any

import pandas as pd
import pyarrow as pa

SIZES = struct.Struct("<QQ")  # bytes of header and body
LARGEST = 1 << 36  # bytes of a part; a larger size is no message of ours
BAD_MESSAGE, FAILED, MLFLOW = "WORKER", "INTERNAL", "MLFLOW"  # codes of errors


def send(stream: IO[bytes], header: Mapping[str, Any], frame: pd.DataFrame | None = None) -> None:
    """Write one message."""
    head = json.dumps(header).encode()
    body = b"" if frame is None else _arrow(frame)
    stream.write(SIZES.pack(len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """Header and body of the next message. EOFError when there is no whole one."""
    sizes = SIZES.unpack(_exactly(stream, SIZES.size))
    if max(sizes) > LARGEST:
        raise EOFError(f"a message of {max(sizes)} bytes; expected at most {LARGEST}")
    head, body = (_exactly(stream, size) for size in sizes)
    return head, body


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError(f"the other side is gone: {len(content)} of {size} bytes came")
    return content


def _arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _request(head: bytes, body: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    """History and parameters of a message. ValueError when it is none."""
    try:
        parameters = json.loads(head)["params"]
        return pa.ipc.open_stream(body).read_all().to_pandas(), dict(parameters)
    except (ValueError, KeyError, TypeError, OSError) as error:  # OSError: Arrow's, of cut bytes
        raise ValueError(
            f"{type(error).__name__} in a message of {len(head)}, {len(body)} bytes"
        ) from error


def _reply(model: Any, head: bytes, body: bytes) -> dict[str, Any]:
    """What the version answers: a value, or an error's code, status and message."""
    try:
        history, parameters = _request(head, body)
    except ValueError as error:
        return {"code": BAD_MESSAGE, "status": 500, "message": f"not a request: {error}"}
    try:
        return {"value": model.predict(history, params=parameters)}
    except Exception as error:
        return _failure(error, "the version failed")


def _failure(error: Exception, event: str) -> dict[str, Any]:
    """An error as a reply: ours and MLflow's as they are, of any other its type."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        code = error.json_kwargs.get("code", MLFLOW)  # ServedError's own
        return {"code": code, "status": error.get_http_status_code(), "message": error.message}
    logging.getLogger(__name__).exception(event)
    if hasattr(error, "code") and hasattr(error, "status"):  # the version's own KronosError
        return {"code": error.code, "status": error.status, "message": f"{event}: {error}"}
    return {
        "code": FAILED,
        "status": 500,
        "message": f"{event}: {type(error).__name__}; its log says how",
    }


def _replies() -> IO[bytes]:
    """Standard output for replies alone: what else is written to it goes to standard error."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return replies


def main(root: str) -> None:
    """Serve one version until the parent closes the pipe."""
    requests, replies = sys.stdin.buffer, _replies()
    try:
        import mlflow

        model = mlflow.pyfunc.load_model(root)
    except Exception as error:
        send(replies, _failure(error, "the version cannot be loaded"))
        return
    send(replies, {"value": "ready"})
    while True:
        try:
            head, body = receive(requests)
        except EOFError:
            return
        reply = _reply(model, head, body)
        try:
            send(replies, reply)
        except TypeError:  # a value that is not JSON: only packed replies are
            send(replies, {"code": BAD_MESSAGE, "status": 500, "message": "the reply is not JSON"})


if __name__ == "__main__":
    main(sys.argv[1])
