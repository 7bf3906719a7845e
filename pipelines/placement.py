"""Where the tasks of a pipeline run on a cluster, and how often: image, resources, secrets, time, retries, cache.

What differs from run to run is a parameter of the pipeline (`Where`); what Kubeflow cannot take as one is decided when
the pipeline is compiled (`Placement`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from kfp import dsl, kubernetes

from components.image import IMAGE
from limner.errors import LimnerError, suggest

S3_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "MLFLOW_S3_ENDPOINT_URL",
)
MLFLOW_KEYS = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_EXPERIMENT_NAME",
)
"""Keys of the two secrets, each of which becomes an environment variable of the same name. None has to be there."""


@dataclass(frozen=True)
class Placement:
    """What is decided when a pipeline is compiled."""

    image: str = IMAGE
    shared_memory: str = "2Gi"
    """Of steps with GPUs, whose processes talk through it; it counts as memory of the pod."""
    train_hours: int = 72
    """After which an attempt to train is ended; the next one goes on from its last checkpoint."""
    step_hours: int = 6
    """The same for every other step."""
    train_retries: int = 10
    retries: int = 3
    wait: str = "2m"
    """Before each retry: always as long, so that a mistake is told of within the half hour."""
    workspace: str = "20Gi"
    """Size of the volume that holds a training's checkpoints for as long as the run lives."""
    workspace_access: str = "ReadWriteOnce"
    storage_class: str = ""
    """Empty: the cluster's default."""
    parallel: int = 4
    """Trials of a sweep, or parts of a batch, that run at one time."""

    @property
    def cached(self) -> bool:
        """Whether Kubeflow's cache may be used, which knows an image by its name alone."""
        return is_digest(self.image)

    def config(self) -> dsl.PipelineConfig:
        """Of a pipeline whose training keeps its checkpoints on a volume: a failed step leaves no other output behind.

        Without an access mode Kubeflow refuses the run, unless its administrator has set one.
        """
        claim: dict[str, Any] = {"accessModes": [self.workspace_access]}
        if self.storage_class:
            claim["storageClassName"] = self.storage_class
        on_kubernetes = dsl.KubernetesWorkspaceConfig(pvcSpecPatch=claim)
        return dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size=self.workspace, kubernetes=on_kubernetes))


FORMS = {
    "wait": "[0-9]+[smh]",
    "workspace_access": "ReadWriteOnce|ReadWriteMany|ReadWriteOncePod",
    "shared_memory": "[0-9]+(Mi|Gi)",
    "workspace": "[0-9]+(Mi|Gi|Ti)",
}
"""What these are written like."""


def read_placement(image: str, words: Iterable[str]) -> Placement:
    """What words of the form NAME=VALUE say of a placement. Raises LimnerError for others."""
    known = {name: value for name, value in asdict(Placement()).items() if name != "image"}
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not equals or name not in known:
            raise LimnerError(f"--placement {word!r} names nothing that can be placed.", fix=suggest(name, known))
        least = 0 if name in ("retries", "train_retries") else 1
        if isinstance(known[name], int) and not (text.isascii() and text.isdigit() and int(text) >= least):
            raise LimnerError(f"--placement {word!r}: {name} has to be a whole number, {least} or more.")
        if name in FORMS and not re.fullmatch(FORMS[name], text):
            raise LimnerError(f"--placement {word!r}: {name} has to be {FORMS[name].replace('|', ' or ')}.")
        values[name] = type(known[name])(text)
    return Placement(image, **values)


def is_digest(image: str) -> bool:
    """Whether an image is named so that it cannot become another one."""
    return re.search("@sha256:[0-9a-f]{64}$", image) is not None


@dataclass(frozen=True)
class Where:
    """Parameters of a run that say what its tasks may use: constants, or kfp's channels."""

    cpu: Any
    memory: Any
    gpus: Any
    evaluation_gpus: Any
    node_selector: Any
    tolerations: Any
    s3_secret: Any
    mlflow_secret: Any

    def words(self, gpus: Any) -> str:
        """What a heavy task may use, to be given to the task itself.

        kfp 2.17 does not hand a parameter on into an exit handler, a branch or a loop where it is used for resources
        only: the compiled task then refers to an input that is not there, and fails on a cluster as well as here.
        """
        return f"{self.cpu} CPUs, {self.memory} of memory and {gpus} GPUs"


def place(task: dsl.PipelineTask, placement: Placement, where: Where, *, cached: bool = False) -> dsl.PipelineTask:
    """A task that needs a processor and some memory. `cached`: it has no side effect, so Kubeflow may skip it."""
    task.set_cpu_request("1").set_cpu_limit("4").set_memory_request("2Gi").set_memory_limit("8Gi")
    return _place(task, placement, where, cached=cached, hours=placement.step_hours, retries=placement.retries)


def place_watch(task: dsl.PipelineTask, placement: Placement, where: Where) -> dsl.PipelineTask:
    """A task that needs little itself, and waits for a training elsewhere."""
    task.set_cpu_request("1").set_cpu_limit("4").set_memory_request("2Gi").set_memory_limit("8Gi")
    hours, retries = placement.train_hours, placement.train_retries
    return _place(task, placement, where, cached=False, hours=hours, retries=retries)


def place_heavy(task: dsl.PipelineTask, placement: Placement, where: Where, *, gpus: Any) -> dsl.PipelineTask:
    """A task that computes, perhaps on GPUs: one that trains where `gpus` are those of the training."""
    trains = gpus is where.gpus
    task.set_cpu_request(where.cpu).set_cpu_limit(where.cpu)
    task.set_memory_request(where.memory).set_memory_limit(where.memory)
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
    kubernetes.empty_dir_mount(
        task,
        volume_name="shared-memory",
        mount_path="/dev/shm",  # noqa: S108 - it is no file
        medium="Memory",
        size_limit=placement.shared_memory,
    )
    kubernetes.add_node_selector_json(task, where.node_selector)
    kubernetes.add_toleration_json(task, where.tolerations)
    hours, retries = (
        (placement.train_hours, placement.train_retries) if trains else (placement.step_hours, placement.retries)
    )
    return _place(task, placement, where, cached=False, hours=hours, retries=retries)


def _place(
    task: dsl.PipelineTask, placement: Placement, where: Where, *, cached: bool, hours: int, retries: int
) -> dsl.PipelineTask:
    task.set_container_image(placement.image)
    task.set_env_variable("LIMNER_IMAGE", placement.image)  # for the lineage: an image cannot hold its own digest
    task.set_caching_options(enable_caching=cached and placement.cached)
    # Without a longest duration Kubeflow retries within the first hour only.
    task.set_retry(
        num_retries=retries,
        backoff_duration=placement.wait,
        backoff_factor=1,
        backoff_max_duration=f"{hours * (retries + 2)}h",
    )
    kubernetes.set_timeout(task, hours * 3600)  # of one attempt
    for secret, keys in ((where.s3_secret, S3_KEYS), (where.mlflow_secret, MLFLOW_KEYS)):
        kubernetes.use_secret_as_env(task, secret, {key: key for key in keys}, optional=True)
    return task
