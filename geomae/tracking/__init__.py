"""MLflow, and nothing else knows MLflow: runs, their data sets and artifacts, and the model registry."""
