"""Histories and forecasts. Every version ships this package: no mlflow, no torch, no training."""
