"""A small convolutional classifier of the dataset's own classes: features where no pretrained network fits.

It is trained on the real training split and on nothing else, from its own seed, so it is independent of every model it
judges. Its features are what lies before the last layer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError
from limner.features import exact_arithmetic
from limner.features.cache import tensors_sha256
from limner.pixels import to_signed
from limner.randomness import derive_seed, generator

RECIPE = "1"
"""To be raised with every change below that changes the weights: caches are keyed by it."""

BATCH, EPOCHS, LEAST_STEPS, MOST_STEPS = 64, 15, 300, 4000
LEARNING_RATE, WEIGHT_DECAY, SHIFT_PIXELS = 8e-3, 1e-2, 2
NARROW, WIDE = 32, 64
SMALLEST_MAP = 4
"""The picture is halved until its shorter side is below twice this, pixels."""


class LabelledPictures(Protocol):
    """What the classifier is trained on; `limner.packing.Split` is one."""

    @property
    def count(self) -> int:
        """How many pictures."""

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """Their classes, int64 [N]."""

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Some of them, uint8 [n, H, W, C]."""


@dataclass(frozen=True)
class Classifier:
    """Extractor and recogniser."""

    network: Network
    name: str = "classifier"
    resize: str = "none"

    @cached_property
    def identity(self) -> str:
        """SHA-256 of the weights. Another kind of processor can give others, and distances a few per cent away."""
        return tensors_sha256(self.network.state_dict())

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, 64] of images uint8 [N, C, H, W]."""
        features: Tensor = self.network.features(self._inputs(images))
        return features

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps float32 [N, C, H, W] behind every convolution, shallow to deep, of images uint8 [N, C, H, W]."""
        maps, found = self._inputs(images), []
        for layer in self.network.body:
            maps = layer(maps)
            if isinstance(layer, nn.ReLU):
                found.append(maps)
        return tuple(found)

    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities float32 [N, K]."""
        head = self.network.head
        return F.linear(features.to(head.weight.device), head.weight, head.bias).softmax(1)

    def _inputs(self, images: Tensor) -> Tensor:
        signed = to_signed(images.to(self.network.head.weight.device))
        return signed.contiguous(memory_format=torch.channels_last)


class Network(nn.Module):
    """Convolutions of stride 2 until the map is about 4 pixels, one more, global average, one linear layer."""

    def __init__(self, *, channels: int, height: int, width: int, classes: int) -> None:
        super().__init__()
        halvings = max(1, int(math.log2(min(height, width) / SMALLEST_MAP)))
        widths = [channels, *[NARROW] * (halvings - 1), WIDE]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += _block(inputs, outputs, stride=2)
        layers += _block(WIDE, WIDE, stride=1)
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(WIDE, classes)

    def features(self, images: Tensor) -> Tensor:
        """Features [N, 64] of images float [N, C, H, W] in [-1, 1]."""
        maps: Tensor = self.body(images)
        return maps.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [N, K]."""
        logits: Tensor = self.head(self.features(images))
        return logits


def train_classifier(pictures: LabelledPictures, *, classes: int, device: torch.device) -> Classifier:
    """Train a classifier; the same pictures give the same weights, on any number of the same processor's cores.

    Raises LimnerError where there is nothing to tell apart.
    """
    labels = pictures.labels
    if labels is None or classes < 2 or pictures.count == 0:
        raise LimnerError(
            "The pictures have no two classes, so no classifier can be trained to judge by.",
            fix="Write `features: pixels` under `evaluate`, or `inception-v3-2015` with its weights.",
        )
    _, height, width, channels = pictures.pixels(np.zeros(1, np.int64)).shape
    network = _new_network(channels=channels, height=height, width=width, classes=classes).to(device)
    steps = min(max(LEAST_STEPS, EPOCHS * -(-pictures.count // BATCH)), MOST_STEPS)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps)
    rng = generator(0, "classifier", RECIPE, "batches")
    order = torch.empty(0, dtype=torch.int64)
    with exact_arithmetic(), _one_thread(), torch.enable_grad():
        for _ in range(steps):
            if len(order) < min(BATCH, pictures.count):
                order = torch.randperm(pictures.count, generator=rng)
            chosen, order = order[:BATCH].numpy(), order[BATCH:]
            images = torch.from_numpy(np.ascontiguousarray(pictures.pixels(chosen))).to(device).permute(0, 3, 1, 2)
            logits = network(_shifted(to_signed(images), rng))
            loss = F.cross_entropy(logits, torch.from_numpy(labels[chosen]).to(device))
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return Classifier(network.eval().requires_grad_(False))


def restore_classifier(state: Mapping[str, Tensor], *, height: int, width: int, device: torch.device) -> Classifier:
    """The classifier whose network has these weights, for pictures of this size."""
    channels, classes = state["body.0.weight"].shape[1], len(state["head.bias"])
    network = _new_network(channels=channels, height=height, width=width, classes=classes)
    network.load_state_dict(state)
    return Classifier(network.to(device).eval().requires_grad_(False))


def _new_network(*, channels: int, height: int, width: int, classes: int) -> Network:
    # PyTorch initialises from its global generator: put back afterwards, or judging would change what is trained next.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(0, "classifier", RECIPE, "weights"))
        network = Network(channels=channels, height=height, width=width, classes=classes)
    return network.to(memory_format=torch.channels_last)


@contextmanager
def _one_thread() -> Iterator[None]:
    # The number of threads changes the rounding of gradients, and so the weights: one is the same number everywhere.
    # On two idle cores it costs half the speed; beside other work it is the faster choice.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _block(inputs: int, outputs: int, *, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _shifted(images: Tensor, rng: torch.Generator) -> Tensor:
    # One offset for the whole batch: as good as one a picture here, and a plain slice.
    height, width = images.shape[-2:]
    down, right = torch.randint(0, 2 * SHIFT_PIXELS + 1, (2,), generator=rng).tolist()
    padded = F.pad(images, (SHIFT_PIXELS,) * 4, mode="replicate")
    return padded[:, :, down : down + height, right : right + width].contiguous(memory_format=torch.channels_last)
