"""Forecasts, and the registry of models."""
