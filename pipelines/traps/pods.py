"""What a pod asks for: accelerators, memory, time, and another attempt."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.compiled import Compiled, Task, bytes_of, found, seconds_of
from pipelines.traps import Problem

_DEFAULT_RETRY_WINDOW = 3600.0
_LONG = 4 * 3600.0
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - Linux's own name for it


def workspace_without_access(pipeline: Compiled) -> Iterator[Problem]:
    """A workspace that only some clusters make."""
    if pipeline.workspace and not found(pipeline.workspace, "kubernetes", "pvcSpecPatch").get("accessModes"):
        yield Problem(
            "workspace-without-access",
            "",
            "Its workspace names no access mode: unless the cluster's administrator has set one, Kubeflow refuses the "
            'run with "workspace PVC spec must specify accessModes".',
            "dsl.WorkspaceConfig(size=..., kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch="
            '{"accessModes": ["ReadWriteOnce"]})).',
        )


def half_an_accelerator(task: Task) -> Iterator[Problem]:
    """A kind of accelerator without a number, or a number without a kind that a cluster knows."""
    asked = found(task.resources, "accelerator")
    if not asked or not _asks_for_accelerators(task):
        return
    many = asked.get("resourceCount") or asked.get("count")
    kind = task.value(str(asked.get("resourceType") or asked.get("type") or ""))
    if kind == "":
        problem = f"It asks for {many} accelerators and does not say which: Kubeflow gives it none, without a word."
    elif not many:
        problem = f"It asks for {kind} and does not say how many: Kubeflow gives it none, without a word."
    elif kind is not None and "/" not in kind:
        problem = f"It asks for {kind}, which is no resource that Kubernetes knows: its pod stays pending."
    else:
        return
    yield Problem(
        "half-an-accelerator",
        task.path,
        problem,
        'Call both: task.set_accelerator_type("nvidia.com/gpu") and task.set_accelerator_limit(1).',
    )


def accelerator_without_shared_memory(task: Task) -> Iterator[Problem]:
    """A task on GPUs that cannot use several processes."""
    if _asks_for_accelerators(task) and not list(_shared_memory(task)):
        yield Problem(
            "no-shared-memory",
            task.path,
            "It asks for GPUs and has no more than the 64 MiB of /dev/shm that any container has: processes that talk "
            "through it, of torchrun or a data loader, die with a bus error.",
            'kubernetes.empty_dir_mount(task, volume_name="shared-memory", '
            f'mount_path="{_SHARED_MEMORY}", medium="Memory", size_limit="2Gi").',
        )


def shared_memory_over_limit(task: Task) -> Iterator[Problem]:
    """Shared memory that the pod would be killed for using."""
    limit = task.value(str(task.resources.get("resourceMemoryLimit") or ""))
    for size in _shared_memory(task):
        here, all_of_it = bytes_of(size), bytes_of(limit)
        if here is not None and all_of_it is not None and here >= all_of_it:
            yield Problem(
                "shared-memory-over-limit",
                task.path,
                f"{_SHARED_MEMORY} may grow to {size} and counts as memory of the pod, which may use {limit}: a "
                "process that fills it is killed as out of memory.",
                "Make size_limit of the mount smaller, or task.set_memory_limit larger.",
            )


def unbounded_pod(task: Task) -> Iterator[Problem]:
    """A pod that does not say what it needs."""
    asked = task.resources
    missing = [] if asked.get("resourceCpuRequest") or asked.get("resourceCpuLimit") else ["set_cpu_request"]
    missing += [] if asked.get("resourceMemoryLimit") else ["set_memory_limit"]
    if missing:
        yield Problem(
            "no-resources",
            task.path,
            "It does not say what processor and memory it needs: its pod is put anywhere, is the first to be evicted, "
            "and can starve its neighbours.",
            f"Call {' and '.join(f'task.{name}(...)' for name in missing)}.",
        )


def no_timeout(task: Task) -> Iterator[Problem]:
    """A task that may hang for ever."""
    if not task.timeout:
        yield Problem(
            "no-timeout",
            task.path,
            "It has no timeout: a pod that hangs keeps its GPU, and the pipeline, for ever.",
            "kubernetes.set_timeout(task, seconds), which counts for each attempt.",
        )


def retries_too_short(task: Task) -> Iterator[Problem]:
    """A long task without a retry, or retries that end before they are needed."""
    policy = found(task.spec, "retryPolicy")
    window = seconds_of(policy.get("backoffMaxDuration"))
    if not policy.get("maxRetryCount"):
        if task.function.startswith("train") or _asks_for_accelerators(task) or (task.timeout or 0) >= _LONG:
            yield Problem(
                "no-retry",
                task.path,
                "It runs long and is not retried: a node that is taken away costs the whole run.",
                'task.set_retry(num_retries=3, backoff_duration="60s", backoff_max_duration="72h").',
            )
    elif window == _DEFAULT_RETRY_WINDOW:
        yield Problem(
            "short-retry-window",
            task.path,
            "It is retried only within an hour of its first start (backoffMaxDuration is 3600s, kfp's default): what "
            "fails later fails the pipeline at once.",
            "Pass backoff_max_duration to task.set_retry: all attempts together must fit, as in "
            '(num_retries + 1) * timeout; not "3600s", which cannot be told from the default.',
        )
    elif window is not None and task.timeout and window < task.timeout:
        yield Problem(
            "short-retry-window",
            task.path,
            f"It may run for {task.timeout:.0f} s and is retried only within {window:.0f} s of its first start: what "
            "fails later fails the pipeline at once.",
            "Pass a longer backoff_max_duration to task.set_retry: (num_retries + 1) * timeout.",
        )


def _asks_for_accelerators(task: Task) -> bool:
    """Whether the task may get any: a number that a run decides counts, whatever its default."""
    asked = found(task.resources, "accelerator")
    return bool(asked) and str(asked.get("resourceCount") or asked.get("count")) != "0"


def _shared_memory(task: Task) -> Iterator[str]:
    """The size limits of what is mounted as /dev/shm in memory."""
    for mount in task.kubernetes.get("emptyDirMounts", ()):
        if mount.get("mountPath") == _SHARED_MEMORY and mount.get("medium") == "Memory":
            yield str(mount.get("sizeLimit", ""))
