"""A compiled pipeline as its tasks: what Kubeflow would run, and the pod that each task would get."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml  # kfp writes with it, in YAML 1.1

from limner.errors import LimnerError

Json = Any  # whatever a YAML or JSON document can hold

_FROM_INPUT = re.compile(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}")
_BYTES = {"": 1, **{unit: 1000**power for power, unit in enumerate("KMGTPE", start=1)}}
_BYTES |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGTPE", start=1)}


@dataclass(frozen=True)
class Task:
    """A task of the pipeline: a container, or a group of tasks (a loop, a condition, an exit handler's body).

    `path` names it from the top, as in `exit-handler-1/train`. `container` is empty for a group and for an importer;
    `kubernetes` is what `kfp.kubernetes` functions asked for. The whole pipeline is the task without a parent.
    """

    path: str
    spec: Mapping[str, Json]
    component: Mapping[str, Json]
    container: Mapping[str, Json]
    kubernetes: Mapping[str, Json]
    parent: Task | None

    @property
    def name(self) -> str:
        """Its name among its neighbours."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def function(self) -> str:
        """The Python function that it runs; of a container component the task's name without a trailing number."""
        words = list(self.container.get("args", ()))
        if "--function_to_execute" in words[:-1]:
            return str(words[words.index("--function_to_execute") + 1])
        return re.sub(r"-\d+$", "", self.name).replace("-", "_")

    @property
    def inputs(self) -> Mapping[str, Json]:
        """Where its input parameters come from."""
        return found(self.spec, "inputs", "parameters")

    @property
    def cached(self) -> bool:
        """Whether Kubeflow may take the outputs of an earlier run for it."""
        return bool(found(self.spec, "cachingOptions").get("enableCache"))

    @property
    def timeout(self) -> float | None:
        """Seconds after which an attempt is ended, if ever."""
        seconds = self.kubernetes.get("activeDeadlineSeconds")
        return None if seconds is None else float(seconds)

    @property
    def resources(self) -> Mapping[str, Json]:
        """What its container asks for."""
        return found(self.container, "resources")

    @property
    def words(self) -> str:
        """The command line of its container."""
        return " ".join(map(str, (*self.container.get("command", ()), *self.container.get("args", ()))))

    def value(self, text: str) -> Json | None:
        """What a text of the container stands for, given the parameters' defaults; None where only a run knows."""
        reference = _FROM_INPUT.fullmatch(text)
        return self.input(reference[1]) if reference else text

    def input(self, name: str) -> Json | None:
        """The value of an input parameter, given the pipeline's defaults; None where only a run knows."""
        return self.given(self.inputs.get(name, {}), default=found(self._parameters, name).get("defaultValue"))

    def given(self, source: Mapping[str, Json], *, default: Json | None = None) -> Json | None:
        """The value that an input parameter's source gives, as `input`."""
        if "runtimeValue" in source:
            return source["runtimeValue"].get("constant")
        if "componentInputParameter" not in source:
            return None if source else default
        return self.parent.input(source["componentInputParameter"]) if self.parent else None

    def pipeline_parameter(self, source: Mapping[str, Json]) -> str | None:
        """The pipeline's own parameter that an input parameter's source hands down, if it does."""
        if "componentInputParameter" not in source or self.parent is None:
            return None
        key = str(source["componentInputParameter"])
        return self.parent.pipeline_parameter(self.parent.inputs.get(key, {})) if self.parent.parent else key

    def ancestors(self) -> Iterator[Task]:
        """Itself and the groups round it, the innermost first; without the whole pipeline."""
        task: Task | None = self
        while task is not None and task.parent is not None:
            yield task
            task = task.parent

    @property
    def _parameters(self) -> Mapping[str, Json]:
        return found(self.component, "inputDefinitions", "parameters")


@dataclass(frozen=True)
class Compiled:
    """A compiled pipeline."""

    whole: Task
    tasks: tuple[Task, ...]
    workspace: Mapping[str, Json]
    """What is asked of Kubernetes for the workspace; empty where there is none."""

    @property
    def pods(self) -> tuple[Task, ...]:
        """The tasks that run a container."""
        return tuple(task for task in self.tasks if task.container)

    @property
    def parameters(self) -> Mapping[str, Json]:
        """The pipeline's own parameters."""
        return found(self.whole.component, "inputDefinitions", "parameters")

    def has_exit_task(self, group: Task) -> bool:
        """Whether a task follows the group however it ends, and is told how."""
        neighbours = (task for task in self.tasks if task.parent is group.parent)
        statuses = (source.get("taskFinalStatus", {}) for task in neighbours for source in task.inputs.values())
        return any(status.get("producerTask") == group.name for status in statuses)


def read_compiled(text: str, *, origin: str) -> Compiled:
    """The pipeline in the YAML that kfp's compiler writes. Raises LimnerError for any other text."""
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        documents = [document for document in yaml.load_all(text, Loader=loader) if isinstance(document, dict)]
    except yaml.YAMLError as error:
        raise LimnerError(f"{origin} is not valid YAML.", why=str(error)) from error
    specification = next((document for document in documents if "pipelineInfo" in document), None)
    if specification is None or "dag" not in specification.get("root", {}):
        raise LimnerError(
            f"{origin} is not a compiled pipeline.",
            why="It has no document with `pipelineInfo` and `root`.",
            fix="Compile one: python -m pipelines compile",
        )
    platform: Mapping[str, Json] = next((document for document in documents if "platforms" in document), {})
    reader = _Reader(
        components=found(specification, "components"),
        executors=found(specification, "deploymentSpec", "executors"),
        pods=found(platform, "platforms", "kubernetes", "deploymentSpec", "executors"),
    )
    whole = Task("", {}, specification["root"], {}, {}, None)
    workspace = found(platform, "platforms", "kubernetes", "pipelineConfig", "workspace")
    return Compiled(whole, tuple(reader.below(whole)), workspace)


@dataclass(frozen=True)
class _Reader:
    components: Mapping[str, Json]
    executors: Mapping[str, Json]
    pods: Mapping[str, Json]

    def below(self, group: Task) -> Iterator[Task]:
        for name, spec in found(group.component, "dag", "tasks").items():
            component = found(self.components, found(spec, "componentRef").get("name"))
            label = component.get("executorLabel")
            task = Task(
                f"{group.path}/{name}".lstrip("/"),
                spec,
                component,
                found(self.executors, label, "container"),
                found(self.pods, label),
                group,
            )
            yield task
            yield from self.below(task)


def found(document: Mapping[str, Json], *keys: str | None) -> Mapping[str, Json]:
    """The map at the end of a path of keys; an empty one where the path ends early."""
    node: Json = document
    for key in keys:
        node = node.get(key) if isinstance(node, Mapping) else None
    return node if isinstance(node, Mapping) else {}


def bytes_of(quantity: Json) -> float | None:
    """A Kubernetes quantity such as 8Gi, in bytes; None where it is not one."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([KMGTPE]i?|)", str(quantity))
    return float(parts[1]) * _BYTES[parts[2]] if parts else None


def seconds_of(duration: Json) -> float | None:
    """A duration such as 3600s, in seconds; None where it is not one."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)s", str(duration))
    return float(parts[1]) if parts else None
