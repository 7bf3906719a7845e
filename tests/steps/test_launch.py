"""Several processes on one machine, as torchrun starts them."""

import json
import shutil

import pytest

from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.steps.launch import train_in_processes, train_once
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
    launch(json.dumps(document))
    record = read_lineage(tmp_path / "model")
    assert record["run_id"] != ""
    assert record["kubeflow_run"] == "run-1"
    alone = tmp_path / "alone"
    train(catalog.model("toy"), name="toy", dataset=dataset, output=alone, scratch=tmp_path / "runs", ports=ports)
    assert record["images_seen"] == read_lineage(alone)["images_seen"]


def test_their_failure_is_an_error_with_their_words_above(launch, catalog, tmp_path, capfd):
    with pytest.raises(LimnerError, match="in 2 processes failed with status"):
        launch(catalog.to_json("toy"), dataset=str(tmp_path / "nowhere"))
    assert "nowhere" in capfd.readouterr().err


# -- once -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def once(catalog, dataset, ports, tmp_path, monkeypatch):
    """Train in one process on a volume; `told` gets every opening of ports."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))

    def once(settings="", *, scratch=None, told=None):
        def open_ports():
            (told if told is not None else []).append("opened")
            return ports

        return train_once(
            settings or catalog.to_json("toy"),
            name="toy",
            dataset=dataset,
            output=tmp_path / "artifact",
            scratch=scratch or tmp_path / "volume",
            processes=1,
            open_ports=open_ports,
            environment={},
        )

    return once


def test_a_training_whose_result_did_not_arrive_is_not_done_again(once, tmp_path):
    told = []
    once(told=told)
    first = {
        path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "artifact").rglob("*") if path.is_file()
    }
    shutil.rmtree(tmp_path / "artifact")
    once(told=told)
    again = {
        path.relative_to(tmp_path): path.read_bytes() for path in (tmp_path / "artifact").rglob("*") if path.is_file()
    }
    assert (told, again) == (["opened"], first)


def test_a_training_that_was_cut_off_after_its_result_comes_to_its_end(once, tmp_path):
    told = []
    once(told=told)
    (own,) = (tmp_path / "volume").iterdir()
    (own / "run" / "0123456789abcdef").mkdir(parents=True)
    once(told=told)
    assert told == ["opened"] * 2


def test_other_settings_are_another_training(once, catalog):
    told = []
    once(told=told)
    document = json.loads(catalog.to_json("toy"))
    document["models"]["toy"]["train"]["seed"] = 5
    once(json.dumps(document), told=told)
    assert told == ["opened"] * 2


def test_a_volume_that_nobody_can_write_to_is_replaced_by_the_pods_own_disk(once, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    once(scratch=tmp_path / "file" / "volume")
    assert "cannot be written to" in capsys.readouterr().out
    assert (tmp_path / "artifact" / "lineage.json").is_file()
    assert list((tmp_path / "temporary" / "limner-scratch").iterdir()) == [], (
        "what ends with the pod need not lie there twice"
    )
