"""The program in which a version runs its own code: python -P worker_program.py FOLDER.

It imports only the version's code and no other code of this repository, so it runs versions of any
age. Messages on standard input and output are length-prefixed: a JSON header and, in a request, an
Arrow stream. The reply to a bad request is an error; then the program waits for the next message.
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
LARGEST = 1 << 36  # bytes of a header or body; a larger size means a broken message
BAD_MESSAGE, FAILED, MLFLOW = "WORKER", "INTERNAL", "MLFLOW"  # error codes


def send(stream: IO[bytes], header: Mapping[str, Any], frame: pd.DataFrame | None = None) -> None:
    """Write one message."""
    head = json.dumps(header).encode()
    body = b"" if frame is None else _arrow(frame)
    stream.write(SIZES.pack(len(head), len(body)) + head + body)
    stream.flush()


def receive(stream: IO[bytes]) -> tuple[bytes, bytes]:
    """Header and body of the next message. Raises EOFError if the message is incomplete."""
    sizes = SIZES.unpack(_exactly(stream, SIZES.size))
    if max(sizes) > LARGEST:
        raise EOFError(f"found a message of {max(sizes)} bytes, expected at most {LARGEST}")
    head, body = (_exactly(stream, size) for size in sizes)
    return head, body


def _exactly(stream: IO[bytes], size: int) -> bytes:
    content = stream.read(size)
    if len(content) < size:
        raise EOFError(f"the stream ended: found {len(content)} bytes, expected {size}")
    return content


def _arrow(frame: pd.DataFrame) -> bytes:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _request(head: bytes, body: bytes) -> tuple[pd.DataFrame, dict[str, Any]]:
    """History and parameters of a request. Raises an error of JSON or Arrow for other messages."""
    parameters = json.loads(head)["params"]
    return pa.ipc.open_stream(body).read_all().to_pandas(), dict(parameters)


def _reply(model: Any, head: bytes, body: bytes) -> dict[str, Any]:
    """The version's reply: a value, or an error's code, status and message."""
    try:
        history, parameters = _request(head, body)
    except Exception as error:  # any message is answered; otherwise the program would end
        reason = f"{type(error).__name__} in a message of {len(head)}, {len(body)} bytes"
        return {"code": BAD_MESSAGE, "status": 500, "message": f"not a request: {reason}"}
    try:
        return {"value": model.predict(history, params=parameters)}
    except Exception as error:
        return _failure(error, "the version failed")


def _failure(error: Exception, event: str) -> dict[str, Any]:
    """An error as a reply: in full if it is a KronosError or MLflow's, else only its type."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, MlflowException):
        code = error.json_kwargs.get("code", MLFLOW)  # a ServedError has a code
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
    """Standard output, reserved for replies: all other output goes to standard error."""
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
        except TypeError:  # the value is not JSON; only packed replies are
            send(replies, {"code": BAD_MESSAGE, "status": 500, "message": "the reply is not JSON"})


if __name__ == "__main__":
    main(sys.argv[1])
