"""The only wrapper between a Forecaster and MLflow; every version ships it."""

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
    """A KronosError in the form that MLflow's scoring server passes on: code, status and message.

    The server prefixes the message of an MlflowException with a dump of the request. So the message
    of this exception cannot be replaced. Any other exception makes the server reply with a stack
    trace.
    """

    def __init__(self, error: KronosError) -> None:
        mlflow_code = INVALID_PARAMETER_VALUE if error.status < 500 else INTERNAL_ERROR
        self._message = error.message
        self._status = error.status
        super().__init__(error.message, error_code=mlflow_code, code=error.code)

    @property
    def message(self) -> str:
        return self._message

    @message.setter
    def message(self, value: str) -> None:
        """Do nothing; the class docstring says why."""

    def get_http_status_code(self) -> int:
        return self._status


class ForecastModel(PythonModel):  # type: ignore[misc]
    """Loads the version that holds it, and checks each request and reply."""

    def load_context(self, context: Any) -> None:
        """Verify the version's bytes and code, then load it. Raises Corrupt, CodeMismatch."""
        model_dir = Path(context.artifacts["model"])
        root = model_dir.parents[1]
        if root / manifest.MODEL_DIR != model_dir:
            raise Corrupt(
                f"found the model in {model_dir}, "
                f"expected it in {manifest.MODEL_DIR} of the version's folder"
            )
        manifest.check_code(manifest.verify(root))
        self.forecaster = load_forecaster(model_dir)

    # From most type hints MLflow derives a signature; from pd.DataFrame it does not.
    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> Any:
        """Reply to a history frame; `params` holds horizon, levels, seed, output and options."""
        name = self.forecaster.spec.name
        try:
            return answer(self.forecaster, model_input, params or {})
        except KronosError as error:
            raise ServedError(error) from None
        except Exception as error:  # else the scoring server would reply with the stack trace
            logging.getLogger(__name__).exception("%s failed", name)
            failed = KronosError(f"{name} failed; the server's log says how")
            raise ServedError(failed) from error
