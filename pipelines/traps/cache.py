"""Kubeflow's cache: hits that should not be, and tasks that never have one."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipelines.compiled import Task, found
from pipelines.traps import Problem

CACHEABLE = frozenset({"prepare", "choose"})
"""Functions that only turn inputs into outputs. All others write to MLflow or the registry, or read from them."""

_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_WORKSPACE = "{{$.workspace_path}}"
_OF_THIS_RUN = re.compile(
    r"\{\{\$\.(workspace_path|pipeline_task_uuid|pipeline_job_(name|resource_name|uuid|create_time_utc|schedule_time_utc))\}\}"
)


def mutable_image(task: Task, *, allowed: bool) -> Iterator[Problem]:
    """An image that is not named by its digest."""
    image = task.value(str(task.container.get("image", "")))
    if image is None or _DIGEST.search(str(image)):
        return
    if not allowed:
        yield Problem(
            "mutable-image",
            task.path,
            f"The image {image} is not named by its digest: tomorrow it may be other code, and a retry, the cache and "
            "the lineage would not know.",
            "Name it by its digest, repository/name@sha256:... (LIMNER_IMAGE names it when a pipeline is compiled); or "
            "allow mutable images, and then cache no task.",
        )
    elif task.cached:
        yield Problem(
            "mutable-image-cached",
            task.path,
            f"It may be cached, and Kubeflow's cache knows the image by its name alone, {image}: new code under the "
            "same name is silently given old results.",
            "Name the image by its digest, or task.set_caching_options(enable_caching=False).",
        )


def cached_side_effect(task: Task) -> Iterator[Problem]:
    """A cached task that does more than turn inputs into outputs."""
    if task.cached and task.function not in CACHEABLE:
        yield Problem(
            "cached-side-effect",
            task.path,
            f"It may be cached, and `{task.function}` does something outside the pipeline or asks for it: on a hit "
            "nothing is written to MLflow or the registry, or the answer is an old one.",
            "task.set_caching_options(enable_caching=False). If it only turns inputs into outputs, add it to CACHEABLE "
            "in pipelines/traps/cache.py.",
        )


def cache_key_of_its_own(task: Task) -> Iterator[Problem]:
    """A cached task whose key forgets its inputs and its code."""
    if task.cached and found(task.spec, "cachingOptions").get("cacheKey"):
        yield Problem(
            "own-cache-key",
            task.path,
            "Its cache key replaces inputs, image and command: other inputs or new code are given old results.",
            "task.set_caching_options(enable_caching=True) without cache_key.",
        )


def never_hits_the_cache(task: Task) -> Iterator[Problem]:
    """A cached task with an input that is another in each run."""
    for name in task.inputs if task.cached and task.function in CACHEABLE else ():
        changing = _OF_THIS_RUN.search(str(task.input(name)))
        if changing:
            yield Problem(
                "never-cached",
                task.path,
                f"It may be cached, but its input {name} has {changing[0]}, which is another in each run: it never "
                "hits the cache.",
                "Take the input away, or say so: task.set_caching_options(enable_caching=False).",
            )


def workspace_not_for_training(task: Task) -> Iterator[Problem]:
    """The workspace in the hands of a task that does not train."""
    given = [str(task.input(name)) for name in task.inputs]
    if not task.function.startswith("train") and any(_WORKSPACE in text for text in (task.words, *given)):
        yield Problem(
            "workspace-not-for-training",
            task.path,
            "It is given the workspace, a volume of this run alone, for checkpoints: it can never be cached, and what "
            "it leaves there is lost with the run.",
            "Hand files on as artifacts (dsl.Output), and dsl.WORKSPACE_PATH_PLACEHOLDER to train alone.",
        )
