"""The single wrapper between a Forecaster and MLflow; every version holds it."""

import logging
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel

from registry.errors import Corrupt, KronosError
from registry.forecast.answer import answer
from registry.forecast.model_folder import load_forecaster
from registry.versions import manifest


class ServedError(MlflowException):  # type: ignore[misc]
    """An error of ours as the scoring server answers it: our code, status and message.

    The server prefixes the message of an MlflowException with a dump of the request, so the message
    of this one cannot be replaced. It answers any other exception with a stack trace.
    """

    def __init__(self, error: KronosError) -> None:
        known = INVALID_PARAMETER_VALUE if error.status < 500 else INTERNAL_ERROR
        self._message, self._status = error.message, error.status
        super().__init__(error.message, error_code=known, code=error.code)

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, value: str) -> None:
        """Ignored: see the class."""

    def get_http_status_code(self) -> int:
        return self._status


class ForecastModel(PythonModel):  # type: ignore[misc]
    """Loads the version it lies in, checks what comes in and what goes out."""

    def load_context(self, context: Any) -> None:
        """Verify the version's bytes and code, then load it. Raises Corrupt, CodeMismatch."""
        model_dir = Path(context.artifacts["model"])
        root = model_dir.parents[1]
        if root / manifest.MODEL_DIR != model_dir:
            raise Corrupt(
                f"{model_dir} is not where a version of ours keeps its model; expected {manifest.MODEL_DIR}"
            )
        manifest.check_code(manifest.verify(root))
        self.forecaster = load_forecaster(model_dir)

    # The hint pd.DataFrame is one of the few that MLflow does not take for a signature of its own.
    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> Any:
        """Reply to a history frame; `params` hold horizon, levels, seed, output and options."""
        name = self.forecaster.spec.name
        try:
            return answer(self.forecaster, model_input, params or {})
        except KronosError as error:
            raise ServedError(error) from None
        except Exception as error:  # of any other, the scoring server would answer the stack trace
            logging.getLogger(__name__).exception("%s failed", name)
            failed = KronosError(f"{name} failed; the server's log says how")
            raise ServedError(failed) from error
