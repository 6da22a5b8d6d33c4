"""Our errors as MLflow's scoring server passes them on."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE

from registry.errors import KronosError


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


@contextmanager
def served(name: str) -> Iterator[None]:
    """Turn every error into a ServedError. The words of an unexpected one go to the log only."""
    try:
        yield
    except KronosError as error:
        raise ServedError(error) from None
    except Exception as error:  # else the scoring server would reply with the stack trace
        logging.getLogger(__name__).exception("%s failed", name)
        failed = KronosError(f"{name} failed; the server's log says how")
        raise ServedError(failed) from error
