"""Several processes on one machine, as torchrun starts them."""

import json

import pytest

from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.steps.launch import train_in_processes
from limner.steps.train import train

pytestmark = pytest.mark.pipeline


@pytest.fixture
def launch(catalog, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # torchrun would say that it sets it
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def launch(settings, **places):
        where = {"dataset": str(dataset), "output": str(tmp_path / "model"), "scratch": str(tmp_path / "runs")}
        return train_in_processes(
            settings, name="toy", processes=2, places=where | places, environment={"KFP_RUN_ID": "run-1"}
        )

    return launch


def test_two_processes_train_as_one_does(launch, catalog, dataset, ports, tmp_path):
    document = json.loads(catalog.to_json("toy"))
    document["models"]["toy"]["train"]["micro_batch"] = 8
    run_id = launch(json.dumps(document))
    record = read_lineage(tmp_path / "model")
    assert record["run_id"] == run_id != ""
    assert record["kubeflow_run"] == "run-1"
    alone = tmp_path / "alone"
    train(catalog.model("toy"), name="toy", dataset=dataset, output=alone, scratch=tmp_path / "runs", ports=ports)
    assert record["images_seen"] == read_lineage(alone)["images_seen"]


def test_their_failure_is_an_error_with_their_words_above(launch, catalog, tmp_path, capfd):
    with pytest.raises(LimnerError, match="in 2 processes failed with status"):
        launch(catalog.to_json("toy"), dataset=str(tmp_path / "nowhere"))
    assert "nowhere" in capfd.readouterr().err
