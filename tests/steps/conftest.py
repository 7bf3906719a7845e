"""A small real dataset and small real settings for the tests of the steps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.lineage import write_lineage
from limner.methods import load_method, method_settings
from limner.params import Catalog
from limner.ports import Ports
from limner.steps.prepare import prepare
from limner.tasks import PictureShape
from limner.trained import save_config, save_product

CLASSES = ("bar", "dot", "ring")
SIZE = 16


def draw_class(name: str, rng: np.random.Generator) -> np.ndarray:
    """A noisy picture [16, 16] of a horizontal bar, a dot or a ring, somewhere."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    centre_row, centre_column = rng.uniform(5, 10, size=2)
    distance = np.hypot(rows - centre_row, columns - centre_column)
    shape = {"bar": np.abs(rows - centre_row) < 1.5, "dot": distance < 3, "ring": np.abs(distance - 4.5) < 1}[name]
    return np.clip(shape * 220 + rng.normal(0, 12, (SIZE, SIZE)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 3 x 60 PNG files, a subfolder a class."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in CLASSES:
        (folder / name).mkdir()
        for number in range(60):
            Image.fromarray(draw_class(name, rng)).save(folder / name / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="session")
def catalog(pictures) -> Catalog:
    raw = {
        "datasets": {
            "shapes": {
                "source": {"kind": "class-folders", "path": str(pictures)},
                "image": {"size": SIZE, "channels": 1},
                "validation": 0.2,
            }
        },
        "models": {
            "toy": {
                "dataset": "shapes",
                "method": {"name": "gan", "generator": {"name": "dcgan", "latent": 8, "width": 8, "max_width": 16}},
                "train": {
                    "kimg": 0.32, "batch": 16, "log_kimg": 0.08, "sample_kimg": 0.16, "checkpoint_kimg": 0.16,
                    "precision": "fp32",
                },
                "evaluate": {"samples": 40, "judge_samples": 20},
            }
        },
    }  # fmt: skip
    return Catalog(raw, origin="params.yaml", method_settings=method_settings)


@pytest.fixture(scope="session")
def dataset(catalog, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "shapes"
    prepare(catalog.dataset("shapes"), name="shapes", output=output)
    return output


@pytest.fixture
def ports(tmp_path) -> Ports:
    return Ports(UntrackedTracker(), UntrackedRegistry(), progress=lambda *_: None, cache=tmp_path / "cache")


@pytest.fixture
def trained_folder(catalog, tmp_path) -> Path:
    """A model as `train` leaves it, but as initialised; best and last differ."""
    settings, folder = catalog.model("toy"), tmp_path / "model"
    folder.mkdir()
    shape = PictureShape(1, SIZE, SIZE, classes=3)
    save_config(folder, settings.method, shape, CLASSES)
    for seed, which in enumerate(("best", "last")):
        torch.manual_seed(seed)
        save_product(folder / which, load_method("gan").build(settings.method, shape).product())
    write_lineage(folder, {"step": "train", "model": "toy", "run_id": "", "dataset_digest": "0" * 64})
    return folder
