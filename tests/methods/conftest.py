"""Every training method that exists, built small, with batches of its task."""

import pkgutil
from dataclasses import dataclass

import pytest
import torch

import limner.methods
from limner.methods import load_method
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape

SHAPE = PictureShape(channels=1, height=16, width=16, classes=3)
NAMES = [module.name for module in pkgutil.iter_modules(limner.methods.__path__)]


class RandomPictures:
    """Batches of noise with labels: enough to see what moves."""

    def __init__(self, batch=4):
        self._batch = batch

    def at(self, step, *, part=0, parts=1):
        rng = generator(0, "test", step)
        images = torch.rand(self._batch, 1, 16, 16, generator=rng) * 2 - 1
        labels = torch.randint(0, 3, (self._batch,), generator=rng)
        return Pictures(images.chunk(parts)[part], labels.chunk(parts)[part])


BATCHES = {"pictures": RandomPictures}


@dataclass
class Case:
    """A method by name, and how to build it twice alike."""

    name: str

    def build(self, **params):
        loaded = load_method(self.name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return loaded.build(loaded.params(name=self.name, **params), SHAPE)

    def batches(self):
        return BATCHES[self.build().task]()


@pytest.fixture(params=NAMES)
def case(request):
    return Case(request.param)
