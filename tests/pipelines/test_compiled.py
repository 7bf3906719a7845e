"""The Kubeflow pipelines as they are compiled: what a cluster would be told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from ruamel.yaml import YAML
from typer.testing import CliRunner

from limner.packing import PackedDataset
from limner.steps import open_catalog
from limner.steps.prepare import prepare as prepare_directly
from pipelines import PIPELINES
from pipelines.__main__ import app
from pipelines.cluster import compile_text
from pipelines.lint import lint
from pipelines.placement import MLFLOW_KEYS, S3_KEYS, Placement

STEPS = {"prepare", "train", "evaluate", "export", "promote"}
IMAGE = f"registry.example.org/limner-python@sha256:{'0123456789abcdef' * 4}"


def documents(text: str) -> list[dict[str, Any]]:
    return list(YAML(typ="safe").load_all(text))


@pytest.fixture(scope="module", params=PIPELINES)
def compiled(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Name and YAML of each pipeline."""
    return request.param, compile_text(request.param, Placement(IMAGE))


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    return documents(compile_text("train_and_promote", Placement(IMAGE)))[0]


def executors(text: str) -> dict[str, Any]:
    found: dict[str, Any] = documents(text)[0]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): executor["container"] for name, executor in found.items()}


def tasks(text: str) -> dict[str, Any]:
    """All tasks that run in a pod, of whatever depth."""
    document = documents(text)[0]
    dags = [document["root"]["dag"], *(c["dag"] for c in document["components"].values() if "dag" in c)]
    return {
        name: task
        for dag in dags
        for name, task in dag["tasks"].items()
        if "dag" not in document["components"][task["componentRef"]["name"]]
    }


def test_the_compiled_pipelines_in_the_repository_are_up_to_date(compiled: tuple[str, str], project: Path) -> None:
    name, text = compiled
    golden = project / "tests" / "golden" / f"{name}.yaml"
    assert text == golden.read_text(encoding="utf-8"), (
        f"python -m pipelines compile --out tests/golden --image {IMAGE} writes them anew"
    )


def test_nothing_in_them_is_a_known_trap(compiled: tuple[str, str]) -> None:
    name, text = compiled
    assert lint(text, origin=name) == []


def test_the_tasks_are_the_steps_of_dvc_yaml(project: Path) -> None:
    stages = YAML(typ="safe").load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found = set(executors(compile_text("train_and_promote", Placement(IMAGE))))
    assert set(stages) == STEPS
    assert found == STEPS | {"gate", "close-runs"}


def test_settings_travel_as_one_string(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert parameters["settings"]["parameterType"] == parameters["dataset_md5"]["parameterType"] == "STRING"
    assert "isOptional" not in parameters["settings"]


def test_only_steps_without_a_side_effect_are_cached(compiled: tuple[str, str]) -> None:
    cached = {name for name, task in tasks(compiled[1]).items() if task["cachingOptions"].get("enableCache")}
    assert cached <= {"prepare"}


def test_with_a_mutable_image_nothing_is_cached() -> None:
    found = tasks(compile_text("train_and_promote", Placement("registry.example.org/limner-python:1")))
    assert not [name for name, task in found.items() if task["cachingOptions"].get("enableCache")]


def test_every_step_runs_in_the_one_image_knows_its_name_and_installs_nothing(compiled: tuple[str, str]) -> None:
    for container in executors(compiled[1]).values():
        assert container["image"] == IMAGE
        assert {"name": "LIMNER_IMAGE", "value": IMAGE} in container["env"]
        assert "pip install" not in " ".join(container["command"])


def test_every_pod_gets_both_secrets_and_can_do_without(compiled: tuple[str, str]) -> None:
    platform = documents(compiled[1])[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert {name.removeprefix("exec-") for name in platform} == set(executors(compiled[1]))
    for executor in platform.values():
        s3, mlflow = executor["secretAsEnv"]
        for secret, keys in ((s3, S3_KEYS), (mlflow, MLFLOW_KEYS)):
            assert {pair["secretKey"]: pair["envVar"] for pair in secret["keyToEnv"]} == {key: key for key in keys}
            assert secret["optional"] is True


def test_gpus_processor_and_memory_are_parameters_of_the_run() -> None:
    resources = executors(compile_text("train_and_promote", Placement(IMAGE)))["train"]["resources"]
    words = json.dumps(resources)
    for name in ("cpu", "memory", "gpus"):
        assert f"inputs.parameters['pipelinechannel--{name}']" in words
    assert "nvidia.com/gpu" in words


def test_whatever_a_task_refers_to_is_handed_on_to_it(compiled: tuple[str, str]) -> None:
    """kfp forgets parameters that only resources use where the task is in a branch, a loop or an exit handler."""
    document = documents(compiled[1])[0]
    for name, component in [*document["components"].items(), ("root", document["root"])]:
        given = set(component.get("inputDefinitions", {}).get("parameters", {}))
        text = json.dumps(component.get("dag", {}))
        assert set(re.findall(r'"componentInputParameter": "([^"]+)"', text)) <= given, name


def test_a_retry_is_possible_for_longer_than_all_attempts_take(compiled: tuple[str, str]) -> None:
    for name, task in tasks(compiled[1]).items():
        policy = task["retryPolicy"]
        assert policy["maxRetryCount"] >= 3
        assert int(policy["backoffMaxDuration"].removesuffix("s")) > 3600 * 6 * policy["maxRetryCount"], name


# -- the command ------------------------------------------------------------------------------------------------------


def test_an_image_named_by_a_tag_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    words = ["compile", "--pipeline", "train_and_promote", "--out", str(tmp_path), "--image", "limner-python:1"]
    refused = CliRunner().invoke(app, words)
    assert "could be another one tomorrow" in str(refused.exception)
    assert list(tmp_path.iterdir()) == []
    allowed = CliRunner().invoke(app, [*words, "--allow-mutable-image"])
    assert allowed.exit_code == 0, allowed.output
    assert (tmp_path / "train_and_promote.yaml").is_file()


def test_the_image_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_IMAGE", IMAGE)
    done = CliRunner().invoke(app, ["compile", "--pipeline", "stylize_batch", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert f"image: {IMAGE}" in (tmp_path / "stylize_batch.yaml").read_text()


def test_lint_of_the_command_tells_where_the_traps_are(tmp_path: Path, project: Path) -> None:
    text = (project / "tests" / "golden" / "retrain.yaml").read_text(encoding="utf-8")
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(text)
    bad.write_text(text.replace(IMAGE, "registry.example.org/limner-python:latest"))
    assert CliRunner().invoke(app, ["lint", str(good)]).exit_code == 0
    found = CliRunner().invoke(app, ["lint", str(good), str(bad)])
    assert "bad.yaml has" in str(found.exception)
    assert "sha256" in str(found.exception)


def test_an_unknown_pipeline_is_named(tmp_path: Path) -> None:
    found = CliRunner().invoke(app, ["compile", "--pipeline", "sweeep", "--out", str(tmp_path), "--image", IMAGE])
    assert "sweep" in str(found.exception)


# -- components -------------------------------------------------------------------------------------------------------


def test_a_component_does_what_the_step_does(tiny_params: Path, tmp_path: Path) -> None:
    from components.prepare import prepare

    catalog = open_catalog(tiny_params)
    dataset = dsl.Dataset(uri=str(tmp_path / "kubeflow"))
    nothing = {"dataset_md5": "", "remote": "", "dataset_path": ""}
    prepare.python_func(model="tiny-gan", settings=catalog.to_json("tiny-gan"), dataset=dataset, **nothing)
    directly = prepare_directly(catalog.dataset("tiny"), name="tiny", output=tmp_path / "directly")
    assert PackedDataset(Path(dataset.path)).digest == directly.digest
    assert dataset.metadata["digest"] == directly.digest
