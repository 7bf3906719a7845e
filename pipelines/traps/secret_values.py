"""Secrets that everybody can read, or that not every cluster has."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.compiled import Compiled, Task, found
from pipelines.traps import Problem

_SECRET = re.compile(r"(^|[_-])(credentials?|keys?|passwd|password|secret|token)($|[_-])", re.IGNORECASE)


def secret_in_parameter(pipeline: Compiled) -> Iterator[Problem]:
    """A secret as the default of a pipeline parameter; the name of one may stand there."""
    names_of_secrets = {
        task.pipeline_parameter(found(secret, "secretNameParameter"))
        for task in pipeline.pods
        for kind in ("secretAsEnv", "secretAsVolume", "imagePullSecret")
        for secret in task.kubernetes.get(kind, ())
    }
    for name, parameter in pipeline.parameters.items():
        if parameter.get("defaultValue") and _SECRET.search(name) and name not in names_of_secrets:
            yield Problem(
                "secret-in-parameter",
                "the pipeline",
                f"The parameter {name} of the pipeline has a value, and it looks like a secret: everybody who sees the "
                "compiled file or a run can read it.",
                "Leave it out, and hand the secret to the pod: kubernetes.use_secret_as_env(task, ...).",
            )


def secret_in_environment(task: Task) -> Iterator[Problem]:
    """A secret as a plain environment variable."""
    for variable in task.container.get("env", ()):
        name, value = str(variable.get("name", "")), variable.get("value")
        if value and _SECRET.search(name) and task.value(str(value)):
            yield Problem(
                "secret-in-environment",
                task.path,
                f"The compiled pipeline holds the value of the environment variable {name}, which looks like a secret: "
                "everybody who sees the file or a run can read it.",
                f'Take it from a secret of the cluster: kubernetes.use_secret_as_env(task, "...", {{...: "{name}"}}).',
            )


def secret_is_required(task: Task) -> Iterator[Problem]:
    """A pod that needs a secret which not every cluster has."""
    for secret in task.kubernetes.get("secretAsEnv", ()):
        if not secret.get("optional"):
            name = task.given(found(secret, "secretNameParameter")) or secret.get("secretName") or "a secret"
            yield Problem(
                "secret-is-required",
                task.path,
                f"Its pod cannot start where {name} does not exist, as on a cluster whose pods get their rights from "
                "a service account (IRSA).",
                "kubernetes.use_secret_as_env(task, ..., optional=True).",
            )
