"""The Kubeflow pipeline as it is compiled: what a cluster would be told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from kfp import dsl
from kfp.compiler import Compiler
from ruamel.yaml import YAML

from limner.packing import PackedDataset
from limner.steps import open_catalog
from limner.steps.prepare import prepare as prepare_directly

STEPS = {"prepare", "train", "evaluate", "export", "promote"}


def compiled(to: Path) -> Path:
    from pipelines.train_and_promote import train_and_promote

    Compiler().compile(train_and_promote, str(to))
    return to


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    text = compiled(tmp_path_factory.mktemp("compiled") / "pipeline.yaml").read_text(encoding="utf-8")
    documents: list[dict[str, Any]] = list(YAML(typ="safe").load_all(text))
    return documents[0]


def test_the_compiled_pipeline_in_the_repository_is_up_to_date(project: Path, tmp_path: Path) -> None:
    golden = project / "pipelines" / "train_and_promote.yaml"
    assert compiled(tmp_path / "now.yaml").read_text() == golden.read_text(), "python -m pipelines compile"


def test_the_tasks_are_the_steps_of_dvc_yaml(spec: dict[str, Any], project: Path) -> None:
    stages = YAML(typ="safe").load((project / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert set(spec["root"]["dag"]["tasks"]) == set(stages) == STEPS


def test_settings_travel_as_one_string(spec: dict[str, Any]) -> None:
    parameters = spec["root"]["inputDefinitions"]["parameters"]
    assert {name: parameter["parameterType"] for name, parameter in parameters.items()} == {
        "model": "STRING",
        "settings": "STRING",
    }


def test_no_task_is_cached(spec: dict[str, Any]) -> None:
    tasks = spec["root"]["dag"]["tasks"]
    assert {name for name, task in tasks.items() if task["cachingOptions"].get("enableCache")} == set()


def test_every_step_runs_in_the_one_image_and_installs_nothing(spec: dict[str, Any]) -> None:
    containers = [executor["container"] for executor in spec["deploymentSpec"]["executors"].values()]
    assert len(containers) == len(STEPS)
    assert len({container["image"] for container in containers}) == 1
    assert not [container for container in containers if "pip install" in " ".join(container["command"])]


def test_the_image_is_named_by_the_environment(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    monkeypatch.setenv("LIMNER_IMAGE", "example.org/limner-python@sha256:abc")
    out = tmp_path / "pipeline.yaml"
    subprocess.run([sys.executable, "-m", "pipelines", "compile", "--out", out], cwd=project, check=True, timeout=120)
    assert out.read_text().count("image: example.org/limner-python@sha256:abc") == len(STEPS)


def test_a_component_does_what_the_step_does(tiny_params: Path, tmp_path: Path) -> None:
    from components.prepare import prepare

    catalog = open_catalog(tiny_params)
    dataset = dsl.Dataset(uri=str(tmp_path / "kubeflow"))
    prepare.python_func(model="tiny-gan", settings=catalog.to_json("tiny-gan"), dataset=dataset)
    directly = prepare_directly(catalog.dataset("tiny"), name="tiny", output=tmp_path / "directly")
    assert PackedDataset(Path(dataset.path)).digest == directly.digest
    assert dataset.metadata == {"name": "tiny", "digest": directly.digest}
