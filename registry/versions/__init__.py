"""Versions of registered models: their files, their code, MLflow. The only home of mlflow."""
