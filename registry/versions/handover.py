"""MLflow hands a request to our models as it was sent. The only place that changes MLflow.

MLflow 3.17 casts table and parameters to the signature before it calls a model. It drops parameters
that it does not know, and refuses what does not fit: in words that repeat the request, without our
codes, and for CSV with a stack trace. A model cannot ask for anything else. So two functions are
wrapped when a version is loaded. For every other model they do what they did.
"""

import inspect
import logging
from collections.abc import Callable
from functools import wraps
from io import StringIO
from typing import Any

from mlflow.pyfunc import PyFuncModel, scoring_server

from registry.versions import requests
from registry.versions.served import served

READERS: dict[str, Callable[[bytes], requests.Parts]] = {
    "application/json": requests.from_json,
    "text/csv": requests.from_csv,
    "application/vnd.apache.parquet": requests.from_parquet,
}
UNSUPPORTED = f"Content-Type must be one of {', '.join(READERS)}, in UTF-8"
PREDICT = ["self", "data", "params"]  # parameters of the two functions
INVOCATIONS = ["data", "content_type", "model", "input_schema"]
OURS = "_kronos_handover"  # marks the functions that wrap MLflow's


def install(kind: type) -> None:
    """Hand requests for models of this kind to them unchanged. A second call does nothing.

    If another MLflow has other functions, they stay, and MLflow checks requests before we do.
    """
    predict: Any = getattr(PyFuncModel, "_predict", None)
    invocations: Any = getattr(scoring_server, "invocations", None)
    if hasattr(predict, OURS) and hasattr(invocations, OURS):
        return
    if not (_takes(predict, PREDICT) and _takes(invocations, INVOCATIONS)):
        logging.getLogger(__name__).warning("this MLflow casts requests before they are checked")
        return
    PyFuncModel._predict = _predicting(predict, kind)
    scoring_server.invocations = _answering(invocations, kind)
    for wrapper in (PyFuncModel._predict, scoring_server.invocations):
        setattr(wrapper, OURS, True)


def _takes(function: Any, parameters: list[str]) -> bool:
    return callable(function) and list(inspect.signature(function).parameters) == parameters


def _is(model: Any, kind: type) -> bool:
    implementation = getattr(model, "_model_impl", None)
    return isinstance(getattr(implementation, "python_model", None), kind)


def _predicting(original: Callable[..., Any], kind: type) -> Callable[..., Any]:
    """PyFuncModel._predict, without MLflow's schema checks for models of a kind."""

    @wraps(original)
    def _predict(self: Any, data: Any, params: Any = None) -> Any:
        if not _is(self, kind):
            return original(self, data, params)
        return self._predict_fn(data, params=params)

    return _predict


def _answering(original: Callable[..., Any], kind: type) -> Callable[..., Any]:
    """The scoring server's `invocations`, with our reading of the body for models of a kind.

    Other content types are refused as MLflow does, without its words, which repeat them.
    """

    @wraps(original)
    def invocations(data: bytes, content_type: str | None, model: Any, input_schema: Any) -> Any:
        if not _is(model, kind):
            return original(data, content_type, model, input_schema)
        kind_of_body, *options = [part.strip().lower() for part in (content_type or "").split(";")]
        reader = READERS.get(kind_of_body)
        if reader is None or not set(options) <= {"charset=utf-8"}:
            return scoring_server.InvocationsResponse(UNSUPPORTED, 415, "text/plain")
        with served("the reader of requests"):
            table, parameters = reader(data)
        reply = StringIO()
        scoring_server.predictions_to_json(model.predict(table, params=parameters), reply)
        return scoring_server.InvocationsResponse(reply.getvalue(), 200, "application/json")

    return invocations
