"""The single wrapper between a Forecaster and MLflow: request in, checked forecast out."""

import base64
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from registry import artifacts, calendars, wire
from registry.contract import Floats, Forecast, Forecaster, ModelSpec, check_forecast, check_history, check_request
from registry.errors import BadHistory, BadInput, BadParameter, Corrupt, KronosError, NotAvailable
from registry.loading import load_forecaster


class ServedError(MlflowException):  # type: ignore[misc]
    """An error of ours as the scoring server answers it: our code and message, nothing else.

    The server prefixes the message of an MlflowException with a dump of the request, and answers any other
    exception with a stack trace; so the message of this one cannot be replaced.
    """

    def __init__(self, error: KronosError) -> None:
        known = INVALID_PARAMETER_VALUE if error.status < 500 else INTERNAL_ERROR
        self._message = error.message
        super().__init__(error.message, error_code=known, code=error.code)

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, value: str) -> None:
        """Ignored: see the class."""


class ForecastModel(PythonModel):  # type: ignore[misc]
    """Loads the version it lies in, checks what comes in and what goes out."""

    def load_context(self, context: Any) -> None:
        """Verify the version's bytes and code, then load its forecaster. Raises Corrupt, CodeMismatch."""
        model_dir = Path(context.artifacts["model"])
        root = model_dir.parents[1]
        if root / artifacts.MODEL_DIR != model_dir:
            raise Corrupt(f"{model_dir} is not where a version of ours keeps its model; expected {artifacts.MODEL_DIR}")
        artifacts.check_code(artifacts.verify(root))
        self.forecaster = load_forecaster(model_dir)

    # The hint pd.DataFrame is one of the few that MLflow does not take for a signature of its own.
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:  # noqa: ARG002
        """Forecast of a history frame; `params` hold horizon, levels, seed, output and the model's options."""
        try:
            return answer(self.forecaster, model_input, params or {})
        except KronosError as error:
            raise ServedError(error) from None
        except Exception as error:  # whatever it is, the scoring server would answer with its stack trace
            logging.getLogger(__name__).exception("%s failed", self.forecaster.spec.name)
            raise ServedError(KronosError(f"{self.forecaster.spec.name} failed; the server's log says how")) from error


def answer(forecaster: Forecaster, history: Any, params: dict[str, Any]) -> Any:
    """What a version answers to one request. Raises BadInput, NotAvailable or BadForecast.

    output 'frame': unique_id, step, ds, mean, q...; 'prices': median bars, mean and quantiles of the close, for models
    that know them; 'packed': base64 blocks of little-endian float64 with shape and names: the forecast [N, H, 1 + Q]
    (mean first), and every sampled bar [N, S, H, 6] of a model that samples them.
    """
    spec = forecaster.spec
    request = dict(params)
    horizon = int(request.pop("horizon", spec.max_horizon))
    levels = tuple(float(level) for level in np.atleast_1d(request.pop("levels", spec.levels)))
    seed = int(request.pop("seed", 0))
    output = request.pop("output", wire.OUTPUTS[0])
    check_request(spec, horizon, levels, request)
    if seed < 0:
        raise BadParameter(f"seed is {seed}, expected 0 or more", code="BAD_SEED")
    if output not in wire.OUTPUTS:
        raise BadParameter(f"output must be one of {list(wire.OUTPUTS)}", code="BAD_OUTPUT")
    if output == "prices" and not spec.has_prices:
        raise NotAvailable(f"{spec.name} forecasts returns; it knows no prices")
    checked = check_history(_frame(history), spec)
    outside = calendars.not_sessions(spec.calendar, checked.ds)
    if len(outside):
        raise BadHistory(f"{len(outside)} dates are no sessions of {spec.calendar}", code="NOT_A_SESSION")
    options = {o.name: o.default for o in spec.options} | request
    forecast = forecaster.predict(checked, horizon, levels, seed, options)
    check_forecast(forecast, spec, horizon, levels)
    forecast = dataclasses.replace(forecast, notes={**forecast.notes, **_synthetic(spec)})
    sessions = calendars.next_sessions_many(spec.calendar, forecast.cutoffs, horizon)
    if output == "packed":
        return packed(forecast, sessions)
    if output == "prices":
        return forecast.to_price_frame(sessions)
    return forecast.to_frame(sessions)


def _synthetic(spec: ModelSpec) -> dict[str, str]:
    """What a reply says of columns that were made up in training."""
    return {"synthetic": f"trained on synthetic {', '.join(spec.synthetic)}"} if spec.synthetic else {}


def _frame(history: Any) -> pd.DataFrame:
    if not isinstance(history, pd.DataFrame):
        raise BadInput(f"history must be a table, found {type(history).__name__}", code="NOT_A_TABLE")
    return history


def packed(forecast: Forecast, sessions: Any) -> dict[str, Any]:
    """The forecast as float64 blocks, for programs."""
    columns = [wire.MEAN, *(wire.quantile_column(level) for level in forecast.levels)]
    reply = {
        wire.UNIQUE_ID: list(forecast.unique_id),
        wire.DS: np.datetime_as_string(sessions.astype("datetime64[D]")).tolist(),
        **_block(np.concatenate([forecast.mean[:, :, None], forecast.quantiles], axis=2), columns),
        wire.NOTES: dict(forecast.notes),
    }
    if forecast.price_paths is not None:
        reply["price_paths"] = _block(forecast.price_paths, wire.BAR)
        reply["measured"] = {name: values.tolist() for name, values in forecast.measured.items()}
    return reply


def _block(values: Floats, columns: Sequence[str]) -> dict[str, Any]:
    """An array with its shape and the names along its last axis."""
    data = base64.b64encode(values.astype("<f8").tobytes()).decode("ascii")
    return {"columns": list(columns), "shape": list(values.shape), "dtype": "<f8", "data": data}
