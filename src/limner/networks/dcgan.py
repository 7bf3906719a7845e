"""The DCGAN family (arXiv:1511.06434): a stack of convolutions from 4x4 up to the image, and its mirror image down.

Any power-of-two size from 16 to 256, any number of channels. At resolution r a layer has `width * size / r` channels,
`max_width` at most, so both ends cost about the same.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from limner.networks.conditioning import LabelledLatent, ProjectionHead
from limner.networks.resolutions import BASE, resolutions
from limner.strict import Settings
from limner.tasks import PictureShape


class GeneratorSettings(Settings):
    """A stack of convolutions from 4x4 up to the image."""

    name: Literal["dcgan"] = "dcgan"
    latent: int = Field(64, ge=1, le=4096, description="dimensions of the noise")
    width: int = Field(32, ge=1, le=1024, description="channels at the image's own resolution")
    max_width: int = Field(128, ge=1, le=4096, description="most channels of any layer")
    upsampling: Literal["nearest", "transposed"] = Field("nearest", description="transposed: as the DCGAN paper has it")


class DiscriminatorSettings(Settings):
    """Strided convolutions."""

    name: Literal["dcgan"] = "dcgan"
    width: int = Field(32, ge=1, le=1024, description="channels of the first layer")
    max_width: int = Field(128, ge=1, le=4096, description="most channels of any layer")


def channels(resolution: int, *, size: int, width: int, max_width: int) -> int:
    """Channels of a layer at a resolution."""
    return min(width * size // resolution, max_width)


class Generator(nn.Module):
    """Latent [N, Z] and labels [N] -> images [N, C, H, W] in (-1, 1)."""

    def __init__(
        self,
        shape: PictureShape,
        *,
        latent: int,
        width: int,
        max_width: int,
        upsampling: Literal["nearest", "transposed"],
    ) -> None:
        """`nearest` scales up and convolves, which leaves no checkerboard; `transposed` is the paper's own way."""
        super().__init__()
        steps = resolutions(shape, family="dcgan")
        counts = [channels(r, size=shape.height, width=width, max_width=max_width) for r in steps]
        self.mapping = LabelledLatent(latent, shape.classes)
        self.entry = nn.Linear(self.mapping.size, counts[0] * BASE * BASE)
        layers: list[nn.Module] = [nn.BatchNorm2d(counts[0]), nn.ReLU()]
        for before, after in pairwise(counts):
            layers += [*_scale_up(before, after, upsampling), nn.BatchNorm2d(after), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.exit = nn.Conv2d(counts[-1], shape.channels, 3, padding=1)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images in float32, whatever precision the layers ran in."""
        grid = self.entry(self.mapping(latent, labels)).unflatten(1, (-1, BASE, BASE))
        grid = grid.contiguous(memory_format=torch.channels_last)
        images: Tensor = self.exit(self.layers(grid)).float().tanh()
        return images


class Discriminator(nn.Module):
    """Images [N, C, H, W] and labels [N] -> logits [N]. No normalisation: it would tie a penalty to its batch."""

    piecewise_linear = True

    def __init__(self, shape: PictureShape, *, width: int, max_width: int, offset: bool = True) -> None:
        super().__init__()
        steps = resolutions(shape, family="dcgan")[::-1]
        # The first layer already halves the resolution, so a layer is named after the resolution that it reads.
        counts = [channels(r, size=shape.height, width=width, max_width=max_width) for r in steps[:-1]]
        layers: list[nn.Module] = []
        for before, after in zip([shape.channels, *counts], counts, strict=False):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.head = ProjectionHead(counts[-1] * BASE * BASE, shape.classes, offset=offset)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits in float32."""
        features: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        logits: Tensor = self.head(features.flatten(1), labels)
        return logits


def _scale_up(before: int, after: int, upsampling: Literal["nearest", "transposed"]) -> list[nn.Module]:
    if upsampling == "transposed":
        return [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False)]
    return [nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(before, after, 3, padding=1, bias=False)]
