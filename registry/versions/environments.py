"""Environment variables of MLflow and of the programs that we start: each gets what it needs."""

import os
import re
import sys
from pathlib import Path

from registry.settings import Settings

URIS = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
_HUB_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # the Hub's token and its older name

_MLFLOW = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # At the end of a run MLflow prints the URI of its store, with the password, on stdout.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

# Variables of a process that runs a version's code: the system's, those of numerical libraries and
# of the scoring server. It needs no store and no network, so URIs, passwords, tokens and proxies
# are left out without being listed.
_OF_VERSIONS = re.compile(
    r"PATH|HOME|USER|LOGNAME|HOSTNAME|SHELL|TERM|TZ|TZDIR|TMPDIR|LANG|LANGUAGE|VIRTUAL_ENV"
    r"|KRONOS_DEVICE"
    r"|(LC|LD|XDG|PYTHON|MALLOC|GLIBC|OMP|GOMP|KMP|MKL|OPENBLAS|BLIS|NUMEXPR|NUMBA|DNNL|ONEDNN"
    r"|ATEN|TORCH|TORCHINDUCTOR|PYTORCH|TRITON|CUDA|CUBLAS|CUDNN|NVIDIA|HIP|ROCR|LIGHTGBM|ARROW"
    r"|UVICORN|MLFLOW_SCORING)_\w+"
    r"|PYTHON\w+|CUDA\w+"
)


def of_mlflow(settings: Settings) -> dict[str, str]:
    """Variables for all our processes and for the MLflow programs that we start."""
    return {
        **_MLFLOW,
        "MLFLOW_TRACKING_URI": settings.tracking,
        "MLFLOW_REGISTRY_URI": settings.tracking,
        # MLflow's database store (3.17) reads it: the folder for the Default experiment of a new
        # database, instead of ./mlruns.
        "_MLFLOW_SERVER_ARTIFACT_ROOT": settings.artifacts,
        # A version reads it when it is loaded, in any process. The setting may come from .env.
        "KRONOS_DEVICE": settings.device,
    }


def of_programs(settings: Settings) -> dict[str, str]:
    """Environment of our own programs and of MLflow's server, with our stores.

    Only `mirror` and `push` need the Hub's token, and none of them is started from here.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in _HUB_TOKENS}
    return {**inherited, **of_mlflow(settings), **_interpreter()}


def of_versions() -> dict[str, str]:
    """Environment of a process that runs a version's code: no URI, no password and no token."""
    inherited = {name: value for name, value in os.environ.items() if _OF_VERSIONS.fullmatch(name)}
    return {**inherited, **_MLFLOW, **_interpreter()}


def _interpreter() -> dict[str, str]:
    """The running interpreter's programs come first, as MLflow starts `uvicorn` by name.

    No bytecode is written into a version's folder.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
