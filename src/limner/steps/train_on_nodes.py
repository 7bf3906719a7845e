"""Train a model on many nodes of a cluster: what the step does that asks for them, and what every node does.

All travels through one object store, because nodes share no disk: the packed dataset to the nodes, their checkpoints
from one attempt to the next, the trained model back. A folder there is whole where its list of files is, which comes
last and has their digests.
"""

from __future__ import annotations

import fcntl
import json
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from limner import __version__
from limner.errors import LimnerError
from limner.lineage import code_name, file_sha256, read_lineage
from limner.packing import PackedDataset
from limner.ports import ObjectStore, Ports
from limner.settings import MethodSettings, ModelSettings
from limner.steps.output import replaced
from limner.steps.train import Trained, train
from limner.train_job import Nodes, job_key, train_job

LIST = "files.json"
"""Beside a folder's files in the store: {"path": sha256}."""


class Cluster(Protocol):
    """Where jobs run."""

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Submit a job, or take up the one of its name, and wait for its end. Raises LimnerError where it fails."""


def train_on_nodes(  # noqa: PLR0913 - it is where all of them meet
    settings: str, *, name: str, dataset: Path, output: Path, nodes: Nodes, cluster: Cluster, ports: Ports
) -> Trained:
    """Train `name`, with the catalog's settings as one JSON string, on so many nodes, and fetch the result.

    The same call after an interruption takes up the job that runs already, and a job that has to begin anew goes on
    from the newest checkpoint.
    """
    store = _store(ports)
    packed = PackedDataset(dataset)
    key = job_key(settings, dataset=packed.digest, version=code_name(__version__))
    run = ports.provenance.get("kubeflow_run", "")
    job = train_job(settings, model=name, key=key, dataset=packed.digest, nodes=nodes, kubeflow_run=run)
    send(dataset, store, _dataset_place(packed.digest))
    cluster.finish(job)
    receive(store, _trained_place(name, key), output)
    record = read_lineage(output)
    return Trained(output, record.get("run_id", ""), int(record.get("images_seen", "0")), packed.digest)


def train_here(  # noqa: PLR0913 - the same
    settings: ModelSettings[MethodSettings],
    *,
    name: str,
    key: str,
    dataset: str,
    work: Path,
    first: bool,
    ports: Ports,
) -> Trained:
    """A node's share: fetch the dataset of that digest, train, and send the result back from the first process.

    `work` is a folder of this node that its processes share. Each of them calls this, as torchrun starts it; `first`
    is the one among all nodes.
    """
    store = _store(ports)
    packed = work / "data" / dataset
    work.mkdir(parents=True, exist_ok=True)
    with (work / "fetching.lock").open("w") as lock:  # one process of the node fetches, the others wait for it
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not packed.exists():
            receive(store, _dataset_place(dataset), packed)
    output = work / "models" / name

    def deliver(folder: Path) -> None:
        if first:
            send(folder, store, _trained_place(name, key))

    scratch = work / "runs" / name
    return train(settings, name=name, dataset=packed, output=output, scratch=scratch, ports=ports, deliver=deliver)


def send(folder: Path, store: ObjectStore, place: str) -> None:
    """Put a folder's files below `place`, unless the same ones are there. Raises LimnerError where the store fails."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    listing = {name: file_sha256(path) for name, path in files.items()}
    there = store.sizes(place + "/")
    with tempfile.TemporaryDirectory(prefix="limner-") as scratch:
        note = Path(scratch, LIST)
        if f"{place}/{LIST}" in there:
            with suppress(LimnerError):
                if _read_list(store, place, note) == listing and _all_there(files, there, place):
                    return
            store.delete([f"{place}/{LIST}"])  # what is being replaced is not whole
        for name, path in files.items():
            store.put(f"{place}/{name}", path)
        note.write_text(json.dumps(listing), encoding="utf-8")
        store.put(f"{place}/{LIST}", note)
        store.delete(there.keys() - {f"{place}/{name}" for name in (*files, LIST)})


def receive(store: ObjectStore, place: str, folder: Path) -> None:
    """Fetch what `send` put below `place`; `folder` is there as a whole or not at all.

    Raises LimnerError where it is not there as a whole or has been changed.
    """
    with tempfile.TemporaryDirectory(prefix="limner-") as scratch:
        listing = _read_list(store, place, Path(scratch, LIST))
    with replaced(folder) as partial:
        for name, digest in listing.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            store.get(f"{place}/{name}", path)
            if file_sha256(path) != digest:
                raise LimnerError(
                    f"{place}/{name} in the object store is not what was sent there.",
                    why="Its SHA-256 is another one.",
                    fix="Start the step again; where that does not help, delete it from the store first.",
                )


def _all_there(files: Mapping[str, Path], there: Mapping[str, int], place: str) -> bool:
    return all(there.get(f"{place}/{name}") == path.stat().st_size for name, path in files.items())


def _read_list(store: ObjectStore, place: str, note: Path) -> dict[str, str]:
    if f"{place}/{LIST}" not in store.sizes(f"{place}/{LIST}"):
        raise LimnerError(
            f"The object store has nothing whole at {place}.",
            why=f"{LIST}, which is sent last, is not there.",
            fix="Start the step again; it sends what is missing.",
        )
    store.get(f"{place}/{LIST}", note)
    try:
        listing = {str(name): str(digest) for name, digest in json.loads(note.read_text(encoding="utf-8")).items()}
    except (ValueError, AttributeError) as error:
        raise LimnerError(f"{place}/{LIST} in the object store is not a list of files.", why=str(error)) from error
    if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in listing):
        raise LimnerError(f"{place}/{LIST} in the object store names a file outside of its folder.")
    return listing


def _store(ports: Ports) -> ObjectStore:
    if ports.store is None:
        raise LimnerError(
            "Training on many nodes needs an object store.",
            why="Data, checkpoints and the trained model travel through it.",
            fix="Name a bucket and a prefix: s3://BUCKET/PREFIX",
        )
    return ports.store


def _dataset_place(digest: str) -> str:
    return f"datasets/{digest}"


def _trained_place(name: str, key: str) -> str:
    return f"{name}/{key}/trained"
