"""Find the known traps of Kubeflow Pipelines in a compiled pipeline, before a cluster springs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipelines.compiled import Compiled, Task, read_compiled
from pipelines.traps import Problem, cache, control_flow, pods, secret_values

_OF_PIPELINES: tuple[Callable[[Compiled], Iterator[Problem]], ...] = (
    control_flow.if_on_named_output,
    control_flow.loop_over_named_output,
    control_flow.output_in_loop,
    control_flow.input_not_handed_down,
    control_flow.runs_without_exit_handler,
    pods.workspace_without_access,
    secret_values.secret_in_parameter,
)
_OF_PODS: tuple[Callable[[Task], Iterator[Problem]], ...] = (
    cache.cached_side_effect,
    cache.cache_key_of_its_own,
    cache.never_hits_the_cache,
    cache.workspace_not_for_training,
    pods.half_an_accelerator,
    pods.accelerator_without_shared_memory,
    pods.shared_memory_over_limit,
    pods.unbounded_pod,
    pods.no_timeout,
    pods.retries_too_short,
    control_flow.installs_packages,
    control_flow.not_lightweight,
    control_flow.takes_a_dict,
    secret_values.secret_in_environment,
    secret_values.secret_is_required,
)


def lint(text: str, *, origin: str, allow_mutable: bool = False) -> list[Problem]:
    """The traps in the YAML of a compiled pipeline, in the order of its tasks.

    Args:
        text: what kfp's compiler wrote
        origin: the file's name, for the error
        allow_mutable: let images be named by a tag, as long as no task that runs one may be cached

    Raises LimnerError where the text is no compiled pipeline.
    """
    pipeline = read_compiled(text, origin=origin)
    problems = [problem for rule in _OF_PIPELINES for problem in rule(pipeline)]
    for task in pipeline.pods:
        problems += cache.mutable_image(task, allowed=allow_mutable)
        problems += [problem for rule in _OF_PODS for problem in rule(task)]
    order = {task.path: position for position, task in enumerate(pipeline.tasks)}
    return sorted(problems, key=lambda problem: order.get(problem.where, -1))
