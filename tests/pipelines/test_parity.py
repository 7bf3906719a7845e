"""One step, three shells: a direct call, `dvc repro` and Kubeflow's local runner give the same figures for one seed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limner.steps import open_catalog

pytestmark = pytest.mark.pipeline

PROJECT = Path(__file__).parents[2]


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command of this environment, as a person has it on the PATH who has activated it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    surroundings = {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT)}
    return subprocess.run(words, cwd=cwd, env=surroundings, capture_output=True, text=True, check=False, timeout=300)


def metrics(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return document


@pytest.fixture(scope="module")
def by_dvc(project: Path, tiny_params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new repository with the tiny catalog, after `dvc repro`."""
    root = tmp_path_factory.mktemp("dvc")
    shutil.copytree(project / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(project / "data" / "raw", root / "data" / "raw")
    shutil.copy(tiny_params, root / "params.yaml")
    shutil.copy(project / "dvc.yaml", root / "dvc.yaml")
    for words in (["init", "--quiet", "--no-scm"], ["repro"]):
        said = run("dvc", *words, cwd=root)
        assert said.returncode == 0, said.stdout + said.stderr
    return root


@pytest.fixture(scope="module")
def direct(tiny_params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder after the steps were called as functions."""
    from limner.adapters import connect
    from limner.steps.evaluate import evaluate
    from limner.steps.prepare import prepare
    from limner.steps.train import train

    root, catalog = tmp_path_factory.mktemp("direct"), open_catalog(tiny_params)
    settings, ports = catalog.model("tiny-gan"), connect(track=False)
    prepare(catalog.dataset("tiny"), name="tiny", output=root / "data")
    train(
        settings, name="tiny-gan", dataset=root / "data", output=root / "model", scratch=root / "scratch", ports=ports
    )
    evaluate(
        settings, name="tiny-gan", dataset=root / "data", model=root / "model", output=root / "report", ports=ports
    )
    return root


def test_dvc_gives_the_figures_of_a_direct_call(by_dvc: Path, direct: Path) -> None:
    assert metrics(by_dvc / "reports" / "tiny-gan") == metrics(direct / "report")


def test_a_second_repro_runs_nothing_at_all(by_dvc: Path) -> None:
    said = run("dvc", "repro", cwd=by_dvc)
    assert "Running stage" not in said.stdout
    assert "up to date" in said.stdout


def test_the_local_runner_of_kubeflow_gives_the_figures_of_a_direct_call(
    tiny_params: Path, direct: Path, tmp_path: Path
) -> None:
    words = ("python", "-m", "pipelines", "run-local", "tiny-gan", "--params", tiny_params, "--root", tmp_path / "out")
    said = run(*words, cwd=tmp_path)
    assert said.returncode == 0, said.stdout + said.stderr
    (found,) = (tmp_path / "out").glob("*/evaluate/evaluation/metrics.json")
    assert metrics(found.parent) == metrics(direct / "report")
    shown = json.loads((found.parents[1] / "executor_output.json").read_text(encoding="utf-8"))
    figures = metrics(found.parent)
    assert shown["artifacts"]["metrics"]["artifacts"][0]["metadata"] == figures[figures["chosen"]]


def test_a_failing_step_fails_the_pipeline(tiny_params: Path, tmp_path: Path) -> None:
    words = ("python", "-m", "pipelines", "run-local", "tiny-gan", "--params", tiny_params, "--root", tmp_path / "out")
    said = run(*words, "--set", "datasets.tiny.source={kind: folder, path: nowhere}", cwd=tmp_path)
    assert said.returncode == 1
    assert "nowhere" in said.stdout + said.stderr
