"""Versions of registered models: files, code, MLflow. Only this package imports mlflow."""
