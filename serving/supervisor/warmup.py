"""The first requests to a scorer: the version's stored example must be answered well."""

import json
import time
from typing import Any

import httpx
import numpy as np

from registry.codes import from_code
from registry.errors import KronosError
from registry.forecast import names
from registry.forecast.arrays import Floats
from registry.forecast.rendering import FRAME, PACKED, block
from registry.forecast.spec import ModelSpec
from serving.launch import HEADER, url_of
from serving.supervisor.candidates import Candidate
from serving.supervisor.runners import Runner

EXAMPLE = "serving_input_example.json"  # of a version, written by MLflow
TIMEOUT_S = 65.0  # MLflow gives up a request after 60 s


def warm_up(runner: Runner) -> float:
    """Send the example in both forms of a reply. Returns the seconds of the last packed one.

    Raises KronosError (LOAD_FAILED, or the version's own error) unless every reply has all series
    and steps, finite numbers and ascending quantiles.
    """
    candidate = runner.candidate
    spec = ModelSpec.from_json(candidate.spec)
    example = _example(candidate)
    series = _series(example)
    with httpx.Client(base_url=url_of(runner.host, runner.port), timeout=TIMEOUT_S) as client:
        rows = _ask(client, runner, example, FRAME)
        check(_of_frame(rows, spec), len(series), spec)
        check(_of_packed(_ask(client, runner, example, PACKED)), len(series), spec)
        begun = time.monotonic()
        _ask(client, runner, example, PACKED)
        return time.monotonic() - begun


def check(values: Floats, series: int, spec: ModelSpec) -> None:
    """Raise KronosError unless `values` are means and quantiles [N, H, 1 + Q] of a forecast."""
    expected = (series, spec.max_horizon, 1 + len(spec.levels))
    if values.shape != expected:
        raise _failed(f"the forecast of the example has shape {values.shape}, expected {expected}")
    if not np.isfinite(values).all():
        raise _failed("the forecast of the example has numbers that are not finite")
    if (np.diff(values[:, :, 1:], axis=2) < 0).any():
        raise _failed("the quantiles of the example's forecast are not ascending")


def _ask(client: httpx.Client, runner: Runner, example: dict[str, Any], output: str) -> Any:
    """The predictions of a reply. Raises KronosError."""
    parameters = {**example.get("params", {}), "output": output}
    try:
        reply = client.post("/invocations", json={**example, "params": parameters})
    except httpx.HTTPError as error:
        raise _failed(f"the example was not answered: {type(error).__name__}") from error
    if reply.headers.get(HEADER) != runner.token:
        raise _failed("another server answered on the port of the scorer")
    if reply.status_code != httpx.codes.OK:
        raise _refused(reply)
    try:
        return reply.json()["predictions"]
    except (ValueError, KeyError, TypeError) as error:
        raise _failed("the reply to the example is no JSON with predictions") from error


def _refused(reply: httpx.Response) -> KronosError:
    """The version's own error, if the reply holds one. `error_code` would be MLflow's."""
    try:
        content = reply.json()
        return from_code(content["code"], content["message"], reply.status_code)
    except (ValueError, KeyError, TypeError):
        return _failed(f"the example was answered with status {reply.status_code}")


def _of_packed(reply: Any) -> Floats:
    try:
        return block(reply)
    except (ValueError, KeyError, TypeError) as error:
        raise _failed("the packed reply to the example cannot be read") from error


def _of_frame(rows: Any, spec: ModelSpec) -> Floats:
    """Means and quantiles of the rows of a frame, [N, H, 1 + Q]."""
    columns = [names.MEAN, *map(names.quantile_column, spec.levels)]
    try:
        numbers = [[float(row[column]) for column in columns] for row in rows]
        values = np.array(numbers, dtype=np.float64)
        return values.reshape(-1, spec.max_horizon, len(columns))
    except (ValueError, KeyError, TypeError) as error:
        raise _failed("the reply to the example is no table of a forecast") from error


def _example(candidate: Candidate) -> dict[str, Any]:
    request: dict[str, Any] = json.loads((candidate.root / EXAMPLE).read_bytes())
    return request


def _series(example: dict[str, Any]) -> list[str]:
    """Names of the example's series."""
    split = example["dataframe_split"]
    place = split["columns"].index(names.UNIQUE_ID)
    return sorted({row[place] for row in split["data"]})


def _failed(message: str) -> KronosError:
    return KronosError(message, code="LOAD_FAILED")
