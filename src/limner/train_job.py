"""The manifest of a Kubeflow TrainJob: one model's training on many nodes. A pure function, and only stable fields.

The fields are those that all of `trainer.kubeflow.org/v1alpha1` has had: what came and went between its releases, such
as `podTemplateOverrides` and `runtimePatches`, is left to the training runtime that the job names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from limner.errors import LimnerError

API_GROUP, API_VERSION, PLURAL, KIND = "trainer.kubeflow.org", "v1alpha1", "trainjobs", "TrainJob"
SETTINGS, KUBEFLOW_RUN = "LIMNER_SETTINGS", "KFP_RUN_ID"
"""Environment variables of the nodes: the settings as one JSON string, and the pipeline run for the lineage."""
ATTEMPT = "limner/kubeflow-run"
"""Annotation: the pipeline run that the job was submitted for."""
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL")
MLFLOW_KEYS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_EXPERIMENT_NAME",
)
MAX_SLUG = 24
"""Of a model's name in the job's: a node's pod is called `<job>-node-0-<index>-<5 letters>`, in 63 letters."""


@dataclass(frozen=True)
class Nodes:
    """What a training on many nodes may use. Quantities are Kubernetes' own: "4", "16Gi"."""

    image: str
    count: int
    processes: int
    """On each node, one for each of its GPUs."""
    cpu: str
    memory: str
    gpus: str
    """On each node; "0" for none."""
    place: str
    """s3://bucket/prefix that this process and all nodes can read and write: data, checkpoints, the trained model."""
    s3_secret: str = "limner-s3"  # noqa: S105 - a name
    mlflow_secret: str = "limner-mlflow"  # noqa: S105
    runtime: str = "torch-distributed"
    """A ClusterTrainingRuntime of the cluster."""


def job_key(settings: str, *, dataset: str, version: str) -> str:
    """Names a training by its settings as JSON, its dataset's digest and the code's version: 12 hex digits."""
    return hashlib.sha256("\n".join((settings, dataset, version)).encode()).hexdigest()[:12]


def job_name(model: str, key: str) -> str:
    """A DNS label (RFC 1035) that begins with a letter, the same for the same training."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:MAX_SLUG].strip("-")
    return "-".join(part for part in ("limner", slug, key) if part)


def train_job(
    settings: str, *, model: str, key: str, dataset: str, nodes: Nodes, kubeflow_run: str = ""
) -> dict[str, Any]:
    """The TrainJob that trains `model`, of `settings` as one JSON string, on the packed dataset of digest `dataset`.

    Every node runs torchrun, which Trainer tells by PET_* variables who the others are. Raises LimnerError where the
    nodes are described wrongly.
    """
    _refuse_impossible(nodes)
    resources = {"cpu": nodes.cpu, "memory": nodes.memory}
    if nodes.gpus != "0":
        resources["nvidia.com/gpu"] = nodes.gpus
    words = ["--place", nodes.place, "--key", key, "--dataset", dataset]
    plain = {SETTINGS: settings, KUBEFLOW_RUN: kubeflow_run, "LIMNER_IMAGE": nodes.image}
    label = re.sub(r"[^A-Za-z0-9._-]+", "-", model)[:63].strip("-_.")
    return {
        "apiVersion": f"{API_GROUP}/{API_VERSION}",
        "kind": KIND,
        "metadata": {
            "name": job_name(model, key),
            "labels": {"app.kubernetes.io/part-of": "limner", "limner/model": label, "limner/key": key},
            "annotations": {ATTEMPT: kubeflow_run},
        },
        "spec": {
            "runtimeRef": {"apiGroup": API_GROUP, "kind": "ClusterTrainingRuntime", "name": nodes.runtime},
            "trainer": {
                "image": nodes.image,
                "command": ["torchrun", "-m", "limner", "train-node"],
                "args": [_literal(word) for word in (model, *words)],
                "env": [
                    *({"name": name, "value": _literal(value)} for name, value in plain.items()),
                    *_from_secret(nodes.s3_secret, {key: key for key in S3_KEYS}),
                    *_from_secret(nodes.s3_secret, {"MLFLOW_S3_ENDPOINT_URL": "AWS_ENDPOINT_URL"}),
                    *_from_secret(nodes.mlflow_secret, {key: key for key in MLFLOW_KEYS}),
                ],
                "numNodes": nodes.count,
                "numProcPerNode": nodes.processes,
                "resourcesPerNode": {"requests": dict(resources), "limits": dict(resources)},
            },
        },
    }


def _refuse_impossible(nodes: Nodes) -> None:
    if not nodes.image:
        raise LimnerError("The nodes have no image.", fix="Name ours by its digest: LIMNER_IMAGE=repository@sha256:...")
    if not nodes.place.startswith("s3://"):
        raise LimnerError(
            f"Training on many nodes needs a place that all of them reach; {nodes.place!r} is none.",
            why="Data, checkpoints and the trained model travel through it.",
            fix="Name a bucket and a prefix: s3://BUCKET/PREFIX",
        )
    for what, number in (("nodes", nodes.count), ("processes on a node", nodes.processes)):
        if number < 1:
            raise LimnerError(f"There have to be {what}; {number} is too few.", fix="Ask for 1 or more.")
    if nodes.gpus.isdigit() and 0 < int(nodes.gpus) < nodes.processes:
        raise LimnerError(
            f"{nodes.processes} processes on a node do not share {nodes.gpus} GPUs.",
            why="Each process takes one for itself.",
            fix="Ask for as many GPUs as processes, or for none.",
        )


def _from_secret(secret: str, keys: Mapping[str, str]) -> list[dict[str, Any]]:
    """Environment variables out of a secret. None has to be there: some clusters give pods a role instead."""
    return [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": True}}}
        for name, key in keys.items()
    ]


def _literal(text: str) -> str:
    """Text as Kubernetes leaves it: it would replace $(NAME) in arguments and values, and read $$ as $."""
    return text.replace("$", "$$")
