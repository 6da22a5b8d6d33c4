"""Hands this version's forecaster to MLflow (models from code)."""

from mlflow.models import set_model

from registry.pyfunc import ForecastModel

set_model(ForecastModel())
