"""python -m serving.supervisor FD: the supervisor of a gateway, at the other end of a socket.

Only the gateway starts it. The first message on the socket is Config, the second one is Hello.
"""

import logging
import os
import signal
import socket
import sys
import traceback

from registry.settings import Settings
from serving.channel import Channel
from serving.messages import Config, Hello, Up
from serving.supervisor.events import Handler, log
from serving.supervisor.supervisor import Supervisor

# A look at the registry that hangs is given up soon, since the next one follows.
_PATIENCE = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}


def main(descriptor: int) -> int:
    for name, value in _PATIENCE.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, handlers=[Handler()])
    for name in ("urllib3", "registry.waiting"):  # with the registry down, at every look
        logging.getLogger(name).setLevel(logging.ERROR)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the gateway decides when this process ends
    connection = socket.socket(fileno=descriptor)
    channel = Channel(connection, Up)
    config, hello = channel.receive(), channel.receive()
    if not (isinstance(config, Config) and isinstance(hello, Hello)):
        log("the gateway said neither Config nor Hello", level="error")
        return 2
    supervisor = Supervisor(Settings(), config, channel)
    signal.signal(signal.SIGTERM, lambda *_: supervisor.end())
    log("begun", models=config.models, pid=os.getpid())
    supervisor.run(hello)
    log("ended")
    return 0


if __name__ == "__main__":
    try:
        code = main(int(sys.argv[1]))
    except Exception as error:
        log("failed", level="error", message=f"{type(error).__name__}: {error}",
            trace=traceback.format_exc())  # fmt: skip
        code = 1
    sys.stderr.flush()
    os._exit(code)  # threads that wait for a server or database would keep the process
