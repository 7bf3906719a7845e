"""The pipelines from end to end under Kubeflow's local runner: every verdict of the gate, failures, and sweeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from limner.adapters.mlflow_tracker import KUBEFLOW_RUN, STOPPED_BY
from tests.mlflow_stand import third_party_warnings
from tests.pipelines.local_runs import (
    SHORT,
    LocalRun,
    client,
    kill_after_checkpoints,
    opened,
    returned,
    surroundings,
    tasks_of,
)

pytestmark = [pytest.mark.pipeline, third_party_warnings]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalRun:
    """A folder with an MLflow of its own; all runs of a module share the registry."""
    return opened(tmp_path_factory)


@pytest.fixture(scope="module")
def champion(local: LocalRun, tiny_params: Path) -> Path:
    """The outputs of a first run, whose model became the champion."""
    folder, _ = local("tiny-gan", "--params", tiny_params, *SHORT)
    return folder


def test_the_gate_lets_the_first_model_pass_and_it_becomes_the_champion(local: LocalRun, champion: Path) -> None:
    assert returned(champion, "gate") == returned(champion, "promote") == "promote"
    version = client(local).get_model_version_by_alias("tiny-gan", "champion")
    assert version.run_id == returned(champion, "train")
    assert "promote" in (champion / "gate" / "decision").read_text(encoding="utf-8")
    run = client(local).get_run(version.run_id)
    assert run.info.status == "FINISHED"
    lineage = json.loads((champion / "promote" / "promotion" / "lineage.json").read_text(encoding="utf-8"))
    assert lineage["kubeflow_run"] == run.data.tags[KUBEFLOW_RUN] != ""


def test_a_model_that_is_not_better_is_registered_and_held(local: LocalRun, champion: Path, tiny_params: Path) -> None:
    before = client(local).get_model_version_by_alias("tiny-gan", "champion")
    hard = ("--set", "models.tiny-gan.promote.min_improvement=1e9", "--set", "models.tiny-gan.train.seed=1")
    folder, said = local("tiny-gan", "--params", tiny_params, *SHORT, *hard)
    assert returned(folder, "gate") == returned(folder, "promote") == "hold"
    assert "tiny-gan: hold." in said
    now = client(local).get_model_version_by_alias("tiny-gan", "champion")
    assert str(now.version) == str(before.version) == "1"
    assert client(local).get_model_version("tiny-gan", "2").aliases == ["challenger"]


def test_a_model_beyond_a_limit_is_rejected_and_nothing_is_made_of_it(
    local: LocalRun, champion: Path, tiny_params: Path
) -> None:
    versions = len(client(local).search_model_versions("name='tiny-gan'"))
    limit = ("--set", "models.tiny-gan.promote.at_most={fd_pixels: 0}")
    folder, _ = local("tiny-gan", "--params", tiny_params, *SHORT, *limit)
    assert returned(folder, "gate") == "reject"
    assert tasks_of(folder) == {"prepare", "train", "evaluate", "gate", "close-runs"}
    assert len(client(local).search_model_versions("name='tiny-gan'")) == versions


def test_the_exit_handler_closes_what_a_killed_training_has_left_open(local: LocalRun, tiny_params: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from limner.steps import open_catalog; from pipelines.local import *\n"
        "from pipelines.placement import Placement\n"
        "settings = open_catalog(Path(sys.argv[1]), ['models.tiny-gan.train.kimg=20']).to_json('tiny-gan')\n"
        "run_here('train_and_promote', {'model': 'tiny-gan', 'settings': settings}, root=Path('killed'),"
        " placement=Placement(train_retries=0, retries=0))\n"
    )
    said = local.folder / "killed.log"
    with said.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", script, tiny_params],
            cwd=local.folder,
            env=surroundings(**local.environment),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
        assert kill_after_checkpoints(process.pid, times=1) == 1, said.read_text()
        assert process.wait(300) != 0
    assert "runs of it that were still open in MLflow: " in said.read_text()
    found = client(local).search_runs([e.experiment_id for e in client(local).search_experiments()], max_results=1)
    (latest,) = found
    assert latest.info.status == "FAILED"
    assert latest.data.tags[STOPPED_BY].startswith(f"Kubeflow run {latest.data.tags[KUBEFLOW_RUN]}: ")


def test_a_failing_step_fails_the_pipeline_with_its_own_words(local: LocalRun, tiny_params: Path) -> None:
    nowhere = ("--set", "datasets.tiny.source={kind: folder, path: nowhere}")
    folder, said = local("tiny-gan", "--params", tiny_params, *nowhere, status=1)
    assert "nowhere" in said
    assert "close-runs" in tasks_of(folder)
