"""What a cluster does to a training that runs long: pods are killed, machines are lost, MLflow is away.

Data comes by its md5 from a DVC remote in a real S3 server, checkpoints go there. `laptop` is MLflow on SQLite; `team`
is MLflow's server on PostgreSQL with its artifacts in S3. The steps are the Kubeflow components' own functions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from kfp import dsl
from mlflow import MlflowClient
from mlflow.entities import Run
from ruamel.yaml import YAML
from safetensors.torch import load_file

from limner.adapters import connect, find_server
from limner.checkpoint import position
from limner.journal import read_journal
from limner.steps import catalog_from_json
from limner.steps.train import train as train_directly
from tests import postgres_stand, weed_stand
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings

PROJECT = Path(__file__).parents[2]
PATIENCE_SECONDS = 120
TRAIN = """
import json, sys
from kfp import dsl
from components.train import train
given, places = map(json.loads, sys.argv[1:])
artifacts = {name: dsl.Artifact(uri=place) for name, place in places.items()}
train.python_func(**given, **artifacts)
"""
"""The pod of the train component, as a program."""
BESIDE = {"kubeflow_run": "the-run", "resources": "one processor", "judge_champion": False}
"""What some steps are told beside."""


@dataclass(frozen=True)
class Stack:
    """The servers beside Kubeflow."""

    bucket: str
    environment: Mapping[str, str]
    backend: str
    folder: Path

    def mlflow(self, port: int = 0) -> AbstractContextManager[str]:
        """Address of an MLflow server on the backend."""
        artifacts = f"s3://{self.bucket}/mlflow"
        return postgres_stand.mlflow_server(
            self.folder, backend=self.backend, artifacts=artifacts, environment=self.environment, port=port
        )

    def checkpoints(self) -> list[str]:
        """The whole checkpoints that the bucket has, without that of the very beginning."""
        client = boto3.Session().client("s3", endpoint_url=self.environment["AWS_ENDPOINT_URL"])
        found = client.list_objects_v2(Bucket=self.bucket, Prefix="checkpoints/").get("Contents", ())
        whole = [Path(each["Key"]).parent.name for each in found if each["Key"].endswith("/manifest.json")]
        return [name for name in whole if (position(name) or (0, 0))[0] > 0]


needs_postgres = pytest.mark.skipif(not postgres_stand.programs(), reason="PostgreSQL is not installed")


@pytest.fixture(params=["laptop", pytest.param("team", marks=[pytest.mark.slow, needs_postgres])])
def stack(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Stack]:
    backends = {"laptop": nullcontext(database(tmp_path, tmp_path_factory)), "team": postgres_stand.cluster()}
    with weed_stand.server(tmp_path / "s3") as weed, backends[request.param] as backend:
        bucket = weed_stand.bucket(monkeypatch, weed)
        yield Stack(bucket, weed.environment, backend, tmp_path)


@contextmanager
def tracking(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowClient]:
    """MLflow is there, and this process and its children know where."""
    served = nullcontext(stack.backend) if stack.backend.startswith("sqlite") else stack.mlflow()
    with served as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        yield find_server(address).client


@pytest.fixture
def toy(toys: Any) -> dict[str, str]:
    """The parameters that all steps of a model share."""
    train = {"kimg": 1.92, "log_kimg": 0.048, "sample_kimg": 0.48, "checkpoint_kimg": 0.24, "judge_kimg": 0.48}
    document = toys.document("small", train=train)
    document["models"]["toy"]["evaluate"] |= {"samples": 40}
    return {"model": "toy", "settings": catalog_from_json(json.dumps(document)).to_json("toy")}


@pytest.fixture
def pushed(toys: Any, stack: Stack, tmp_path: Path) -> dict[str, str]:
    """The dataset in a DVC remote: how the component `prepare` is told of it."""
    repository = tmp_path / "repository"
    shutil.copytree(toys.dataset("tiny"), repository / "packed")

    def dvc(*words: str) -> None:
        command = [sys.executable, "-m", "dvc", *words]
        said = subprocess.run(
            command, cwd=repository, env=surroundings, capture_output=True, text=True, check=False, timeout=120
        )
        assert said.returncode == 0, said.stdout + said.stderr

    # Its S3 library takes an empty file of settings for a missing one.
    surroundings = {name: value for name, value in os.environ.items() if not name.endswith("_FILE")}
    surroundings["DVC_NO_ANALYTICS"] = "true"
    dvc("init", "--quiet", "--no-scm")
    remote, address = f"s3://{stack.bucket}/dvc", stack.environment["AWS_ENDPOINT_URL"]
    lines = ("[core]", "no_scm = True", "remote = storage")
    lines += ("['remote \"storage\"']", f"url = {remote}", f"endpointurl = {address}")
    (repository / ".dvc" / "config").write_text("\n".join(lines))
    dvc("add", "--quiet", "packed")
    dvc("push", "--quiet")
    (out,) = YAML(typ="safe").load((repository / "packed.dvc").read_text())["outs"]
    return {"dataset_md5": out["md5"], "remote": remote, "dataset_path": ""}


@dataclass(frozen=True)
class Pod:
    """The step `train` in a process of its own, on a disk of its own."""

    disk: Path
    given: Mapping[str, Any]
    dataset: str
    trained: Path

    @property
    def said(self) -> str:
        """All that its processes have said."""
        return (self.disk / "said").read_text()

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Its process, while the context lasts."""
        environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        places = {"dataset": self.dataset, "trained": str(self.trained)}
        words = [sys.executable, "-c", TRAIN, json.dumps(dict(self.given)), json.dumps(places)]
        self.disk.mkdir(exist_ok=True)
        with (self.disk / "said").open("a") as said:
            process = subprocess.Popen(words, cwd=self.disk, env=environment, stdout=said, stderr=said)
        try:
            yield process
        finally:
            process.kill()
            process.wait()

    def finish(self) -> None:
        """Run it to its end."""
        with self.running() as process:
            assert process.wait(PATIENCE_SECONDS) == 0, self.said


def pod(stack: Stack, toy: Mapping[str, str], *, dataset: Path, disk: Path, trained: Path | None = None) -> Pod:
    """A pod that trains; its checkpoints go to the bucket, too."""
    from components.train import train

    places = {"scratch": str(disk / "scratch"), "checkpoints": f"s3://{stack.bucket}/checkpoints"}
    given = {**toy, **places, "processes": 1, **told(train)}
    return Pod(disk, given, str(dataset), trained or disk / "trained")


def told(component: Any) -> dict[str, Any]:
    """Those of BESIDE that a component takes."""
    return {name: value for name, value in BESIDE.items() if name in component.python_func.__annotations__}


def call(component: Any, **given: Any) -> Any:
    """What a component's own function returns."""
    return component.python_func(**given, **told(component))


def kill_mid_way(stack: Stack, pod: Pod) -> str:
    """Run it until the bucket has a whole checkpoint of it, then kill it; its disk is lost with it.

    Returns the first line of its journal, which has the time: nobody could write it a second time.
    """
    with pod.running() as process:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not stack.checkpoints():
            assert process.poll() is None, f"it ended before: {pod.said}"
            assert time.monotonic() < deadline, pod.said
            time.sleep(0.01)
        process.kill()
        assert process.wait() < 0, "it was faster"
    assert not pod.trained.exists(), "nothing half-written"
    (journal,) = (pod.disk / "scratch").rglob("journal.jsonl")
    first_line = journal.read_text().splitlines()[0]
    shutil.rmtree(pod.disk)
    return first_line


def runs(client: MlflowClient) -> list[Run]:
    (experiment,) = client.search_experiments(filter_string="name = 'limner'")
    return list(client.search_runs([experiment.experiment_id]))


def refuse_other_curves(client: MlflowClient, run: Run, journal: Path) -> None:
    """MLflow has each point of the journal, once, and no other from the training."""
    lines = [line for line in read_journal(journal) if "metrics" in line]
    expected = {name: {ln["images"] for ln in lines if name in ln["metrics"]} for ln in lines for name in ln["metrics"]}
    for name, moments in expected.items():
        steps = Counter(point.step for point in client.get_metric_history(run.info.run_id, name))
        assert steps == Counter(moments), name


def test_a_training_whose_machine_is_lost_loses_nothing(
    stack: Stack, toy: dict[str, str], pushed: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prepare by md5, train, SIGKILL, retry on another machine, evaluate, export, promote."""
    from components.evaluate import evaluate
    from components.export import export
    from components.prepare import prepare
    from components.promote import promote

    with tracking(stack, monkeypatch) as client:
        dataset = dsl.Dataset(uri=str(tmp_path / "dataset"))
        call(prepare, **toy, **pushed, dataset=dataset)
        first_line = kill_mid_way(stack, pod(stack, toy, dataset=Path(dataset.path), disk=tmp_path / "pod-1"))
        (abandoned,) = runs(client)
        assert abandoned.info.status == "RUNNING", "nobody could say that it had ended"

        again = pod(stack, toy, dataset=Path(dataset.path), disk=tmp_path / "pod-2")
        again.finish()
        assert (again.trained / "journal.jsonl").read_text().startswith(first_line), (
            "it went on, and did not begin anew"
        )
        trained = dsl.Model(uri=str(again.trained))
        evaluation = dsl.Artifact(uri=str(tmp_path / "evaluation"))
        shown = {"metrics": dsl.Metrics(), "report": dsl.HTML(uri=str(tmp_path / "report.html"))}
        call(evaluate, **toy, dataset=dataset, trained=trained, evaluation=evaluation, **shown)
        exported = dsl.Model(uri=str(tmp_path / "exported"))
        card = dsl.Markdown(uri=str(tmp_path / "card.md"))
        call(export, **toy, trained=trained, evaluation=evaluation, exported=exported, card=card)
        assert "](data:image/png;base64," in Path(card.path).read_text(), "as Kubeflow shows it"
        promotion = dsl.Artifact(uri=str(tmp_path / "promotion"))
        call(promote, **toy, evaluation=evaluation, exported=exported, promotion=promotion)

        (run,) = runs(client)
        assert (run.info.run_id, run.info.status) == (abandoned.info.run_id, "FINISHED")
        assert {"report.html", "MODEL_CARD.md", "card"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
        refuse_other_curves(client, run, Path(trained.path) / "journal.jsonl")
        (version,) = client.search_model_versions("name = 'toy'")
        assert (str(version.version), version.run_id) == ("1", run.info.run_id)
        assert str(client.get_model_version_by_alias("toy", "champion").version) == "1"
    assert not stack.checkpoints(), "a finished training leaves none"
    whole = train_directly(
        catalog_from_json(toy["settings"]).model("toy"),
        name="toy",
        dataset=Path(dataset.path),
        output=tmp_path / "whole",
        scratch=tmp_path / "scratch",
        ports=connect(track=False, cache=tmp_path / "cache"),
    )
    for which in ("last", "best"):
        one, other = (load_file(f / which / "model.safetensors") for f in (whole.output, Path(trained.path)))
        assert one.keys() == other.keys()
        assert [name for name, value in one.items() if not torch.equal(value, other[name])] == [], which


@pytest.mark.slow
def test_a_training_that_never_reached_mlflow_is_replayed_to_it(
    stack: Stack, toy: dict[str, str], toys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is down for the whole training."""
    port = postgres_stand.free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    project = tmp_path / "project"
    lonely = pod(stack, toy, dataset=toys.dataset("tiny"), disk=tmp_path / "pod", trained=project / "models" / "toy")
    lonely.finish()
    assert "limner track replay toy" in lonely.said
    with stack.mlflow(port) as address:
        words = [sys.executable, "-m", "limner", "track", "replay", "toy", "--json"]
        replayed = subprocess.run(words, cwd=project, capture_output=True, text=True, check=False, timeout=120)
        assert replayed.returncode == 0, replayed.stderr
        client = find_server(address).client
        (run,) = runs(client)
        assert (run.info.run_id, run.info.status) == (json.loads(replayed.stdout)[0]["run_id"], "FINISHED")
        refuse_other_curves(client, run, project / "models" / "toy" / "journal.jsonl")
