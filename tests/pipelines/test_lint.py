"""Each known trap is planted in a real pipeline, compiled by kfp, and found; without it the pipeline is clean."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from kfp import dsl, kubernetes, local
from kfp.compiler import Compiler

from limner.errors import LimnerError
from pipelines.lint import lint
from pipelines.traps import Problem

IMAGE = f"example.org/limner-python@sha256:{'0123456789abcdef' * 4}"
HOUR = 3600
WORKSPACE = dsl.WorkspaceConfig(
    size="1Gi", kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteOnce"]})
)


def component(function: Callable[..., Any], **options: Any) -> Any:
    return dsl.component(function, **{"base_image": IMAGE, "install_kfp_package": False, **options})


@component
def prepare(settings: str, dataset: dsl.Output[dsl.Dataset]) -> None: ...


@component
def train(
    settings: str, scratch: str, resources: str, dataset: dsl.Input[dsl.Dataset], trained: dsl.Output[dsl.Model]
) -> str:
    return ""


@component
def evaluate(settings: str, run: str, trained: dsl.Input[dsl.Model], metrics: dsl.Output[dsl.Metrics]) -> float:
    return 0.0


@component
def gate(fid: float, decision: dsl.Output[dsl.Markdown]) -> str:
    return "promote"


@component
def promote(settings: str) -> None: ...


@component
def trials(settings: str) -> list[str]:
    return []


@component
def choose(fids: list[float]) -> float:
    return min(fids)


@component
def close_runs(run: str, status: dsl.PipelineTaskFinalStatus) -> None: ...


@component
def judge_by_name(fid: float) -> NamedTuple("Verdict", [("fid", float), ("passed", bool)]):  # type: ignore[valid-type]
    return (fid, True)


@component
def list_by_name() -> NamedTuple("Found", [("shards", list[str]), ("count", int)]):  # type: ignore[valid-type]
    return ([], 0)


@component
def do_nothing(settings: str) -> None: ...


@component
def configure(settings: dict) -> None: ...  # type: ignore[type-arg]


@dsl.container_component
def contained(settings: str) -> dsl.ContainerSpec:
    return dsl.ContainerSpec(image=IMAGE, command=["limner"], args=["config", "show", settings])


Change = Callable[[dsl.PipelineTask], object]


def settled(task: dsl.PipelineTask, *, secret: Any = "limner-mlflow", cached: bool = False) -> dsl.PipelineTask:
    """A task as it should be."""
    task.set_caching_options(enable_caching=cached)
    task.set_cpu_request("1").set_memory_request("2Gi").set_memory_limit("8Gi")
    task.set_retry(num_retries=3, backoff_duration="60s", backoff_max_duration="96h")
    task.set_env_variable("LIMNER_IMAGE", IMAGE)
    kubernetes.set_timeout(task, 24 * HOUR)
    kubernetes.use_secret_as_env(task, secret, {"token": "MLFLOW_TRACKING_TOKEN"}, optional=True)
    return task


def on_gpus(task: dsl.PipelineTask, gpus: Any) -> dsl.PipelineTask:
    task.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)
    return kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit="2Gi")


def whole(plant: Change | None = None, *, at: str = "") -> Any:
    """A pipeline with everything that ours have: loops, branches, an exit handler, GPUs, a cache, run parameters."""

    def done(task: dsl.PipelineTask) -> dsl.PipelineTask:
        if plant is not None and task.name == at:
            plant(task)
        return task

    @dsl.pipeline(name="whole", pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE))
    def pipeline(settings: str, gpus: int = 0, memory: str = "16Gi", mlflow_secret: str = "limner-mlflow") -> None:
        closed = settled(close_runs(run=dsl.PIPELINE_JOB_ID_PLACEHOLDER), secret=mlflow_secret)
        done(closed)
        with dsl.ExitHandler(closed, name="steps"):
            prepared = done(settled(prepare(settings=settings), cached=True))
            listed = done(settled(trials(settings=settings)))
            with dsl.ParallelFor(listed.output, parallelism=2) as trial:
                trained = train(
                    settings=trial,
                    scratch=dsl.WORKSPACE_PATH_PLACEHOLDER,
                    resources=f"{gpus} {memory}",
                    dataset=prepared.outputs["dataset"],
                )
                done(on_gpus(settled(trained, secret=mlflow_secret), gpus).set_memory_limit(memory))
                evaluated = evaluate(settings=trial, run=trained.outputs["Output"], trained=trained.outputs["trained"])
                done(settled(evaluated))
            best = done(settled(choose(fids=dsl.Collected(evaluated.outputs["Output"])), cached=True))
            verdict = done(settled(gate(fid=best.output)))
            with dsl.If(verdict.outputs["Output"] == "promote"):
                done(settled(promote(settings=settings), secret=mlflow_secret))
            with dsl.Elif(verdict.outputs["Output"] == "hold"):
                done(settled(gate(fid=0.0)))

    return pipeline


def compiled(pipeline: Any, folder: Path) -> str:
    file = folder / "pipeline.yaml"
    Compiler().compile(pipeline, str(file))
    return file.read_text(encoding="utf-8")


def found(pipeline: Any, folder: Path, **options: Any) -> list[Problem]:
    return lint(compiled(pipeline, folder), origin="pipeline.yaml", **options)


def test_a_pipeline_with_everything_and_no_trap_is_clean(tmp_path: Path) -> None:
    assert found(whole(), tmp_path) == []


@dataclass(frozen=True)
class Trap:
    rule: str
    at: str
    plant: Change
    says: str
    fix: str


def forget(resource: str) -> Change:
    return lambda task: setattr(task.container_spec.resources, resource, None)


def forget_kubernetes(key: str) -> Change:
    return lambda task: task.platform_config["kubernetes"].pop(key)


def hand_down(name: str, value: str) -> Change:
    return lambda task: task.inputs.__setitem__(name, value)


LOOP = "exit-handler-1/for-loop-2"
CLOSE = "close-runs"
TRAPS = [
    Trap(
        "mutable-image", f"{LOOP}/train", lambda t: t.set_container_image("limner-python:latest"), ":latest", "@sha256:"
    ),
    Trap("mutable-image", CLOSE, lambda t: t.set_container_image("limner-python:1.2"), "limner-python:1.2", "@sha256:"),
    Trap("mutable-image", CLOSE, lambda t: t.set_container_image("limner-python@sha256:12"), "other code", "@sha256:"),
    Trap("cached-side-effect", f"{LOOP}/train", lambda t: t.set_caching_options(True), "`train`", "caching=False"),
    Trap("cached-side-effect", "exit-handler-1/gate", lambda t: t.set_caching_options(True), "`gate`", "caching=False"),
    Trap("cached-side-effect", CLOSE, lambda t: t.set_caching_options(True), "`close_runs`", "caching=False"),
    Trap(
        "own-cache-key", "exit-handler-1/choose", lambda t: t.set_caching_options(True, "mine"), "new code", "cache_key"
    ),
    Trap(
        "never-cached",
        "exit-handler-1/prepare",
        hand_down("settings", f"{{run: {dsl.PIPELINE_JOB_ID_PLACEHOLDER}}}"),
        "{{$.pipeline_job_uuid}}",
        "caching=False",
    ),
    Trap(
        "never-cached",
        "exit-handler-1/prepare",
        hand_down("settings", dsl.PIPELINE_JOB_CREATE_TIME_UTC_PLACEHOLDER),
        "settings has",
        "Take the input away",
    ),
    Trap(
        "workspace-not-for-training",
        f"{LOOP}/evaluate",
        hand_down("settings", dsl.WORKSPACE_PATH_PLACEHOLDER + "/settings.json"),
        "lost with the run",
        "dsl.Output",
    ),
    Trap(
        "half-an-accelerator", f"{LOOP}/train", forget("accelerator_type"), "does not say which", "set_accelerator_type"
    ),
    Trap(
        "half-an-accelerator",
        f"{LOOP}/train",
        lambda t: t.set_accelerator_type("NVIDIA_TESLA_K80"),
        "stays pending",
        "nvidia.com/gpu",
    ),
    Trap("no-shared-memory", f"{LOOP}/train", forget_kubernetes("emptyDirMounts"), "bus error", "empty_dir_mount"),
    Trap(
        "no-shared-memory",
        "exit-handler-1/prepare",
        lambda t: t.set_accelerator_type("nvidia.com/gpu"),
        "/dev/shm",
        'medium="Memory"',
    ),
    Trap(
        "shared-memory-over-limit",
        f"{LOOP}/train",
        lambda t: t.set_memory_limit("2000Mi"),
        "/dev/shm may grow to 2Gi",
        "set_memory_limit",
    ),
    Trap(
        "shared-memory-over-limit",
        f"{LOOP}/train",
        lambda t: kubernetes.empty_dir_mount(t, "more", "/dev/shm", medium="Memory", size_limit="16Gi"),
        "which may use 16Gi",
        "size_limit",
    ),
    Trap("no-resources", f"{LOOP}/evaluate", forget("cpu_request"), "processor", "Call task.set_cpu_request(...)."),
    Trap("no-resources", CLOSE, forget("memory_limit"), "memory", "Call task.set_memory_limit(...)."),
    Trap("no-timeout", f"{LOOP}/evaluate", forget_kubernetes("activeDeadlineSeconds"), "for ever", "set_timeout"),
    Trap("no-timeout", CLOSE, lambda t: kubernetes.set_timeout(t, 0), "hangs", "set_timeout"),
    Trap("no-retry", f"{LOOP}/train", lambda t: t.set_retry(0), "not retried", "set_retry"),
    Trap("no-retry", f"{LOOP}/evaluate", lambda t: setattr(t._task_spec, "retry_policy", None), "long", "set_retry"),
    Trap("short-retry-window", f"{LOOP}/train", lambda t: t.set_retry(3), "within an hour", "backoff_max_duration"),
    Trap(
        "short-retry-window",
        f"{LOOP}/train",
        lambda t: t.set_retry(3, backoff_max_duration="12h"),
        "within 43200 s",
        "longer backoff_max_duration",
    ),
    Trap(
        "secret-in-environment",
        "exit-handler-1/prepare",
        lambda t: t.set_env_variable("AWS_SECRET_ACCESS_KEY", "abc"),
        "AWS_SECRET_ACCESS_KEY",
        "use_secret_as_env",
    ),
    Trap(
        "secret-is-required",
        f"{LOOP}/train",
        lambda t: kubernetes.use_secret_as_env(t, "limner-s3", {"key": "AWS_ACCESS_KEY_ID"}),
        "limner-s3 does not exist",
        "optional=True",
    ),
    Trap(
        "pip-install",
        "exit-handler-1/gate",
        lambda t: t.container_spec.command.insert(0, "pip install kfp &&"),
        "network",
        "packages_to_install=[]",
    ),
]


@pytest.mark.parametrize("trap", TRAPS, ids=lambda trap: f"{trap.rule} at {trap.at.rpartition('/')[2]}")
def test_a_trap_is_found_where_it_is_and_nothing_else(trap: Trap, tmp_path: Path) -> None:
    (problem,) = found(whole(trap.plant, at=trap.at.rpartition("/")[2]), tmp_path)
    assert (problem.rule, problem.where) == (trap.rule, trap.at)
    assert trap.says in problem.problem
    assert trap.fix in problem.fix


# -- traps that need a pipeline of their own --------------------------------------------------------------------------


def test_a_branch_on_a_named_output_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        verdict = settled(judge_by_name(fid=1.0))
        with dsl.If(verdict.outputs["passed"] == True):  # noqa: E712 - kfp overloads ==
            settled(gate(fid=1.0))

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("if-on-named-output", "condition-1")
    assert 'judge-by-name.outputs["passed"]' in problem.problem
    assert "one unnamed value" in problem.fix


def test_every_branch_on_a_named_output_is_found_also_inside_groups(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        with dsl.ExitHandler(settled(close_runs(run="1"))):
            verdict = settled(judge_by_name(fid=1.0))
            with dsl.If(verdict.outputs["passed"] == True):  # noqa: E712
                settled(gate(fid=1.0))
            with dsl.Elif(verdict.outputs["fid"] < 3.0):
                settled(gate(fid=2.0))

    problems = found(pipeline, tmp_path)
    assert {problem.rule for problem in problems} == {"if-on-named-output"}
    assert {problem.where.removeprefix("exit-handler-1/condition-branches-2/") for problem in problems} == {
        "condition-3",
        "condition-4",
    }
    assert any('judge-by-name.outputs["fid"]' in problem.problem for problem in problems)


def test_a_parameter_of_a_pipeline_within_may_be_tested(tmp_path: Path) -> None:
    @dsl.pipeline(name="inner")
    def inner(passed: bool) -> None:
        with dsl.If(passed == True):  # noqa: E712
            settled(gate(fid=1.0))

    @dsl.pipeline(name="outer")
    def outer() -> None:
        inner(passed=settled(judge_by_name(fid=1.0)).outputs["passed"])

    assert found(outer, tmp_path) == []


def test_a_value_from_outside_a_loop_is_found_and_an_artifact_is_not(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(settings: str) -> None:
        with dsl.ExitHandler(settled(close_runs(run="1"))):
            dataset = settled(prepare(settings=settings)).outputs["dataset"]
            known = settled(gate(fid=1.0)).outputs["Output"]
            with dsl.ParallelFor(["a", "b"]) as item:
                on_gpus(settled(train(settings=known, scratch=item, resources="", dataset=dataset)), 1)

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("output-in-loop", "exit-handler-1/for-loop-3")
    assert "gate.output" in problem.problem
    assert "@dsl.pipeline of its own" in problem.fix


def test_a_loop_over_a_named_output_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        shards = settled(list_by_name())
        with dsl.ParallelFor(shards.outputs["shards"]) as shard:
            settled(prepare(settings=shard))

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("loop-over-named-output", "for-loop-1")
    assert 'list-by-name.outputs["shards"]' in problem.problem
    assert "one unnamed list" in problem.fix


def test_a_tracked_step_without_an_exit_handler_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        closed = settled(close_runs(run="1"))
        with dsl.ExitHandler(closed):
            settled(gate(fid=1.0))
        settled(promote(settings=""))

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("no-exit-handler", "promote")
    assert "RUNNING for ever" in problem.problem
    assert "dsl.ExitHandler" in problem.fix


def test_an_exit_handler_reaches_into_the_pipelines_within(tmp_path: Path) -> None:
    @dsl.pipeline(name="inner")
    def inner(settings: str) -> None:
        settled(promote(settings=settings))

    @dsl.pipeline(name="outer")
    def outer(settings: str) -> None:
        with dsl.ExitHandler(settled(close_runs(run="1"))):
            inner(settings=settings)

    assert found(outer, tmp_path) == []


def test_a_parameter_that_kfp_forgets_to_hand_down_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(memory: str = "4Gi", labels: dict = {}) -> None:  # type: ignore[type-arg]  # noqa: B006
        with dsl.ParallelFor([1.0, 2.0]) as fid:
            kubernetes.add_node_selector_json(settled(gate(fid=fid)), labels).set_memory_limit(memory)

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("input-not-handed-down", "for-loop-2/gate")
    assert "It takes memory" in problem.problem
    assert "memory=memory" in problem.fix


def test_a_secret_as_a_default_is_found_and_the_name_of_one_is_not(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(s3_secret: str = "limner-s3", mlflow_token: str = "abc", api_key: str = "") -> None:
        settled(do_nothing(settings=mlflow_token), secret=s3_secret)
        settled(do_nothing(settings=api_key))

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("secret-in-parameter", "the pipeline")
    assert "mlflow_token" in problem.problem
    assert "use_secret_as_env" in problem.fix


def test_a_dict_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        settled(configure(settings={"a": 1}))

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("takes-a-dict", "configure")
    assert "1 arrives as 1.0" in problem.problem
    assert "json.dumps" in problem.fix


def test_a_dict_for_the_pod_is_no_trap(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(labels: dict = {"pool": "gpu"}) -> None:  # type: ignore[type-arg]  # noqa: B006
        kubernetes.add_node_selector_json(settled(gate(fid=1.0)), labels)

    assert found(pipeline, tmp_path) == []


def test_what_the_local_runner_refuses_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        settled(contained(settings=""))
        settled(component(do_nothing.python_func, target_image=IMAGE)(settings=""))

    problems = found(pipeline, tmp_path)
    assert {(problem.rule, problem.where) for problem in problems} == {
        ("not-lightweight", "contained"),
        ("not-lightweight", "do-nothing"),
    }
    assert all("@dsl.component" in problem.fix for problem in problems)


@pytest.mark.parametrize("options", [{"packages_to_install": ["numpy"]}, {"install_kfp_package": True}], ids=str)
def test_a_component_that_installs_packages_is_found(options: dict[str, Any], tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        settled(component(do_nothing.python_func, **options)(settings=""))

    (problem,) = found(pipeline, tmp_path)
    assert (problem.rule, problem.where) == ("pip-install", "do-nothing")
    assert "install_kfp_package=False" in problem.fix


def test_a_workspace_without_an_access_mode_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="whole", pipeline_config=dsl.PipelineConfig(workspace=dsl.WorkspaceConfig(size="1Gi")))
    def whole() -> None:
        settled(prepare(settings="{}"), cached=True)

    (problem,) = found(whole, tmp_path)
    assert problem.rule == "workspace-without-access"
    assert "accessModes" in problem.fix


def test_a_workspace_that_is_handed_down_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="inner")
    def inner(scratch: str) -> None:
        settled(prepare(settings=scratch), cached=True)

    @dsl.pipeline(name="outer", pipeline_config=dsl.PipelineConfig(workspace=WORKSPACE))
    def outer() -> None:
        inner(scratch=dsl.WORKSPACE_PATH_PLACEHOLDER)

    problems = found(outer, tmp_path)
    assert {(problem.rule, problem.where) for problem in problems} == {
        ("never-cached", "inner/prepare"),
        ("workspace-not-for-training", "inner/prepare"),
    }


def test_no_accelerators_need_no_shared_memory(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        settled(gate(fid=1.0)).set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(0)

    assert found(pipeline, tmp_path) == []


# -- images -----------------------------------------------------------------------------------------------------------


def named(image: str) -> Any:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        settled(component(prepare.python_func, base_image=image)(settings=""), cached=True)
        settled(component(gate.python_func, base_image=image)(fid=1.0))

    return pipeline


def test_a_mutable_image_may_be_allowed_where_nothing_is_cached(tmp_path: Path) -> None:
    (problem,) = found(named("limner-python:dev"), tmp_path, allow_mutable=True)
    assert (problem.rule, problem.where) == ("mutable-image-cached", "prepare")
    assert "old results" in problem.problem
    assert "enable_caching=False" in problem.fix
    assert found(named(IMAGE), tmp_path, allow_mutable=True) == []


def test_an_image_that_a_run_names_is_judged_by_its_default(tmp_path: Path) -> None:
    def asking(**default: str) -> Any:
        @dsl.pipeline(name="small")
        def pipeline(image: str) -> None:
            with dsl.ExitHandler(settled(close_runs(run="1"))):
                settled(do_nothing(settings=image)).set_container_image(image)

        compiled_with_default = tmp_path / "pipeline.yaml"
        Compiler().compile(pipeline, str(compiled_with_default), pipeline_parameters=default or None)
        return lint(compiled_with_default.read_text(encoding="utf-8"), origin="pipeline.yaml")

    assert asking() == []
    assert asking(image=IMAGE) == []
    (problem,) = asking(image="limner-python:1")
    assert (problem.rule, problem.where) == ("mutable-image", "exit-handler-1/do-nothing")


# -- whether the local runner really does that: when one of these fails, kfp has mended it, and a rule can go ----------


@component
def note(what: str, file: str) -> None:
    from pathlib import Path

    with Path(file).open("a", encoding="utf-8") as out:
        out.write(what)


def noted(pipeline: Any, folder: Path) -> str:
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "out"))
    (folder / "noted").touch()
    pipeline(file=str(folder / "noted"))
    return (folder / "noted").read_text(encoding="utf-8")


def test_the_local_runner_skips_a_branch_on_a_named_output(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(file: str) -> None:
        with dsl.If(judge_by_name(fid=1.0).outputs["passed"] == True):  # noqa: E712
            note(what="taken", file=file)

    assert noted(pipeline, tmp_path) == ""


def test_the_local_runner_cannot_loop_over_a_named_output(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(file: str) -> None:
        with dsl.ParallelFor(list_by_name().outputs["shards"]) as shard:
            note(what=shard, file=file)

    with pytest.raises(ValueError, match=r"Parent pipeline input argument .* not found"):
        noted(pipeline, tmp_path)


def test_the_local_runner_replaces_a_value_in_a_loop_by_the_item(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline(file: str) -> None:
        verdict = gate(fid=1.0).outputs["Output"]
        with dsl.ParallelFor(["item"]):
            note(what=verdict, file=file)

    assert noted(pipeline, tmp_path) == "item"


# -- what only another compiler, or a hand, would write ---------------------------------------------------------------


def test_a_kind_of_accelerator_without_a_number_is_found(tmp_path: Path) -> None:
    @dsl.pipeline(name="small")
    def pipeline() -> None:
        on_gpus(settled(gate(fid=1.0)), 1)

    text = compiled(pipeline, tmp_path)
    lines = [line for line in text.splitlines() if not line.strip().lower().startswith(("count:", "resourcecount:"))]
    assert lint(text, origin="pipeline.yaml") == []
    (problem,) = lint("\n".join(lines), origin="pipeline.yaml")
    assert problem.rule == "half-an-accelerator"
    assert "how many" in problem.problem


# -- the text itself --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "a: 1", "[]", "pipelineInfo: {name: x}"])
def test_a_text_that_is_no_pipeline_is_refused(text: str) -> None:
    with pytest.raises(LimnerError, match=r"some\.yaml is not a compiled pipeline\."):
        lint(text, origin="some.yaml")


def test_a_text_that_is_no_yaml_is_refused() -> None:
    with pytest.raises(LimnerError, match=r"some\.yaml is not valid YAML\."):
        lint("a: [", origin="some.yaml")


def test_a_problem_reads_as_one_line() -> None:
    problem = Problem("no-timeout", "exit-handler-1/train", "It has no timeout.", "Set one.")
    assert str(problem) == "exit-handler-1/train: It has no timeout. Set one. [no-timeout]"
