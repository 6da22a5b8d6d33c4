"""Volatility models: a scale learnt from features of the past, times quantiles of its residuals."""
