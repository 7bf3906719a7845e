"""The one container image that all steps use."""

import os

# kfp's local runner trusts an image with `python` in its name. On a cluster name the image by its digest
# (repository/limner-python@sha256:...): Kubeflow's cache knows an image by its name alone.
IMAGE = os.environ.get("LIMNER_IMAGE", "limner-python:0.1.0")
