"""Two processes on this machine train what one would: the same weights, one voice, and one can go on for two."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from safetensors.torch import load_file

from limner.adapters import find_server
from limner.journal import read_journal
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings

PATIENCE_SECONDS = 120
TRAIN = {"kimg": 0.48, "micro_batch": 8, "log_kimg": 0.08, "sample_kimg": 0.24, "checkpoint_kimg": 0.16,
         "judge_kimg": 0.16}  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass
class Job:
    """`limner train toy` in a folder of its own, in one process or in several."""

    folder: Path
    params: Path
    dataset: Path
    environment: dict[str, str]
    track: bool = False

    @contextmanager
    def started(self, processes):
        words = ["-m", "limner", "train", "toy", "--params", self.params, "--dataset", self.dataset]
        words += [] if self.track else ["--no-track"]
        if processes > 1:
            meeting = ["--nproc-per-node", str(processes), "--master-addr", "127.0.0.1", "--master-port", free_port()]
            words = ["-m", "torch.distributed.run", *meeting, *words]
        running = subprocess.Popen(
            [sys.executable, *map(str, words)], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            yield running
        finally:
            running.terminate()  # so that torchrun ends its processes
            try:
                running.wait(timeout=20)
            except subprocess.TimeoutExpired:
                running.kill()
            running.stdout.close()
            running.stderr.close()

    def finish(self, processes):
        """Exit status, standard output and standard error of a whole run."""
        with self.started(processes) as running:
            out, err = running.communicate(timeout=PATIENCE_SECONDS)
            return running.returncode, out, err

    def stop(self, processes, *, number, after_images):
        """Send a signal to the last of the processes once so many images are in the journal; wait for all to end."""
        with self.started(processes) as running:
            self.wait_until(running, lambda: self.images() >= after_images)
            os.kill(max(children(running.pid), default=running.pid), number)
            out, err = running.communicate(timeout=PATIENCE_SECONDS)
            return running.returncode, out, err

    def images(self):
        return max((line["images"] for path in self.journals() for line in read_journal(path)), default=0)

    def journals(self):
        return list(self.folder.glob("runs/toy/*/journal.jsonl"))

    def wait_until(self, running, happened):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not happened():
            if running.poll() is not None:
                raise AssertionError(running.communicate()[1])
            assert time.monotonic() < deadline
            time.sleep(0.002)

    def weights(self):
        """Of the product, last and best: with every buffer."""
        return {
            f"{which} {name}": value
            for which in ("last", "best")
            for name, value in load_file(self.folder / "models" / "toy" / which / "model.safetensors").items()
        }


def children(pid):
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def largest_difference(one, other):
    assert one.keys() == other.keys()
    found = max(float((value.double() - other[name].double()).abs().max()) for name, value in one.items())
    print("largest difference", found)
    return found


@pytest.fixture(scope="module")
def start(toys, surroundings, tmp_path_factory):
    def job(method="small", *, track=False, **train):
        folder = tmp_path_factory.mktemp(method)
        environment = dict(surroundings)
        if track:
            environment["MLFLOW_TRACKING_URI"] = database(folder, tmp_path_factory)
        return Job(folder, *toys.files(folder, method, train=TRAIN | train), environment, track)

    return job


@pytest.fixture(scope="module")
def alone(start):
    """What one process makes of a model."""

    @cache
    def finished(method):
        job = start(method)
        assert job.finish(1)[0] == 0
        return job

    return finished


def told(text):
    """What Limner has said, without the words of torchrun."""
    return [line for line in text.splitlines() if re.match(r"(toy  |output|run id|images seen|Error|Why|Fix)", line)]


SELDOM = [pytest.param(method, marks=pytest.mark.slow) for method in ("sngan", "fastcut", "pix2pix-certain", "pix2pix")]


@pytest.mark.parametrize("method", ["small", "r3gan", "cyclegan", *SELDOM])
def test_two_processes_train_what_one_does(start, alone, method):
    one, two = alone(method), start(method)
    status, out, err = two.finish(2)
    assert status == 0, err
    assert largest_difference(one.weights(), two.weights()) < 1e-5
    lines = [read_journal(job.folder / "models" / "toy" / "journal.jsonl") for job in (one, two)]
    assert [line["images"] for line in lines[0]] == [line["images"] for line in lines[1]]
    quick = [[line["metrics"] for line in each if "quick/fd_pixels" in line.get("metrics", {})] for each in lines]
    assert len(quick[0]) == 3
    for alone_found, together_found in zip(*quick, strict=True):
        assert together_found == pytest.approx(alone_found, rel=1e-3)
    assert sum(line.startswith("output") for line in out.splitlines()) == 1, "the first process tells, and no other"
    assert len(told(err)) == len(set(told(err)))


def test_two_then_one_then_two_processes_train_what_one_does_at_once(start, toys, alone):
    """A signal to one of them ends both, and what they have done by then is saved: no checkpoint was due."""
    job = start(track=True)
    toys.files(job.folder, "small", train=TRAIN | {"checkpoint_kimg": 48.0})
    status, out, err = job.stop(2, number=signal.SIGTERM, after_images=80)
    assert status != 0
    assert told(out) == []
    assert not any(line.startswith("Error") for line in told(err))
    newest = max(path.name for path in job.folder.glob("runs/toy/*/checkpoints/step-*"))
    assert int(re.match(r"step-(\d+)", newest)[1]) * 16 >= 80, "the very step is saved, not only the beginning"
    assert not (job.folder / "models").exists()

    toys.files(job.folder, "small", train=TRAIN)
    job.stop(1, number=signal.SIGKILL, after_images=240)
    status, _, err = job.finish(2)
    assert status == 0, err
    assert largest_difference(alone("small").weights(), job.weights()) < 1e-5
    refuse_second_writer(job)


def refuse_second_writer(job):
    """One run in MLflow, each of its points once."""
    client = find_server(job.environment["MLFLOW_TRACKING_URI"]).client
    (experiment,) = client.search_experiments(filter_string="name = 'limner'")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    expected = [80, 160, 240, 320, 400, 480]
    for name in ("loss/generator", "loss/discriminator", "signal/diversity"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, name)] == expected, name


def test_uneven_shares_are_refused_in_one_voice(start):
    status, out, err = start(micro_batch=0).finish(2)
    assert status != 0
    (error, why, fix) = [line for line in told(err) if not line.startswith("toy")]
    assert "1 micro-batches cannot be shared out among 2 processes" in error
    assert why.startswith("Why")
    assert "Set train.micro_batch" in fix
    assert told(out) == []
