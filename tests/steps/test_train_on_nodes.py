"""Training on many nodes: the step that asks for them, and the nodes, each a torchrun of its own as in a TrainJob."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from limner.adapters import connect
from limner.adapters.object_store import S3Store
from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.steps import catalog_from_json, open_catalog
from limner.steps.prepare import prepare
from limner.steps.train import train
from limner.steps.train_on_nodes import LIST, receive, send, train_on_nodes
from limner.train_job import Nodes
from tests import mlflow_stand, s3_stand


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    with s3_stand.server() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return s3_stand.bucket(monkeypatch, s3)


@pytest.fixture
def place(bucket: str) -> str:
    return f"s3://{bucket}/runs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in {"a.txt": "first", "deep/b.bin": "second"}.items():
        path = tmp_path / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "folder"


class Machines:
    """A cluster whose nodes are processes of this machine: torchrun gets by PET_* what Kubeflow Trainer tells it."""

    def __init__(self, tracking_uri: str, work: Path) -> None:
        self.jobs: list[Mapping[str, Any]] = []
        self._tracking_uri, self._work = tracking_uri, work

    def finish(self, manifest: Mapping[str, Any]) -> None:
        self.jobs.append(manifest)
        trainer = manifest["spec"]["trainer"]
        values = {each["name"]: each["value"].replace("$$", "$") for each in trainer["env"] if "value" in each}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        nodes = []
        for rank in range(trainer["numNodes"]):
            pet = {
                "PET_NNODES": trainer["numNodes"], "PET_NPROC_PER_NODE": trainer["numProcPerNode"],
                "PET_NODE_RANK": rank, "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port,
            }  # fmt: skip
            own = {"MLFLOW_TRACKING_URI": self._tracking_uri, "TMPDIR": str(self._work / str(rank))}
            (self._work / str(rank)).mkdir(parents=True)
            words = [
                str(Path(sys.executable).with_name(trainer["command"][0])),
                *trainer["command"][1:],
                *trainer["args"],
            ]
            surroundings = {**os.environ, **values, **{key: str(value) for key, value in pet.items()}, **own}
            nodes.append(subprocess.Popen(words, env=surroundings, stderr=subprocess.PIPE, text=True))
        said = [node.communicate(timeout=200)[1] for node in nodes]
        assert [node.returncode for node in nodes] == [0] * len(nodes), "\n".join(said)


@mlflow_stand.third_party_warnings
@pytest.mark.pipeline
def test_many_nodes_train_what_one_would(
    tiny_params: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, place: str
) -> None:
    # Two processes share a batch by its micro-batches, and one alone has to take the same ones for the same sums.
    text = open_catalog(tiny_params, ["models.tiny-gan.train.micro_batch=16"]).to_json("tiny-gan")
    catalog = catalog_from_json(text)
    prepare(catalog.dataset("tiny"), name="tiny", output=tmp_path / "data")
    machines = Machines(mlflow_stand.database(tmp_path, tmp_path_factory), tmp_path / "nodes")
    nodes = Nodes("limner@sha256:1", 2, 1, "1", "1Gi", "0", place)
    trained = train_on_nodes(
        text, name="tiny-gan", dataset=tmp_path / "data", output=tmp_path / "model", nodes=nodes, cluster=machines,
        ports=connect(track=False, checkpoints=place, kubeflow_run="run-1"),
    )  # fmt: skip
    alone = train(
        catalog.model("tiny-gan"), name="tiny-gan", dataset=tmp_path / "data", output=tmp_path / "alone",
        scratch=tmp_path / "scratch", ports=connect(track=False),
    )  # fmt: skip
    assert (trained.images_seen, trained.dataset_digest) == (alone.images_seen, alone.dataset_digest)
    assert losses(trained.output) == pytest.approx(losses(alone.output), rel=1e-3)
    record = read_lineage(trained.output)
    assert record["run_id"] == trained.run_id != ""
    assert record["kubeflow_run"] == "run-1"
    left = S3Store(place).sizes("")
    assert not [key for key in left if "checkpoints" in key], "a finished training leaves no checkpoints"


def losses(model: Path) -> list[float]:
    lines = [json.loads(line) for line in (model / "journal.jsonl").read_text().splitlines()]
    return [line["metrics"]["loss/generator"] for line in lines if "loss/generator" in line.get("metrics", {})]


def test_what_is_sent_arrives(folder: Path, place: str, tmp_path: Path) -> None:
    store = S3Store(place)
    send(folder, store, "here")
    receive(store, "here", tmp_path / "there")
    assert (tmp_path / "there" / "deep" / "b.bin").read_text() == "second"
    assert sorted(path.name for path in (tmp_path / "there").rglob("*")) == ["a.txt", "b.bin", "deep"]


class Counting:
    """An object store that remembers what is put into it, and can fail."""

    def __init__(self, store: S3Store) -> None:
        self._store, self.put_keys, self.fails_at = store, [], ""  # type: ignore[var-annotated]
        self.sizes, self.get, self.delete = store.sizes, store.get, store.delete

    def put(self, key: str, path: Path) -> None:
        if key == self.fails_at:
            raise LimnerError("The store is full.")
        self.put_keys.append(key)
        self._store.put(key, path)


def test_what_is_there_is_not_sent_twice(folder: Path, place: str) -> None:
    store = Counting(S3Store(place))
    send(folder, store, "here")
    assert store.put_keys == ["here/a.txt", "here/deep/b.bin", f"here/{LIST}"], "the list is last"
    send(folder, store, "here")
    assert len(store.put_keys) == 3
    (folder / "a.txt").write_text("other")
    send(folder, store, "here")
    assert len(store.put_keys) == 6


def test_what_was_sent_in_part_is_not_taken_for_whole(folder: Path, place: str, tmp_path: Path) -> None:
    store = Counting(S3Store(place))
    send(folder, store, "here")
    (folder / "a.txt").write_text("newer")
    store.fails_at = "here/deep/b.bin"
    with pytest.raises(LimnerError, match="full"):
        send(folder, store, "here")
    with pytest.raises(LimnerError, match="nothing whole at here"):
        receive(store, "here", tmp_path / "there")
    assert not (tmp_path / "there").exists()
    store.fails_at = ""
    send(folder, store, "here")
    receive(store, "here", tmp_path / "there")
    assert (tmp_path / "there" / "a.txt").read_text() == "newer"


def test_files_that_are_no_more_go_from_the_store(folder: Path, place: str) -> None:
    store = S3Store(place)
    send(folder, store, "here")
    (folder / "a.txt").unlink()
    send(folder, store, "here")
    assert set(store.sizes("here/")) == {"here/deep/b.bin", f"here/{LIST}"}


def test_a_changed_file_is_found(folder: Path, place: str, tmp_path: Path) -> None:
    store = S3Store(place)
    send(folder, store, "here")
    (folder / "a.txt").write_text("fisrt")
    store.put("here/a.txt", folder / "a.txt")
    with pytest.raises(LimnerError, match=r"here/a\.txt in the object store is not what was sent"):
        receive(store, "here", tmp_path / "there")
    assert not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("listing", "said"),
    [('{"../x": "0"}', "outside of its folder"), ("[]", "not a list of files"), ("{", "not a list")],
)
def test_a_list_that_is_none_is_refused(place: str, tmp_path: Path, listing: str, said: str) -> None:
    (tmp_path / "list").write_text(listing)
    S3Store(place).put(f"here/{LIST}", tmp_path / "list")
    with pytest.raises(LimnerError, match=said):
        receive(S3Store(place), "here", tmp_path / "there")


def test_without_a_store_it_says_so(tiny_params: Path, tmp_path: Path) -> None:
    nodes = Nodes("limner@sha256:1", 2, 1, "1", "1Gi", "0", "s3://bucket/runs")
    text = open_catalog(tiny_params).to_json("tiny-gan")
    with pytest.raises(LimnerError, match="needs an object store"):
        train_on_nodes(
            text, name="tiny-gan", dataset=tmp_path, output=tmp_path / "model", nodes=nodes,
            cluster=Machines("", tmp_path), ports=connect(track=False),
        )  # fmt: skip


def test_the_component_calls_the_step(
    tiny_params: Path, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the point where there is no cluster: the data are there for the nodes by then."""
    from kfp import dsl

    from components.train_on_nodes import train_on_nodes as component

    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nothing"))
    catalog = open_catalog(tiny_params)
    digest = prepare(catalog.dataset("tiny"), name="tiny", output=tmp_path / "data").digest
    with pytest.raises(LimnerError, match="There is no Kubernetes cluster"):
        component.python_func(
            model="tiny-gan", settings=catalog.to_json("tiny-gan"), dataset=dsl.Dataset(uri=str(tmp_path / "data")),
            place=place, image="limner@sha256:1", nodes=2, processes=1, cpu="1", memory="1Gi", gpus="0",
            s3_secret="limner-s3", mlflow_secret="limner-mlflow", kubeflow_run="run-1",
            trained=dsl.Model(uri=str(tmp_path / "model")),
        )  # fmt: skip
    assert f"datasets/{digest}/{LIST}" in S3Store(place).sizes("datasets/")


def test_a_node_without_settings_says_so(place: str) -> None:
    words = ["-m", "limner", "train-node", "tiny-gan", "--place", place, "--key", "k", "--dataset", "d"]
    said = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False, timeout=60)
    assert said.returncode == 2
    assert "LIMNER_SETTINGS is not set" in said.stderr


def test_the_command_of_a_node_is_not_for_people() -> None:
    said = subprocess.run([sys.executable, "-m", "limner", "--help"], capture_output=True, text=True, check=True)
    assert "train-node" not in said.stdout
