"""The ResNet that translates pictures: CycleGAN's (arXiv:1703.10593, appendix 7.2) and CUT's (arXiv:2007.15651).

Halve the resolution a few times, residual blocks there, double it again. Any size from 16x16, any number of channels.
The outputs of its first half, the encoder, are what PatchNCE compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from limner.networks.initial_weights import InitialWeights, begin_small, begin_steady
from limner.networks.instance_norm import InstanceNorm
from limner.networks.resampling import BlurDouble, BlurHalve, Reflect, pad_to_multiple, reflect
from limner.strict import Settings
from limner.tasks import PictureShape

Resampling = Literal["blur", "strided", "nearest"]
Norm = Literal["instance", "none"]

EDGE = 3
"""Pixels of reflection around the picture, for the 7x7 convolutions at both ends."""


class TranslatorSettings(Settings):
    """A ResNet. The defaults are CUT's generator, but for the initial weights; CycleGAN's has `strided` resampling."""

    name: Literal["resnet"] = "resnet"
    width: int = Field(
        64, ge=1, le=1024, description="channels at the picture's own resolution; double for each halving"
    )
    blocks: int = Field(9, ge=1, le=64, description="residual blocks; the papers: 6 for 128x128, 9 for 256x256")
    halvings: int = Field(2, ge=0, le=3, description="how often the resolution is halved before the blocks")
    resampling: Resampling = Field(
        "blur", description="blur: without aliasing; strided: strided and transposed convolutions; nearest: scale up"
    )
    norm: Norm = Field("instance", description="none: residual blocks begin as the identity instead")
    init: InitialWeights = Field("normal", description="of a network with normalisation; xavier: CUT's code")


class Translator(nn.Module):
    """Images [N, C, H, W] in [-1, 1] -> images of the same shape in (-1, 1), float32. H and W are 16 at least.

    The encoder's layers are numbered, for `features`:

        0                the picture as the first convolution reads it: padded, [N, C, H' + 6, W' + 6]
        1                the entry: 7x7 convolution, normalised, ReLU
        2 .. h + 1       the convolution of each of the h halvings, not yet normalised
        h + 2 .. h + b+1 each of the b residual blocks

    The five layers of CUT (its code's 0, 4, 8, 12 and 16) are `default_layers`: 0, 2, 3, 4 and 8 with 2 halvings.
    """

    def __init__(  # noqa: PLR0913 - the settings, each by name
        self,
        shape: PictureShape,
        *,
        width: int = 64,
        blocks: int = 9,
        halvings: int = 2,
        resampling: Resampling = "blur",
        norm: Norm = "instance",
        init: InitialWeights = "normal",
    ) -> None:
        super().__init__()
        self.multiple: int = 2**halvings
        """The picture is padded to a multiple of this, and its result cropped again."""
        counts = [width * 2**i for i in range(halvings + 1)]
        self.feature_channels: list[int] = [shape.channels, *counts, *[counts[-1]] * blocks]
        """Channels of each of the encoder's layers."""
        self.default_layers: tuple[int, ...] = (
            0,
            *range(2, halvings + 3),
            *([halvings + 1 + min(blocks, 5)] * (blocks > 1)),
        )
        """Picture, halvings, first block and fifth (or last): what CUT compares."""
        bias = norm == "none"  # a normalisation takes an offset away again
        self.encoder = nn.ModuleList([Reflect(EDGE)])
        self.encoder.append(
            nn.Sequential(nn.Conv2d(shape.channels, width, 7, bias=bias), *_normalised_relu(width, norm))
        )
        pending: list[nn.Module] = []  # what follows a convolution that is a layer of its own
        for before, after in pairwise(counts):
            stride = 1 if resampling == "blur" else 2
            convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=bias)
            self.encoder.append(nn.Sequential(*pending, convolution))
            pending = [*_normalised_relu(after, norm), *([BlurHalve()] if resampling == "blur" else [])]
        for _ in range(blocks):
            self.encoder.append(nn.Sequential(*pending, Block(counts[-1], norm)))
            pending = []
        decoder: list[nn.Module] = []
        for before, after in pairwise(counts[::-1]):
            decoder += [*_doubling(before, after, resampling, bias=bias), *_normalised_relu(after, norm)]
        self.decoder = nn.Sequential(*decoder)
        self.exit = nn.Conv2d(width, shape.channels, 7)
        self._begin(norm, init, blocks)

    def forward(self, source: Tensor) -> Tensor:
        """The translated images, in float32 whatever precision the layers ran in."""
        return self.forward_with_features(source, ())[0]

    def forward_with_features(self, images: Tensor, layers: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The translated images, and the features of the encoder's `layers`, in their order, from the same pass."""
        x, taken = self._encode(images, layers, last=len(self.encoder) - 1)
        height, width = images.shape[2:]
        out: Tensor = self.exit(reflect(self.decoder(x), EDGE))[:, :, :height, :width].float().tanh()
        return out, taken

    def features(self, images: Tensor, layers: Sequence[int]) -> list[Tensor]:
        """Features [N, feature_channels[i], H_i, W_i] of the encoder's `layers`, in their order. No later one runs."""
        return self._encode(images, layers, last=max(layers, default=0))[1]

    def _encode(self, images: Tensor, layers: Sequence[int], *, last: int) -> tuple[Tensor, list[Tensor]]:
        x = pad_to_multiple(images, self.multiple).contiguous(memory_format=torch.channels_last)
        taken: dict[int, Tensor] = {}
        for number, layer in enumerate(self.encoder[: last + 1]):
            x = layer(x)
            if number in layers:
                taken[number] = x
        return x, [taken[number] for number in layers]

    def _begin(self, norm: Norm, init: InitialWeights, blocks: int) -> None:
        if norm == "instance":
            begin_small(self, init)
            return
        begin_steady(self)
        for block in self.modules():
            if isinstance(block, Block):
                block.begin_as_identity(depth=blocks)
        nn.init.xavier_normal_(self.exit.weight)


class Block(nn.Module):
    """x + its two 3x3 convolutions, [N, width, H, W] to the same; nothing follows the sum."""

    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, bias=norm == "none")
        self.second = nn.Conv2d(width, width, 3, bias=norm == "none")
        self.between = nn.Sequential(*_normalised_relu(width, norm))
        self.normalise = nn.Sequential(*_normalised_relu(width, norm)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """The sum."""
        inner = self.between(self.first(reflect(x, 1)))
        inner = self.normalise(self.second(reflect(inner, 1)))
        out: Tensor = x + inner
        return out

    def begin_as_identity(self, *, depth: int) -> None:
        """Fixup (arXiv:1901.09321) for m = 2: the first convolution times depth ** -1/2, the last zero."""
        with torch.no_grad():
            self.first.weight.mul_(depth**-0.5)
            self.second.weight.zero_()


def _normalised_relu(width: int, norm: Norm) -> list[nn.Module]:
    return [InstanceNorm(width), nn.ReLU()] if norm == "instance" else [nn.ReLU()]


def _doubling(before: int, after: int, resampling: Resampling, *, bias: bool) -> list[nn.Module]:
    if resampling == "strided":
        return [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=bias)]
    scale = BlurDouble() if resampling == "blur" else nn.Upsample(scale_factor=2, mode="nearest")
    return [scale, nn.Conv2d(before, after, 3, padding=1, bias=bias)]
