"""Temporal Fusion Transformer of pytorch-forecasting, served through the contract."""
