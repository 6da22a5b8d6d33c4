"""Scores of forecasts: pure functions of arrays and frames."""
