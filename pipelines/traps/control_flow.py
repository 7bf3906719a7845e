"""Branches, loops and containers: what would not run, and the tests would not see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.compiled import Compiled, Task, found
from pipelines.traps import Problem

TRACKED = frozenset({"train", "evaluate", "export", "promote"})
"""Functions that open a run in MLflow."""

_UNNAMED = "Output"


def if_on_named_output(pipeline: Compiled) -> Iterator[Problem]:
    """A branch that the local runner never takes."""
    for task in pipeline.tasks:
        condition = str(found(task.spec, "triggerPolicy").get("condition", ""))
        for name in dict.fromkeys(re.findall(r"inputs\.parameter_values\['([^']+)'\]", condition)):
            output = _named_output(task, name)
            if output:
                yield Problem(
                    "if-on-named-output",
                    task.path,
                    f"Whether it is run hangs on {output}. Kubeflow's local runner reads a named output in few "
                    "conditions only; in the others it skips the branch, whatever the value, and reports success.",
                    "Let the task that decides return one unnamed value, and test that: dsl.If(gate.output == ...).",
                )


def loop_over_named_output(pipeline: Compiled) -> Iterator[Problem]:
    """A loop that the local runner cannot start."""
    for task in pipeline.tasks:
        name = found(task.spec, "parameterIterator", "items").get("inputParameter")
        output = _named_output(task, name) if name else None
        if output:
            yield Problem(
                "loop-over-named-output",
                task.path,
                f"It loops over {output}. Kubeflow's local runner finds a named output in few places only, and fails "
                "in the others.",
                "Let the task that lists return one unnamed list, and loop over that: dsl.ParallelFor(task.output).",
            )


def output_in_loop(pipeline: Compiled) -> Iterator[Problem]:
    """A value that the local runner replaces by the loop's item."""
    for task in pipeline.tasks:
        items = found(task.spec, "parameterIterator", "items")
        for name, source in task.inputs.items() if items else ():
            if "taskOutputParameter" in source and name != items.get("inputParameter"):
                output = _as_written(found(source, "taskOutputParameter"))
                yield Problem(
                    "output-in-loop",
                    task.path,
                    f"A task in this loop takes {output}, a value from outside. Kubeflow's local runner hands it the "
                    "loop's item in its place, without a word, and a cluster the value.",
                    "Put the loop into a @dsl.pipeline of its own that takes the value as a parameter, or hand on an "
                    "artifact.",
                )


def _named_output(task: Task, name: str) -> str | None:
    """The output that an input comes from through the groups round the task, where it is a named one."""
    source = found(task.inputs, name)
    for group in list(task.ancestors())[1:]:
        # A group hands on what is outside it under a prefixed name; a pipeline within has parameters of its own.
        inherited = str(source.get("componentInputParameter", ""))
        if not inherited.startswith("pipelinechannel--"):
            break
        source = found(group.inputs, inherited)
    output = found(source, "taskOutputParameter")
    return _as_written(output) if output.get("outputParameterKey", _UNNAMED) != _UNNAMED else None


def _as_written(output: Mapping[str, str]) -> str:
    key = output["outputParameterKey"]
    return f"{output['producerTask']}.output" if key == _UNNAMED else f'{output["producerTask"]}.outputs["{key}"]'


def input_not_handed_down(pipeline: Compiled) -> Iterator[Problem]:
    """A parameter that a group does not hand on to its tasks."""
    for task in pipeline.tasks:
        handed = found(task.parent.component, "inputDefinitions", "parameters") if task.parent else {}
        for name in sorted({*_taken(task.inputs), *_taken(task.kubernetes)} - set(handed)):
            yield Problem(
                "input-not-handed-down",
                task.path,
                f"It takes {name.removeprefix('pipelinechannel--')} from the loop, branch or exit handler round it, "
                "which does not have it: kfp's compiler overlooks a parameter that only names resources or an image. A "
                'cluster stops there: "parent DAG does not have input parameter".',
                "Give the component an input, too, and the parameter with it: task(..., memory=memory).",
            )


def _taken(document: Any) -> Iterator[str]:
    """The names of the group's parameters that a part of a task refers to."""
    if isinstance(document, Mapping):
        if "componentInputParameter" in document:
            yield str(document["componentInputParameter"])
        for part in document.values():
            yield from _taken(part)
    elif isinstance(document, list):
        for part in document:
            yield from _taken(part)


def runs_without_exit_handler(pipeline: Compiled) -> Iterator[Problem]:
    """A task whose MLflow run nobody would close."""
    for task in pipeline.pods:
        if task.function in TRACKED and not any(pipeline.has_exit_task(group) for group in task.ancestors()):
            yield Problem(
                "no-exit-handler",
                task.path,
                "It opens a run in MLflow and no exit handler is round it: when its pod is killed, or the pipeline is "
                "stopped, the run stays RUNNING for ever.",
                "Put it under `with dsl.ExitHandler(close_runs(...))`.",
            )


def installs_packages(task: Task) -> Iterator[Problem]:
    """A container that needs a package registry to start."""
    if re.search(r"\bpip3? install\b", task.words):
        yield Problem(
            "pip-install",
            task.path,
            "It installs packages when its pod starts: slow, never twice the same, and impossible without a network.",
            "Put all it needs into the image: @dsl.component(base_image=..., install_kfp_package=False, "
            "packages_to_install=[]).",
        )


def not_lightweight(task: Task) -> Iterator[Problem]:
    """A component that only the cluster, or Docker, can run."""
    if "kfp.dsl.executor_main" not in task.words or task.container.get("command", ())[:1] == ["python3"]:
        yield Problem(
            "not-lightweight",
            task.path,
            "It is a container component, or built with target_image: Kubeflow's local runner refuses it without "
            "Docker, so no test can run the pipeline.",
            "Write it as @dsl.component(base_image=...) whose body calls the step.",
        )


def takes_a_dict(task: Task) -> Iterator[Problem]:
    """A dict that arrives changed."""
    for name, parameter in found(task.component, "inputDefinitions", "parameters").items():
        if parameter.get("parameterType") == "STRUCT":
            yield Problem(
                "takes-a-dict",
                task.path,
                f"Its input {name} is a dict, and Kubeflow turns whole numbers in it into floats: 1 arrives as 1.0.",
                "Declare it as str, and hand over JSON: json.dumps(...) outside, json.loads(...) in the component.",
            )
