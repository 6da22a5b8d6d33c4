"""What a history and a forecast are. It travels with every version: no mlflow, no torch, no training."""
