"""R3GAN's networks (arXiv:2501.05441, configuration E): ResNeXt blocks without normalisation, from 4x4 and down to it.

A stage is a resolution: residual blocks of 1x1, grouped 3x3 and 1x1 convolutions, all of one width. Between stages the
picture is resampled with the filter [1, 2, 1] and, where the width changes, mixed by a 1x1 convolution. Every block
begins as the identity (Fixup, arXiv:1901.09321), which is what lets it do without normalisation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError
from limner.networks.conditioning import LabelledLatent
from limner.strict import Settings
from limner.tasks import PictureShape

BASE = 4
"""Resolution of the coarsest stage, where the latent enters and the features leave."""
GROUP = 16
"""Channels in a group of the 3x3 convolutions: 96 groups at the paper's width."""
EXPANSION = 2
"""Channels of the 3x3 convolution for one of the stage: the bottleneck is inverted."""
SLOPE = 0.2
GAIN = (2 / (1 + SLOPE**2)) ** 0.5
"""Keeps the variance of a leaky ReLU's output that of its input (He et al., arXiv:1502.01852, section 2.2)."""


LayerT = TypeVar("LayerT", nn.Conv2d, nn.Linear)
Width = Annotated[int, Field(ge=GROUP // EXPANSION, multiple_of=GROUP // EXPANSION)]


class GeneratorSettings(Settings):
    """Residual blocks without normalisation. The paper's CIFAR-10 network: widths of 768 and 2 blocks."""

    name: Literal["r3gan"] = "r3gan"
    latent: int = Field(64, ge=1, le=4096, description="dimensions of the noise")
    widths: list[Width] = Field([192] * 4, min_length=3, max_length=9, description="channels a stage, 4x4 first")
    blocks: int = Field(2, ge=1, le=16, description="a stage")
    embedding: int = Field(64, ge=1, le=4096, description="dimensions of a class's embedding")


class DiscriminatorSettings(Settings):
    """The generator's mirror image."""

    name: Literal["r3gan"] = "r3gan"
    widths: list[Width] = Field([192] * 4, min_length=3, max_length=9, description="channels a stage, 4x4 first")
    blocks: int = Field(2, ge=1, le=16, description="a stage")


class Block(nn.Module):
    """x + its 1x1, grouped 3x3 and 1x1 convolutions; the last begins at zero."""

    def __init__(self, width: int, *, depth: int) -> None:
        """`depth` is the number of blocks of the network: Fixup scales the first two convolutions by depth ** -1/4."""
        super().__init__()
        inner = width * EXPANSION
        self.enter = nn.Conv2d(width, inner, 1)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // GROUP)
        self.leave = nn.Conv2d(inner, width, 1, bias=False)
        self.activation = nn.LeakyReLU(SLOPE, inplace=True)
        for layer in (self.enter, self.mix):
            _init(layer, gain=GAIN * depth**-0.25)
        nn.init.zeros_(self.leave.weight)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, H, W] to the same."""
        y: Tensor = self.leave(self.activation(self.mix(self.activation(self.enter(x)))))
        return x + y


class Upsample(nn.Module):
    """Twice the resolution, linearly interpolated; a 1x1 convolution first where the width changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.project = _projection(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """[N, before, H, W] -> [N, after, 2H, 2W]."""
        doubled = F.interpolate(self.project(x), scale_factor=2, mode="nearest")
        return _box(doubled)[:, :, 1:, 1:]  # a box of 2 after doubling, itself a box of 2, is the filter [1, 2, 1]


class Downsample(nn.Module):
    """Half the resolution, filtered; a 1x1 convolution afterwards where the width changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.project = _projection(before, after)

    def forward(self, x: Tensor) -> Tensor:
        """[N, before, H, W] -> [N, after, H/2, W/2]."""
        halved = F.avg_pool2d(_box(x)[:, :, :-1, :-1], 2)
        y: Tensor = self.project(halved)
        return y


class Generator(nn.Module):
    """Latent [N, Z] and labels [N] -> images [N, C, H, W], float32. Nothing bounds them: the paper has no tanh."""

    def __init__(self, shape: PictureShape, *, latent: int, widths: Sequence[int], blocks: int, embedding: int) -> None:
        """`widths` are the stages' channels from 4x4 upwards, multiples of 8; `blocks` a stage."""
        super().__init__()
        _refuse_size(shape, widths)
        self.mapping = LabelledLatent(latent, shape.classes, embedding)
        self.basis = nn.Parameter(torch.randn(widths[0], BASE, BASE))
        self.entry = _init(nn.Linear(self.mapping.size, widths[0], bias=False), gain=1)
        depth = blocks * len(widths)
        layers: list[nn.Module] = [Block(widths[0], depth=depth) for _ in range(blocks)]
        for before, after in pairwise(widths):
            layers += [Upsample(before, after), *(Block(after, depth=depth) for _ in range(blocks))]
        self.layers = nn.Sequential(*layers)
        self.exit = _init(nn.Conv2d(widths[-1], shape.channels, 1, bias=False), gain=1)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """The images."""
        strength = self.entry(self.mapping(latent, labels))
        grid = (strength[:, :, None, None] * self.basis).contiguous(memory_format=torch.channels_last)
        images: Tensor = self.exit(self.layers(grid)).float()
        return images


class Discriminator(nn.Module):
    """Images [N, C, H, W] and labels [N] -> logits [N], float32.

    The labels' embedding weighs the features (projection, arXiv:1802.05637). No layer has an offset of the logit: under
    a relativistic loss it would never be trained, and the paper has none.
    """

    piecewise_linear = True

    def __init__(self, shape: PictureShape, *, widths: Sequence[int], blocks: int) -> None:
        """`widths` are the stages' channels from 4x4 upwards, as the generator's."""
        super().__init__()
        _refuse_size(shape, widths)
        depth = blocks * len(widths)
        self.entry = _init(nn.Conv2d(shape.channels, widths[-1], 1, bias=False), gain=1)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths[::-1]):
            layers += [*(Block(before, depth=depth) for _ in range(blocks)), Downsample(before, after)]
        layers += [Block(widths[0], depth=depth) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        # A weight for each place and channel of the 4x4 grid: the mirror image of the generator's basis.
        self.basis = _init(nn.Conv2d(widths[0], widths[0], BASE, groups=widths[0], bias=False), gain=1)
        features = widths[0]
        self.score = _init(nn.Linear(features, features if shape.classes else 1, bias=False), gain=1)
        self.embedding = nn.Embedding(shape.classes, features) if shape.classes else None
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """The logits."""
        grid = self.layers(self.entry(images.contiguous(memory_format=torch.channels_last)))
        with torch.autocast(grid.device.type, enabled=False):  # bfloat16 would round away differences of logits
            features: Tensor = self.score(self.basis(grid.float()).flatten(1))
            if self.embedding is None or labels is None:
                return features.squeeze(1)
            logits: Tensor = (features * self.embedding(labels)).sum(1)
        return logits


def _box(x: Tensor) -> Tensor:
    """Means of 2x2 pixels, [N, C, H, W] -> [N, C, H + 1, W + 1]; beyond the border the picture goes on as at it."""
    return F.avg_pool2d(x, 2, stride=1, padding=1, count_include_pad=False)


def _init(layer: LayerT, *, gain: float) -> LayerT:
    """Normal weights of the variance gain^2 / fan-in, offsets zero."""
    nn.init.normal_(layer.weight, std=gain * layer.weight[0].numel() ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _projection(before: int, after: int) -> nn.Module:
    return nn.Identity() if before == after else _init(nn.Conv2d(before, after, 1, bias=False), gain=1)


def _refuse_size(shape: PictureShape, widths: Sequence[int]) -> None:
    size = BASE * 2 ** (len(widths) - 1)
    if (shape.height, shape.width) != (size, size):
        raise LimnerError(
            f"r3gan networks of {len(widths)} stages make pictures of {size}x{size}, not {shape.width}x{shape.height}.",
            why="The first stage is 4x4 and each next one doubles it.",
            fix="Give `widths` a number for each stage: 3 for 16x16, 4 for 32x32, 5 for 64x64, 7 for 256x256.",
        )
