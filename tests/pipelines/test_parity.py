"""One step, three shells: a direct call, `dvc repro` and Kubeflow's local runner give the same figures for one seed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from limner.steps import open_catalog
from tests.mlflow_stand import database, third_party_warnings
from tests.pipelines.local_runs import LocalRun, metrics, returned, run

pytestmark = [pytest.mark.pipeline, third_party_warnings]


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


def test_the_local_runner_of_kubeflow_gives_the_figures_of_a_direct_call_though_its_training_is_killed_twice(
    tiny_params: Path, direct: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    tracking = {"MLFLOW_TRACKING_URI": database(tmp_path, tmp_path_factory)}
    folder, said = LocalRun(tmp_path, tracking)("tiny-gan", "--params", tiny_params, kill_training=2)
    judged = folder / "evaluate" / "evaluation"
    assert metrics(judged) == metrics(direct / "report")
    shown = json.loads((judged.parent / "executor_output.json").read_text(encoding="utf-8"))
    figures = metrics(judged)
    assert shown["artifacts"]["metrics"]["artifacts"][0]["metadata"] == figures[figures["chosen"]]
    (run,) = MlflowClient(tracking["MLFLOW_TRACKING_URI"]).search_runs(["0", "1"])
    assert (run.info.run_id, run.info.status) == (returned(folder, "train"), "FINISHED"), "one run, and an honest end"
    assert f"{folder}" in said
