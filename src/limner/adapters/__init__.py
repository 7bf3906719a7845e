"""The only files that import mlflow or boto3."""
