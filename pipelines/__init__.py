"""Kubeflow pipelines: how the components hang together. `python -m pipelines --help` says what they can do."""
