"""A real MLflow for tests: a database with all its tables, made once for all workers and copied for each test."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from limner.lineage import file_sha256, write_lineage

# MLflow uses what SQLAlchemy has deprecated.
third_party_warnings = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy:DeprecationWarning")


def database(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URI of an empty MLflow database in `tmp_path`."""
    # Under pytest-xdist every worker has a folder of its own; their parent is the folder of the whole session.
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if own.name.startswith("popen-") else own
    template = shared / "empty-mlflow.db"
    with (shared / "empty-mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not template.exists():
            from limner.adapters import find_server

            unfinished = shared / "unfinished-mlflow.db"
            find_server(f"sqlite:///{unfinished}").client.search_experiments()
            unfinished.rename(template)
    shutil.copy(template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


class Toy(nn.Module):
    """Noise [N, 4] and labels [N] -> pictures [N, 1, 8, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 64)
        self.embedding = nn.Embedding(3, 64)

    def forward(self, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.linear(noise) + self.embedding(labels)).view(-1, 1, 8, 8)


def write_export(
    folder: Path,
    *,
    digest: str,
    run_id: str = "",
    program: bool = False,
    weights: bytes = b"none",
    costs: Mapping[str, float] | None = None,
) -> Path:
    """An export directory as `limner export` leaves it; without a program it can be registered, but not used."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    if program:
        torch.manual_seed(0)
        batch = {0: torch.export.Dim("batch", min=1, max=65536)}
        example = {"noise": torch.zeros(2, 4), "labels": torch.zeros(2, dtype=torch.int64)}
        shapes = {"noise": batch, "labels": batch}
        torch.export.save(torch.export.export(Toy().eval(), (), example, dynamic_shapes=shapes), folder / "model.pt2")
    config = {
        "name": folder.name,
        "task": "pictures",
        "image": {"channels": 1, "height": 8, "width": 8, "range": [-1, 1]},
        "classes": ["bar", "dot", "ring"],
        "inputs": [
            {"name": "noise", "shape": [4], "dtype": "float32"},
            {"name": "labels", "shape": [], "dtype": "int64"},
        ],
        "costs": dict(costs or {}),
        "files": {path.name: file_sha256(path) for path in sorted(folder.iterdir())},
    }
    (folder / "config.json").write_text(json.dumps(config))
    record = {
        "step": "export",
        "export_digest": digest,
        "dataset_digest": "d" * 64,
        "weights": "best",
        "run_id": run_id,
    }
    write_lineage(folder, record)
    return folder
