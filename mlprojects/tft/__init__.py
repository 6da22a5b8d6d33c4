"""Temporal Fusion Transformer of pytorch-forecasting behind the contract."""
