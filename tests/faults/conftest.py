"""A small real dataset, and runs of minutes made to last seconds, for tests that break them."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from limner.steps import catalog_from_json
from limner.steps.prepare import prepare

METHODS = {
    "default": {},
    "small": {
        "generator": {"name": "dcgan", "latent": 8, "width": 8, "max_width": 16},
        "discriminator": {"name": "dcgan", "width": 8, "max_width": 16},
    },
    "r3gan": {
        "generator": {"name": "r3gan", "latent": 16, "widths": [16, 16, 16]},
        "discriminator": {"name": "r3gan", "widths": [16, 16, 16]},
    },
    "sngan": {
        "generator": {"name": "sngan", "latent": 16, "width": 16},
        "discriminator": {"name": "sngan", "width": 16},
        "loss": "hinge",
        "penalties": {},
    },
    "textbook": {
        "conditional": False,
        "discriminator": {"name": "dense", "widths": [512, 256]},
        "loss": "bce",
        "penalties": {"r1": 10.0, "interval": 4},
    },
}
DATASET = {"source": {"kind": "printed-digits", "count": 200}, "image": {"size": 16, "channels": 1}, "validation": 0.2}


@dataclass(frozen=True)
class Toys:
    """Models called `toy` on one dataset."""

    dataset: Path

    def document(self, method, *, train, **changes):
        """A catalog with one model: params.yaml as a document."""
        train = {"batch": 16, "precision": "fp32", "ema_half_life_kimg": 0.5, "deterministic": True} | train
        method = {"name": "gan", **METHODS[method], **changes}
        model = {"dataset": "tiny", "method": method, "train": train}
        model["evaluate"] = {"features": "pixels", "judge_samples": 20}
        return {"datasets": {"tiny": DATASET}, "models": {"toy": model}}

    def settings(self, method, *, train, **changes):
        """The model's settings."""
        return catalog_from_json(json.dumps(self.document(method, train=train, **changes))).model("toy")

    def params(self, folder, method, *, train):
        """A params file in that folder."""
        path = folder / "params.yaml"
        path.write_text(json.dumps(self.document(method, train=train)))
        return path


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    settings = catalog_from_json(json.dumps({"datasets": {"tiny": DATASET}, "models": {}})).dataset("tiny")
    folder = tmp_path_factory.mktemp("prepared") / "tiny"
    prepare(settings, name="tiny", output=folder)
    return Toys(folder)


@pytest.fixture(scope="session")
def surroundings():
    """The environment of a process that trains beside the tests."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
