"""Every training method that exists, built small, with batches of its task."""

import pkgutil
from dataclasses import dataclass

import pytest
import torch

import limner.methods
from limner.methods import load_method
from limner.randomness import generator
from limner.tasks import Pairs, Pictures, PictureShape, UnpairedPictures

SHAPE = PictureShape(channels=1, height=16, width=16, classes=3)
TWO_SIDES = PictureShape(channels=1, height=16, width=16, classes=3, source_classes=3)
SMALL_PATCHES = {"name": "patch", "width": 4, "layers": 1}
SMALL_RESNET = {"name": "resnet", "width": 4, "blocks": 2}
SMALL = {
    "cut": {"generator": SMALL_RESNET, "discriminator": SMALL_PATCHES, "nce": {"patches": 8, "width": 8}},
    "fastcut": {
        "generator": SMALL_RESNET,
        "discriminator": SMALL_PATCHES,
        "nce": {"patches": 8, "width": 8, "identity": False, "flip_equivariance": True},
    },
    "sincut": {
        "generator": SMALL_RESNET,
        "discriminator": SMALL_PATCHES | {"norm": "none"},
        "nce": {"patches": 8, "width": 8, "negatives": "batch"},
    },
    "cyclegan": {"generator": SMALL_RESNET, "discriminator": SMALL_PATCHES, "pool": 6},
    "pix2pix": {"generator": {"name": "unet", "width": 4, "dropout": 0.0}, "discriminator": SMALL_PATCHES},
}
"""Settings that make a method quick to test, where its defaults are the paper's."""
NAMES = [module.name for module in pkgutil.iter_modules(limner.methods.__path__)]


class RandomPictures:
    """Batches of noise with labels: enough to see what moves."""

    def __init__(self, batch=4, seed=0):
        self._batch, self._seed = batch, seed

    def at(self, step, *, part=0, parts=1):
        rng = generator(self._seed, "test", step)
        images = torch.rand(self._batch, 1, 16, 16, generator=rng) * 2 - 1
        labels = torch.randint(0, 3, (self._batch,), generator=rng)
        return Pictures(images.chunk(parts)[part], labels.chunk(parts)[part])


class RandomSides:
    """Batches of two sides of noise with labels."""

    def __init__(self, kind):
        self._kind, self._sides = kind, (RandomPictures(seed=1), RandomPictures(seed=2))

    def at(self, step, *, part=0, parts=1):
        return self._kind(*(side.at(step, part=part, parts=parts) for side in self._sides))


BATCHES = {
    "pictures": RandomPictures,
    "unpaired": lambda: RandomSides(UnpairedPictures),
    "paired": lambda: RandomSides(Pairs),
}


@dataclass
class Case:
    """A method by name, and how to build it twice alike."""

    name: str

    def build(self, **params):
        loaded = load_method(self.name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            settings = loaded.params.model_validate({"name": self.name} | SMALL.get(self.name, {}) | params)
            return loaded.build(settings, SHAPE if loaded.task == "pictures" else TWO_SIDES)

    def batches(self):
        return BATCHES[self.build().task]()


@pytest.fixture(params=NAMES)
def case(request):
    return Case(request.param)
