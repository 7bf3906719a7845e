import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow.artifacts
import numpy as np
import pytest
import requests
from PIL import Image

from limner.adapters import replay
from limner.adapters.mlflow_server import MlflowServer
from limner.adapters.mlflow_tracker import KUBEFLOW_RUN, STOPPED_BY, MlflowTracker, close_abandoned
from limner.errors import LimnerError
from limner.journal import Journal
from tests.mlflow_stand import third_party_warnings

pytestmark = third_party_warnings


@pytest.fixture
def tracker(server: MlflowServer) -> MlflowTracker:
    return MlflowTracker(server)


def points(server: MlflowServer, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in server.client.get_metric_history(run_id, name)]


def status(server: MlflowServer, run_id: str) -> str:
    return str(server.client.get_run(run_id).info.status)


def pictures(server: MlflowServer, run_id: str) -> list[str]:
    files = [file.path for file in server.client.list_artifacts(run_id, "images")]
    return sorted(path for path in files if path.endswith(".png"))


def test_everything_a_run_is_told_is_there_when_it_is_left(server, tracker, tmp_path):
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("<p>")
    with tracker.run("digits-gan") as run:
        run.params({"train.batch": "64", "method.name": "gan", "licence": ""})
        run.dataset("digits", digest="ab" * 32, source="mnist5k")
        run.tags({"limner.model": "digits-gan"})
        for images in (100, 200):
            run.metrics({"loss/generator": 1.5, "loss/discriminator": images / 100}, images_seen=images)
        run.picture("samples", np.zeros((4, 6, 1), np.uint8), images_seen=200)
        run.file(tmp_path / "report", "reports")
        run.file(tmp_path / "report" / "report.html")
    stored = server.client.get_run(run.id)
    assert stored.info.status == "FINISHED"
    assert stored.info.run_name == "digits-gan"
    assert stored.data.params == {"train.batch": "64", "method.name": "gan", "licence": ""}
    assert stored.data.tags["limner.model"] == "digits-gan"
    assert points(server, run.id, "loss/discriminator") == [(100, 1.0), (200, 2.0)]
    (used,) = stored.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("digits", ("ab" * 32)[:36])
    assert json.loads(used.dataset.source)["tags"] == {"source": "mnist5k", "digest": "ab" * 32}
    assert {file.path for file in server.client.list_artifacts(run.id)} == {"images", "reports", "report.html"}
    assert server.client.get_experiment(stored.info.experiment_id).name == "limner"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_picture_arrives_as_it_was_when_it_was_handed_in(server, tracker, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    sent = pixels.copy()
    with tracker.run("digits") as run:
        run.picture("samples", pixels, images_seen=6400)
        pixels[:] = 0  # the caller's buffer is the caller's
    (path,) = pictures(server, run.id)
    assert path.startswith("images/samples+step+6400+")  # what the step slider of the UI reads
    with Image.open(mlflow.artifacts.download_artifacts(f"runs:/{run.id}/{path}", tracking_uri=server.uri)) as image:
        assert (np.asarray(image).reshape(sent.shape) == sent).all()


def test_new_run_says_who_made_it_from_which_commit(server, tracker, project, monkeypatch):
    monkeypatch.chdir(project)
    with tracker.run("digits") as run:
        pass
    tags = server.client.get_run(run.id).data.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert tags["mlflow.source.git.commit"] == head
    assert tags["mlflow.user"]
    assert tags["mlflow.source.name"] == "limner"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("diverged"), "FAILED"),
        (LimnerError("Training has diverged.", "why", "fix"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(143), "KILLED"),
    ],
)
def test_status_is_honest(server, tracker, error, expected):
    with pytest.raises(type(error)), tracker.run("digits") as run:  # noqa: PT012 - leaving the block is the point
        run.metrics({"loss": 1.0}, images_seen=1)
        raise error
    assert status(server, run.id) == expected
    assert points(server, run.id, "loss") == [(1, 1.0)]
    assert type(error).__name__ in server.client.get_run(run.id).data.tags["limner.stopped_by"]


def test_run_is_running_while_it_runs_and_when_it_is_resumed(server, tracker):
    with pytest.raises(KeyboardInterrupt), tracker.run("digits") as run:  # noqa: PT012 - leaving the block is the point
        assert status(server, run.id) == "RUNNING"
        raise KeyboardInterrupt
    with tracker.run("digits", run_id=run.id) as resumed:
        assert status(server, resumed.id) == "RUNNING"
    assert status(server, run.id) == "FINISHED"
    assert "limner.stopped_by" not in server.client.get_run(run.id).data.tags


def test_visit_to_a_finished_run_does_not_move_its_end(server, tracker):
    with tracker.run("digits") as run:
        pass
    end = server.client.get_run(run.id).info.end_time
    time.sleep(0.01)
    with tracker.run("digits", run_id=run.id) as visited:
        visited.tags({"limner.promotion.verdict": "promote"})
    assert server.client.get_run(run.id).info.end_time == end
    assert server.client.get_run(run.id).data.tags["limner.promotion.verdict"] == "promote"


def test_resumed_run_has_no_point_and_no_picture_twice(server, tracker):
    with pytest.raises(KeyboardInterrupt), tracker.run("digits") as run:  # noqa: PT012 - leaving the block is the point
        for images in (100, 200, 300):
            run.metrics({"loss": images / 7, "often/nan": math.nan}, images_seen=images)
            run.picture("samples", np.zeros((2, 2, 1), np.uint8), images_seen=images)
        raise KeyboardInterrupt
    with tracker.run("digits", run_id=run.id) as resumed:  # from a checkpoint after 100 images, on other hardware
        for images in (200, 300, 400):
            resumed.metrics({"loss": images / 7 + 1e-6, "often/nan": math.nan}, images_seen=images)
            resumed.metrics({"quick/fd": 2.0}, images_seen=images)  # a metric of its own, at the same moments
            resumed.picture("samples", np.zeros((2, 2, 1), np.uint8), images_seen=images)
    assert [step for step, _ in points(server, run.id, "loss")] == [100, 200, 300, 400]
    assert [step for step, _ in points(server, run.id, "often/nan")] == [100, 200, 300, 400]
    assert [step for step, _ in points(server, run.id, "quick/fd")] == [200, 300, 400]
    assert len(pictures(server, run.id)) == 4


def test_repeated_evaluation_replaces_its_value_and_an_equal_one_is_not_repeated(server, tracker):
    with tracker.run("digits") as run:
        run.metrics({"loss": 1.0}, images_seen=400)
    for value in (3.0, 3.0, 2.5, math.nan, math.nan):
        with tracker.run("digits", run_id=run.id) as evaluated:
            evaluated.metrics({"fd_classifier": value}, images_seen=400)
    steps_and_values = points(server, run.id, "fd_classifier")
    assert sorted(str(value) for _, value in steps_and_values) == ["2.5", "3.0", "nan"]


def test_changed_setting_becomes_a_tag_and_a_new_one_a_param(server, tracker):
    with tracker.run("digits") as run:
        run.params({"train.kimg": "40", "train.batch": "64"})
    for kimg in ("80", "90"):
        with tracker.run("digits", run_id=run.id) as resumed:
            resumed.params({"train.kimg": kimg, "train.batch": "64", "train.seed": "0"})
    data = server.client.get_run(run.id).data
    assert data.params == {"train.kimg": "40", "train.batch": "64", "train.seed": "0"}
    changed = {name: value for name, value in data.tags.items() if name.startswith("resume.")}
    assert changed == {"resume.1.train.kimg": "80", "resume.2.train.kimg": "90"}


def test_many_and_long_settings_fit(server, tracker):
    with tracker.run("digits") as run:
        run.params({f"p{n}": "x" for n in range(250)} | {"long": "y" * 9000})
        run.tags({"long": "z" * 9000})
    data = server.client.get_run(run.id).data
    assert len(data.params) == 251
    assert (len(data.params["long"]), len(data.tags["long"])) == (6000, 8000)


def test_unknown_run_is_continued_by_another_and_always_the_same(server, tracker, caplog):
    with tracker.run("digits", run_id="0" * 32) as run:
        run.metrics({"loss": 1.0}, images_seen=1)
    assert run.id != "0" * 32
    assert server.client.get_run(run.id).data.tags["limner.continues"] == "0" * 32
    assert "does not know the run" in caplog.text
    with tracker.run("digits", run_id="0" * 32) as again:
        pass
    assert again.id == run.id


def test_deleted_run_is_continued_by_a_new_one(server, tracker):
    with tracker.run("digits") as run:
        pass
    server.client.delete_run(run.id)
    with tracker.run("digits", run_id=run.id) as other:
        pass
    assert other.id != run.id


def test_what_mlflow_refuses_is_told_and_takes_nothing_with_it(server, tracker, caplog):
    with tracker.run("digits") as run:
        for images in (1, 2, 3):
            run.metrics({"loss": 1.0}, images_seen=images)
            run.metrics({"D(real)": 0.5}, images_seen=images)  # MLflow has no parentheses in names
        run.tags({"after": "it"})
    assert len(points(server, run.id, "loss")) == 3
    assert server.client.get_run(run.id).data.tags["after"] == "it"
    assert "refused a record" in caplog.text
    assert "3 points of the curves and 0 other records did not arrive" in caplog.text
    assert "limner track replay digits" in caplog.text


@pytest.mark.parametrize("kind", ["folder", "text"])
def test_unusable_database_is_a_warning_and_no_error(kind, tmp_path, caplog):
    path = tmp_path / "mlflow.db"
    path.mkdir() if kind == "folder" else path.write_text("This is no database, but long enough to be looked at." * 9)
    with MlflowTracker(MlflowServer(f"sqlite:///{path}")).run("digits", run_id="kept") as run:
        run.metrics({"loss": 1.0}, images_seen=1)
    assert run.id == "kept"
    assert caplog.text.count("cannot be used, so this run is not recorded") == 1


def test_dead_server_costs_seconds_and_one_warning(caplog):
    began = time.monotonic()
    with MlflowTracker(MlflowServer("http://127.0.0.1:9")).run("digits") as run:
        run.metrics({"loss": 1.0}, images_seen=1)
    assert time.monotonic() - began < 20
    assert run.id == ""
    warnings = [record for record in caplog.records if record.name.startswith("limner")]
    assert len(warnings) == 1
    assert "limner track replay digits" in warnings[0].getMessage()
    assert "MLFLOW_HTTP_REQUEST_TIMEOUT" not in os.environ


@pytest.fixture
def live(server: MlflowServer, tmp_path: Path) -> Iterator[tuple[MlflowServer, subprocess.Popen]]:
    """A server process in front of the database."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    stores = ["--backend-store-uri", server.uri, "--artifacts-destination", str(tmp_path / "served")]
    off = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (tmp_path / "server.log").open("w") as log:
        # A group of its own, because the server's workers outlive a killed parent.
        process = subprocess.Popen(
            [*command, *stores], stdout=log, stderr=log, env={**os.environ, **off}, start_new_session=True
        )
        try:
            _wait_for(f"http://127.0.0.1:{port}/health", process)
            yield MlflowServer(f"http://127.0.0.1:{port}"), process
        finally:
            _kill(process)


def _wait_for(url: str, process: subprocess.Popen) -> None:
    for _ in range(600):
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.RequestException:
            assert process.poll() is None, "the server has ended"
            time.sleep(0.2)
    raise AssertionError("the server does not answer")


def _kill(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_server_killed_in_mid_run_stops_nothing_and_replay_fills_the_gap(live, server, tmp_path, caplog):
    http, process = live
    path = tmp_path / "journal.jsonl"
    longest = 0.0
    with MlflowTracker(http).run("digits") as run:
        run.params({"train.batch": "64"})
        with Journal(path, listener=lambda line: run.metrics(line["metrics"], images_seen=line["images"])) as journal:
            for images in range(1, 61):
                if images == 31:
                    _wait_until(lambda: len(points(server, run.id, "loss")) == 30)
                    _kill(process)
                began = time.monotonic()
                journal.metrics({"loss": 1 / images, "odd": math.nan}, images=images, step=images, seconds=images / 10)
                run.picture("samples", np.zeros((2, 2, 1), np.uint8), images_seen=images)
                run.tags({"at": str(images)})
                longest = max(longest, time.monotonic() - began)
        run.file(path)
    assert longest < 0.5  # nobody waited for the dead server
    own = [record.getMessage() for record in caplog.records]
    assert len(own) == 2
    assert "does not answer; training goes on" in own[0]
    assert "30 points of the curves" in own[1]
    assert "limner track replay digits" in own[1]
    assert len(points(server, run.id, "loss")) == 30
    assert status(server, run.id) == "RUNNING"  # nobody could say otherwise

    assert replay(path, name="digits", run_id=run.id, finished=True, tracking_uri=server.uri) == (run.id, 30)
    assert points(server, run.id, "loss") == [(images, 1 / images) for images in range(1, 61)]
    assert len(points(server, run.id, "odd")) == 60
    assert status(server, run.id) == "FINISHED"


def _wait_until(condition) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen")


# -- what a killed process leaves open --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "status"), [("FAILED", "FAILED"), ("CANCELED", "KILLED"), ("SUCCEEDED", "FINISHED"), ("", "FAILED")]
)
def test_runs_that_a_pipeline_has_left_open_are_ended_as_what_they_are(server, state, status):
    client, experiment = server.client, server.find_experiment()

    def left(pipeline: str, ended: str = "") -> str:
        run = client.create_run(experiment, tags={KUBEFLOW_RUN: pipeline})
        if ended:
            client.set_terminated(run.info.run_id, ended)
        return str(run.info.run_id)

    mine, done, others = left("one"), left("one", "FINISHED"), left("two")
    assert close_abandoned(server, "one", state=state, why="The node went away.") == (mine,)
    assert [client.get_run(run).info.status for run in (mine, done, others)] == [status, "FINISHED", "RUNNING"]
    why = "" if status == "FINISHED" else "Kubeflow run one: The node went away."
    assert client.get_run(mine).data.tags.get(STOPPED_BY, "") == why
    assert close_abandoned(server, "one", state=state, why="") == ()


def test_a_server_that_is_away_is_told_in_words(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LimnerError, match="cannot be asked which runs are still open"):
        close_abandoned(MlflowServer("http://127.0.0.1:9"), "one", state="FAILED", why="")
