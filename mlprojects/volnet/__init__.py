"""Volatility networks: a scale learnt from features of the past, times quantiles of what it left over."""
