"""Start the gateway: check the settings, take the port, and become the process that answers."""

import os
import socket
import sys
from collections.abc import Sequence

import msgspec

from registry.errors import BadParameter
from registry.settings import Settings
from serving.gateway.keys import Keys
from serving.messages import Config
from serving.references import check_reference, model_of
from serving.scorer import LOOPBACK

STAGES = ("production", "staging")
_WAITING = 2048  # connections that are not accepted yet


def start(models: Sequence[str], stage: str, host: str | None, port: int | None) -> None:
    """Run the gateway in place of this process. Raises BadParameter and BadConfig."""
    settings = Settings()
    host = settings.host if host is None else host
    port = settings.port if port is None else port
    config = _config(settings, models, stage, host, port)
    listening = listen(host, port)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(msgspec.json.encode(config))
    for descriptor in (reading, listening.fileno()):
        os.set_inheritable(descriptor, True)
    command = [sys.executable, "-m", "serving.gateway", str(reading), str(listening.fileno())]
    os.execv(sys.executable, command)  # imports of this process would stay in memory


def _config(settings: Settings, models: Sequence[str], stage: str, host: str, port: int) -> Config:
    """The configuration of a gateway. Raises BadParameter and BadConfig."""
    keys = Keys.parse(settings.api_keys)
    if host not in LOOPBACK and not len(keys) and not settings.private_network:
        raise BadParameter(
            f"{host} is reachable from outside, and without a key everybody could ask; make one "
            "with `python -m serving key NAME`, use 127.0.0.1, or set KRONOS_PRIVATE_NETWORK=true "
            "inside a container whose port is published on loopback",
            code="NOT_LOOPBACK",
        )
    _check_models(settings, models, stage)
    return Config(
        models=list(models),
        stage=stage,
        host=host,
        port=port,
        keys=settings.api_keys,
        webhook_secret=settings.webhook_secret.get_secret_value(),
        calibration=settings.calibration_enabled,
        max_body=settings.max_body,
        timeout_s=settings.timeout_s,
        queue_s=settings.queue_s,
        poll_s=settings.poll_s,
        access_log=settings.access_log,
    )


def _check_models(settings: Settings, models: Sequence[str], stage: str) -> None:
    """Raise BadParameter for models or a stage that cannot be meant."""
    if stage.lower() not in STAGES:
        raise BadParameter(f"--stage is one of {', '.join(STAGES)}", code="BAD_STAGE")
    for reference in models:
        check_reference(reference)
    names = [model_of(reference) for reference in models]
    for name, reference in zip(names, models, strict=True):
        if names.count(name) > 1:
            raise BadParameter(f"{name} is named twice; a gateway serves one version of it")
        if settings.model_dir(name) and reference != name:
            raise BadParameter(
                f"KRONOS_{name.upper()}_MODEL_DIR holds the version of {name}; name {name} alone, "
                "or unset it"
            )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises BadParameter, PORT_TAKEN."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
    except OSError as error:
        listening.close()
        raise BadParameter(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another with --port",
            code="PORT_TAKEN",
        ) from error
    listening.listen(_WAITING)
    return listening
