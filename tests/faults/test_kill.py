"""SIGKILL at random moments: a run that goes on ends as one that was never killed, in its weights and its records."""

import dataclasses
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limner.adapters import connect, find_server
from limner.adapters.untracked import UntrackedRun, UntrackedTracker
from limner.journal import read_journal
from limner.steps.train import train
from tests import s3_stand
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings

CLOCK = {"images_per_second", "memory_gib"}
"""Figures of the machine, not of the run."""
PATIENCE_SECONDS = 120
SHORT, LONG, LONG_TRANSLATION = 0.96, 12.8, 6.4
"""Thousands of images: a second of training or two, and a dozen or two."""
TRANSLATIONS, SELDOM = ["fastcut", "cyclegan", "pix2pix"], ["fastcut", "pix2pix"]


@dataclass
class Job:
    """`limner train toy` in a folder of its own, with an MLflow database there; it can be killed and started again."""

    folder: Path
    params: Path
    dataset: Path
    environment: dict[str, str]

    @contextmanager
    def process(self):
        words = [
            sys.executable,
            "-m",
            "limner",
            "train",
            "toy",
            "--params",
            str(self.params),
            "--dataset",
            self.dataset,
        ]
        with (self.folder / "screen.txt").open("a") as screen:
            process = subprocess.Popen(
                words, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=screen
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def finish(self):
        with self.process() as process:
            assert process.wait(timeout=PATIENCE_SECONDS) == 0, (self.folder / "screen.txt").read_text()
        return self.folder / "models" / "toy"

    def kill(self, rng, *, within_seconds, while_writing=False):
        """Start it, and kill it at some moment after its first line; or in the middle of writing a checkpoint."""
        before = self._written()
        with self.process() as process:
            self._until(process, lambda: self._written() > before)
            time.sleep(rng.uniform(0, within_seconds))
            if while_writing:
                self._until(process, lambda: any(self.folder.glob("runs/toy/*/checkpoints/*.partial")))
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL

    def _written(self):
        return max((p.stat().st_mtime_ns for p in self.folder.glob("runs/toy/*/journal.jsonl")), default=0)

    def _until(self, process, happened):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            assert process.poll() is None, f"it was faster: {(self.folder / 'screen.txt').read_text()}"
            assert time.monotonic() < deadline
            time.sleep(0.001)


def figures(model):
    """The journal's lines of figures, without the clock's."""
    return [
        (line["images"], line["step"], {k: v for k, v in line["metrics"].items() if k not in CLOCK})
        for line in read_journal(model / "journal.jsonl")
        if "metrics" in line
    ]


def recorded(job):
    """Status of the one run in MLflow, and for each metric its points in the order of their arrival."""
    client = find_server(job.environment["MLFLOW_TRACKING_URI"]).client
    (experiment,) = client.search_experiments(filter_string="name = 'limner'")
    (run,) = client.search_runs([experiment.experiment_id])
    points = {
        name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    return run.info.status, points


def refuse_difference(whole, job):
    """Both have ended: the same weights, the same journal, the same curves in MLflow, nothing doubled or missing."""
    one, other = whole.folder / "models" / "toy", job.folder / "models" / "toy"
    for which in ("last", "best"):
        first, second = (load_file(model / which / "model.safetensors") for model in (one, other))
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.equal(value, second[name]), f"{which} {name}"
    assert figures(one) == figures(other)
    (status, curves), (whole_status, whole_curves) = recorded(job), recorded(whole)
    assert status == whole_status == "FINISHED"
    assert curves.keys() == whole_curves.keys()
    for name, points in curves.items():
        expected = whole_curves[name]
        assert [step for step, _ in points] == [step for step, _ in expected], name
        assert name in CLOCK or points == expected, name
    assert set(curves) == {name for line in read_journal(other / "journal.jsonl") for name in line.get("metrics", ())}


@pytest.fixture(scope="module")
def start(toys, surroundings, tmp_path_factory):
    """A job of so many images, in an environment of its own."""

    def job(name, *, kimg, method="small", **environment):
        folder = tmp_path_factory.mktemp(name)
        train = {
            "kimg": kimg, "log_kimg": 0.048, "sample_kimg": 0.48, "checkpoint_kimg": 0.096, "judge_kimg": 0.24,
        }  # fmt: skip
        environment = surroundings | {"MLFLOW_TRACKING_URI": database(folder, tmp_path_factory)} | environment
        return Job(folder, *toys.files(folder, method, train=train), environment)

    return job


@pytest.fixture(scope="module")
def whole(start):
    """A job that nobody disturbed."""

    @cache
    def finished(*, kimg, method="small"):
        job = start("whole", kimg=kimg, method=method)
        job.finish()
        return job

    return finished


@pytest.fixture(scope="module")
def address():
    with s3_stand.server() as address:
        yield address


def in_the_store(address, monkeypatch):
    bucket = s3_stand.bucket(monkeypatch, address)
    return s3_stand.SETTINGS | {"AWS_ENDPOINT_URL": address, "LIMNER_CHECKPOINTS": f"s3://{bucket}/runs"}


def kill_again_and_again(job, *, times, within_seconds, machine_lost=False):
    rng = random.Random(0)
    for turn in range(times):
        job.kill(rng, within_seconds=within_seconds, while_writing=turn % 2 == 1)
        assert not (job.folder / "models").exists(), "nothing half-written"
        if machine_lost:
            shutil.rmtree(job.folder / "runs")
    job.finish()
    assert not list((job.folder / "runs").glob("toy/*")), "a finished run leaves no scratch"


@pytest.mark.parametrize("method", ["small", "cyclegan", *(pytest.param(m, marks=pytest.mark.slow) for m in SELDOM)])
def test_a_run_killed_twice_ends_as_if_it_never_was(start, whole, method):
    job = start("killed", kimg=SHORT, method=method)
    kill_again_and_again(job, times=2, within_seconds=0.3)
    refuse_difference(whole(kimg=SHORT, method=method), job)


def test_a_run_that_loses_its_machine_goes_on_from_the_object_store(start, whole, address, monkeypatch):
    job = start("lost", kimg=SHORT, **in_the_store(address, monkeypatch))
    kill_again_and_again(job, times=1, within_seconds=0.3, machine_lost=True)
    refuse_difference(whole(kimg=SHORT), job)


class PowerCut(Exception):
    """Ends a run without warning."""


def test_points_that_a_killed_process_had_not_sent_yet_are_sent_by_the_next(toys, tmp_path, tmp_path_factory):
    """They travel to MLflow in the background; what the journal has of them by the checkpoint never comes again."""
    ports = connect(tracking_uri=database(tmp_path, tmp_path_factory))
    settings = toys.settings("small", train={"kimg": 0.48, "log_kimg": 0.048, "checkpoint_kimg": 0.16})
    go = partial(
        train,
        settings,
        name="toy",
        dataset=toys.dataset_of(settings),
        output=tmp_path / "model",
        scratch=tmp_path / "runs",
    )

    class OnTheWay:
        @contextmanager
        def run(self, name, *, run_id=""):
            with ports.tracker.run(name, run_id=run_id) as opened:
                opened.metrics = lambda values, *, images_seen: None
                yield opened

    def cut(images, total, figures):
        if images > 240:
            raise PowerCut

    with pytest.raises(PowerCut):
        go(ports=dataclasses.replace(ports, tracker=OnTheWay(), progress=cut))
    result = go(ports=ports)
    sent = ports.tracker.server.client.get_metric_history(result.run_id, "loss/generator")
    assert [point.step for point in sent] == [images for images, _, _ in figures(result.output)]


def test_a_machine_lost_before_its_first_checkpoint_leaves_its_tracked_run(toys, address, monkeypatch, tmp_path):
    """The next one goes on in it."""
    place = f"s3://{s3_stand.bucket(monkeypatch, address)}/runs"
    settings = toys.settings("small", train={"kimg": 0.032})

    class Asked(UntrackedTracker):
        def __init__(self):
            self.asked = []

        @contextmanager
        def run(self, name, *, run_id=""):
            self.asked.append(run_id)
            yield UntrackedRun(f"run-{len(self.asked)}")

    def lose(run):
        raise PowerCut

    tracker = Asked()
    ports = dataclasses.replace(connect(track=False, checkpoints=place), tracker=tracker)
    go = partial(train, settings, name="toy", dataset=toys.dataset_of(settings), output=tmp_path / "model", ports=ports)
    with monkeypatch.context() as lost:
        lost.setattr("limner.steps.train.run_loop", lose)
        with pytest.raises(PowerCut):
            go(scratch=tmp_path / "one")
    go(scratch=tmp_path / "other")
    assert tracker.asked == ["", "run-1"]


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_as_if_it_never_was(start, whole):
    job = start("killed", kimg=LONG)
    kill_again_and_again(job, times=10, within_seconds=1.5)
    refuse_difference(whole(kimg=LONG), job)


@pytest.mark.slow
@pytest.mark.parametrize("method", TRANSLATIONS)
def test_a_translation_killed_ten_times_ends_as_if_it_never_was(start, whole, method):
    """With its image pool, its batch statistics, and its dropout."""
    job = start("killed", kimg=LONG_TRANSLATION, method=method)
    kill_again_and_again(job, times=10, within_seconds=1.0)
    refuse_difference(whole(kimg=LONG_TRANSLATION, method=method), job)


@pytest.mark.slow
def test_a_run_that_loses_ten_machines_goes_on_from_the_object_store(start, whole, address, monkeypatch):
    job = start("lost", kimg=LONG, **in_the_store(address, monkeypatch))
    kill_again_and_again(job, times=10, within_seconds=1.5, machine_lost=True)
    refuse_difference(whole(kimg=LONG), job)
