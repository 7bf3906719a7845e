import json
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import limner.adapters
from limner.adapters import connect, find_server, replay
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.errors import LimnerError
from limner.ports import ModelVersion
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings


@pytest.fixture(autouse=True)
def _no_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def test_without_a_server_a_file_in_the_current_folder_stands_in(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_server().uri == f"sqlite:///{tmp_path}/mlflow.db"


def test_in_a_dvc_stage_the_file_is_in_the_projects_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "project"))
    monkeypatch.chdir(tmp_path)
    assert find_server().uri == f"sqlite:///{tmp_path}/project/mlflow.db"


def test_argument_goes_before_environment_before_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://environment")
    assert find_server().uri == "http://environment"
    assert find_server("http://argument").uri == "http://argument"


def test_pod_without_a_server_is_warned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    find_server("http://mlflow:5000")
    assert not caplog.records
    find_server()
    assert "MLFLOW_TRACKING_URI is not set" in caplog.text


def test_scheduler_names_the_experiment_by_name_or_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (find_server().experiment, find_server().experiment_id) == ("limner", "")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "7")
    assert find_server().experiment_id == "7"
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "sweep")
    assert (find_server().experiment, find_server().experiment_id) == ("sweep", "")


def test_artifacts_lie_beside_the_database(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ports = connect(tracking_uri=database(tmp_path, tmp_path_factory))
    with ports.tracker.run("digits") as run:
        run.file(Path(__file__))
    assert [path.name for path in (tmp_path / "mlartifacts").rglob("*.py")] == [Path(__file__).name]
    assert not Path("mlruns").exists()


def test_password_of_a_server_is_not_shown() -> None:
    assert str(find_server("postgresql://mlflow:secret@db:5432/mlflow")) == "postgresql://db:5432/mlflow"


def test_schedulers_run_is_used_where_a_step_names_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    uri = database(tmp_path, tmp_path_factory)
    with connect(tracking_uri=uri).tracker.run("opened by a scheduler") as scheduled:
        pass
    with connect(tracking_uri=uri).tracker.run("another") as other:
        pass
    monkeypatch.setenv("MLFLOW_RUN_ID", scheduled.id)
    with connect(tracking_uri=uri).tracker.run("digits") as run:
        assert run.id == scheduled.id
    with connect(tracking_uri=uri).tracker.run("digits", run_id=other.id) as run:
        assert run.id == other.id
    names = [found.info.run_name for found in find_server(uri).client.search_runs(["1"])]
    assert sorted(names) == ["another", "opened by a scheduler"]


def test_without_tracking_mlflow_is_not_even_imported(tmp_path: Path) -> None:
    program = "import sys; from limner.adapters import connect; connect(track=False); print('mlflow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.strip() == "False"


def test_without_mlflow_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)  # what import raises for an absent package
    monkeypatch.delitem(sys.modules, "limner.adapters.mlflow_server", raising=False)
    monkeypatch.delattr(limner.adapters, "mlflow_server", raising=False)
    with pytest.raises(LimnerError, match=r"MLflow is not installed[\s\S]*--no-track"):
        connect()


def test_untracked_steps_leave_nothing_behind() -> None:
    ports = connect(track=False)
    assert isinstance(ports.tracker, UntrackedTracker)
    assert isinstance(ports.registry, UntrackedRegistry)
    with ports.tracker.run("digits", run_id="abc") as run:
        run.params({"a": "b"})
        run.metrics({"a": 1.0}, images_seen=1)
        run.picture("samples", np.zeros((2, 2, 1), np.uint8), images_seen=1)
        run.file(Path(__file__))
        run.dataset("digits", digest="d", source="mnist5k")
        run.tags({"a": "b"})
    assert run.id == "abc"
    candidate = ModelVersion("digits", "")
    assert ports.registry.register(candidate, Path("export"), run_id="abc") == candidate
    ports.registry.promote(candidate, instead_of=None, reason="")
    assert ports.registry.champion("digits") is None
    assert not list(Path().iterdir())


def write_journal(path: Path, *images: int) -> Path:
    lines = [{"images": n, "step": n // 10, "seconds": n / 100, "metrics": {"loss": 1 / n}} for n in images]
    quick = {"images": 20, "step": 2, "seconds": 0.2, "metrics": {"quick/fd": 3.0}}
    event = {"images": 20, "step": 2, "event": "resumed"}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, quick, event]))
    return path


def test_replay_sends_exactly_what_the_run_lacks(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    uri = database(tmp_path, tmp_path_factory)
    with connect(tracking_uri=uri).tracker.run("digits") as run:
        run.metrics({"loss": 1 / 10}, images_seen=10)
        run.metrics({"loss": 1 / 30}, images_seen=30)
    journal = write_journal(tmp_path / "journal.jsonl", 10, 20, 30, 40)
    assert replay(journal, name="digits", run_id=run.id, finished=True, tracking_uri=uri) == (run.id, 3)
    assert replay(journal, name="digits", run_id=run.id, finished=True, tracking_uri=uri) == (run.id, 0)
    client = find_server(uri).client
    history = client.get_metric_history(run.id, "loss")
    assert sorted((metric.step, metric.value) for metric in history) == [(n, 1 / n) for n in (10, 20, 30, 40)]
    assert [metric.step for metric in client.get_metric_history(run.id, "quick/fd")] == [20]
    began = client.get_run(run.id).info.start_time
    assert {metric.step: metric.timestamp - began for metric in history}[40] == 400  # as long after the beginning


def test_replay_makes_a_run_where_none_could_be_opened(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    uri = database(tmp_path, tmp_path_factory)
    journal = write_journal(tmp_path / "journal.jsonl", 10, 20)
    run_id, points = replay(journal, name="digits", run_id="", finished=True, tracking_uri=uri)
    made = find_server(uri).client.get_run(run_id)
    assert (made.info.run_name, made.info.status, points) == ("digits", "FINISHED", 3)
    write_journal(journal, 10, 20, 30)
    assert replay(journal, name="digits", run_id="", finished=True, tracking_uri=uri) == (run_id, 1)
    other = write_journal(tmp_path / "other.jsonl", 5)
    assert replay(other, name="digits", run_id="", finished=True, tracking_uri=uri)[0] != run_id


@pytest.mark.parametrize(("finished", "status"), [(True, "FINISHED"), (False, "RUNNING")])
def test_replay_ends_a_run_only_if_its_training_has_ended(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, finished: bool, status: str
) -> None:
    uri = database(tmp_path, tmp_path_factory)
    client = find_server(uri).client
    left_running = client.create_run("0").info.run_id
    journal = write_journal(tmp_path / "journal.jsonl", 10)
    replay(journal, name="digits", run_id=left_running, finished=finished, tracking_uri=uri)
    assert client.get_run(left_running).info.status == status


def test_replay_of_an_empty_journal_says_so(tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match=r"has no points[\s\S]*limner train"):
        replay(tmp_path / "absent.jsonl", name="digits", run_id="", finished=True)


def test_replay_to_a_dead_server_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "urllib3")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal = write_journal(tmp_path / "journal.jsonl", 10)
    with pytest.raises(LimnerError, match="did not take"):
        replay(journal, name="digits", run_id="", finished=True, tracking_uri="http://127.0.0.1:9")


def test_the_kubeflow_run_and_the_image_are_told_to_the_lineage(monkeypatch: pytest.MonkeyPatch) -> None:
    assert connect(track=False).provenance == {}
    monkeypatch.setenv("KFP_RUN_ID", "environment")
    monkeypatch.setenv("LIMNER_IMAGE", "registry.example.org/limner-python@sha256:abc")
    assert connect(track=False).provenance == {"kubeflow_run": "environment", "image_digest": "sha256:abc"}
    assert connect(track=False, kubeflow_run="argument").provenance["kubeflow_run"] == "argument"
    monkeypatch.setenv("LIMNER_IMAGE", "limner-python:1")
    assert "image_digest" not in connect(track=False).provenance
