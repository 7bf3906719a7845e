"""The entries of docs/presets are ready to use: their settings are valid and their networks can be built."""

from pathlib import Path

import pytest
import torch

from limner.methods import load_method
from limner.steps import open_catalog
from limner.tasks import PictureShape

PROJECT = Path(__file__).parents[1]
ENTRIES = [
    pytest.param(path, model, id=f"{path.stem}-{model}")
    for path in sorted((PROJECT / "docs" / "presets").glob("*.yaml"))
    for model in open_catalog(path).models
]
KIND = {"paired": "paired", "side-by-side": "paired", "unpaired": "unpaired"}


def test_there_are_presets():
    assert len(ENTRIES) > 10


@pytest.mark.parametrize(("path", "model"), ENTRIES)
def test_a_preset_can_be_built_and_eats_its_dataset(path, model):
    catalog = open_catalog(path)
    settings = catalog.model(model)
    dataset = catalog.dataset(settings.dataset)
    loaded = load_method(settings.method.name)
    eaten = {"pictures": {"pictures"}, "paired": {"paired"}, "unpaired": {"unpaired", "paired"}}[loaded.task]
    assert KIND.get(dataset.source.kind, "pictures") in eaten
    assert settings.train.crop <= dataset.image.size
    side = settings.train.crop or dataset.image.size
    with torch.device("meta"), torch.random.fork_rng():
        method = loaded.build(settings.method, PictureShape(dataset.image.channels, side, side, 0))
    assert sum(p.numel() for p in method.networks.parameters()) > 10_000
