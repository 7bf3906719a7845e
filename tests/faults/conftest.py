"""A small real dataset, and runs of minutes made to last seconds, for tests that break them."""

import json
import os

import pytest

from limner.steps import catalog_from_json
from limner.steps.prepare import prepare

SMALL_RESNET = {
    "name": "resnet",
    "width": 4,
    "blocks": 2,
    "init": "normal",
}  # CUT's own begins flat for longer than this
SMALL_PATCHES = {"name": "patch", "width": 4, "layers": 1}
SMALL_PIX2PIX = {
    "name": "pix2pix",
    "generator": {"name": "unet", "width": 8},
    "discriminator": SMALL_PATCHES,
    # A U-Net begins with pictures that are all alike, and these runs are short.
    "generator_optimizer": {"name": "adam", "learning_rate": 2e-3},
}
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
    "cut": {
        "name": "cut",
        "generator": SMALL_RESNET,
        "discriminator": SMALL_PATCHES,
        "nce": {"patches": 16, "width": 8},
    },
    "fastcut": {
        "name": "fastcut",
        "generator": SMALL_RESNET,
        "discriminator": SMALL_PATCHES,
        "nce": {"weight": 10.0, "patches": 16, "width": 8, "identity": False, "flip_equivariance": True},
    },
    "sincut": {
        "name": "sincut",
        "generator": SMALL_RESNET,
        "discriminator": SMALL_PATCHES | {"norm": "none"},
        "nce": {"weight": 4.0, "patches": 16, "width": 8, "negatives": "batch"},
    },
    "cyclegan": {"name": "cyclegan", "generator": SMALL_RESNET, "discriminator": SMALL_PATCHES, "pool": 24},
    "pix2pix": SMALL_PIX2PIX,
    "pix2pix-certain": SMALL_PIX2PIX | {"generator": {"name": "unet", "width": 8, "dropout": 0.0}},
    "pix2pix-slow": SMALL_PIX2PIX | {"generator_optimizer": {"name": "adam", "learning_rate": 2e-4}},
}
"""Settings of each method: of `gan` where no name says otherwise."""
TRANSLATIONS = ["cut", "fastcut", "sincut", "cyclegan", "pix2pix"]
TINY = {"source": {"kind": "printed-digits", "count": 200}, "image": {"size": 16, "channels": 1}, "validation": 0.2}
PRINT = {
    "source": {"kind": "printed-digits", "count": 100, "fonts": ["DejaVuSans"]},
    "target": {"kind": "printed-digits", "count": 100, "fonts": ["cmti10"]},
}
DATASETS = {
    "tiny": TINY,
    "styles": TINY | {"source": {"kind": "unpaired"} | PRINT},
    # Of smaller pictures than 33 pixels a U-Net has no level with dropout.
    "pairs": TINY | {"source": {"kind": "paired"} | PRINT, "image": {"size": 64, "channels": 1}},
}


class Toys:
    """Models called `toy`, each on the dataset of its task."""

    def __init__(self, folder):
        self._folder = folder

    def dataset_of(self, settings):
        """The packed dataset of a model's settings; made when it is first asked for."""
        return self.dataset(settings.dataset)

    def dataset(self, name):
        """The packed dataset of that name."""
        folder = self._folder / name
        if not folder.exists():
            catalog = catalog_from_json(json.dumps({"datasets": {name: DATASETS[name]}, "models": {}}))
            prepare(catalog.dataset(name), name=name, output=folder)
        return folder

    def document(self, method, *, train, **changes):
        """A catalog with one model: params.yaml as a document."""
        train = {"batch": 16, "precision": "fp32", "ema_half_life_kimg": 0.5, "deterministic": True} | train
        settings = {"name": "gan"} | METHODS[method] | changes
        name = {"gan": "tiny", "pix2pix": "pairs"}.get(settings["name"], "styles")
        model = {"dataset": name, "method": settings, "train": train}
        model["evaluate"] = {"features": "pixels", "judge_samples": 20}
        return {"datasets": {name: DATASETS[name]}, "models": {"toy": model}}

    def settings(self, method, *, train, **changes):
        """The model's settings."""
        return catalog_from_json(json.dumps(self.document(method, train=train, **changes))).model("toy")

    def files(self, folder, method, *, train):
        """A params file in that folder, and the packed dataset of its model."""
        path = folder / "params.yaml"
        path.write_text(json.dumps(self.document(method, train=train)))
        return path, self.dataset_of(self.settings(method, train=train))


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    return Toys(tmp_path_factory.mktemp("prepared"))


@pytest.fixture(scope="session")
def surroundings():
    """The environment of a process that trains beside the tests."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
