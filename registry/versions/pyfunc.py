"""The only wrapper between a Forecaster and MLflow; every version ships it."""

from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.pyfunc import PythonModel

from registry.errors import Corrupt
from registry.forecast.answer import answer
from registry.forecast.identity import Identity
from registry.forecast.model_folder import load_forecaster
from registry.versions import handover, manifest, registration, requests
from registry.versions.served import served


class ForecastModel(PythonModel):  # type: ignore[misc]
    """Loads the version that holds it, and checks each request and reply."""

    identity: Identity | None = None  # of the loaded version

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
        handover.install(ForecastModel)
        self.forecaster = load_forecaster(model_dir)
        self.identity = registration.identity(root, self.forecaster.spec.name)

    # From most type hints MLflow derives a signature; from pd.DataFrame it does not.
    def predict(
        self,
        context: Any,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> Any:
        """Reply to a history table; `params` holds horizon, levels, seed, output and options."""
        parameters = {} if params is None else params
        with served(self.forecaster.spec.name):
            history = requests.table(model_input)
            return answer(self.forecaster, history, parameters, self.identity)
