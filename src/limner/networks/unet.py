"""The U-Net of pix2pix (arXiv:1611.07004, appendix 6.1): down to a pixel and up again, beside what each level was."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError
from limner.networks.initial_weights import InitialWeights, begin_small
from limner.networks.instance_norm import InstanceNorm
from limner.networks.resampling import pad_to_multiple
from limner.strict import Settings
from limner.tasks import PictureShape

Norm = Literal["batch", "instance"]

DEEPEST = 8
SLOPE = 0.2
WIDEST = 8
"""Most channels of a level, as a multiple of the first one's."""
WITHOUT_DROPOUT = 5
"""Outer levels that never have dropout: of the paper's eight, the three inner ones have it."""


class TranslatorSettings(Settings):
    """A U-Net. The defaults are pix2pix's, of 8 levels for 256x256."""

    name: Literal["unet"] = "unet"
    width: int = Field(64, ge=1, le=1024, description="channels of the first level; they double up to eightfold")
    depth: int | None = Field(None, ge=2, le=DEEPEST, description="levels; null: down to a pixel, 8 at most")
    norm: Norm = Field("batch", description="instance: nothing is shared between the pictures of a batch")
    dropout: float = Field(0.5, ge=0, lt=1, description="in the inner levels of the second half, in training only")
    init: InitialWeights = Field("normal", description="0.02 of the normal distribution's deviation, or of Glorot's")


class Translator(nn.Module):
    """Images [N, C, H, W] in [-1, 1] -> images of the same shape in (-1, 1), float32.

    Dropout and the batch's own statistics are for training mode. The authors of pix2pix keep both when they test, so
    that a picture's result depends on chance and on its batch. Limner judges and ships the network in evaluation mode:
    one result for one picture, the same in a batch, alone, and exported. Take `instance` where the two modes differ
    too much, as they do for batches of one or two pictures.
    """

    def __init__(
        self,
        shape: PictureShape,
        *,
        width: int = 64,
        depth: int | None = None,
        norm: Norm = "batch",
        dropout: float = 0.5,
        init: InitialWeights = "normal",
    ) -> None:
        """Raises LimnerError for a `depth` that would pad the dataset's pictures to twice their size or more."""
        super().__init__()
        side = min(shape.height, shape.width)
        deepest = min(DEEPEST, (side - 1).bit_length())
        levels = depth or min(DEEPEST, side.bit_length() - 1)
        if levels > deepest:
            raise LimnerError(
                f"A U-Net of depth {levels} is too deep for pictures of {shape.width}x{shape.height}.",
                why=f"Each level halves the picture, so it would be padded to a multiple of {2**levels} pixels.",
                fix=f"Set the generator's `depth` to {deepest} at most, or leave it out.",
            )
        self.multiple: int = 2**levels
        """The picture is padded to a multiple of this, and its result cropped again."""
        counts = [width * min(2**i, WIDEST) for i in range(levels)]
        self.down = nn.ModuleList([nn.Conv2d(shape.channels, width, 4, stride=2, padding=1)])
        for before, after in pairwise(counts[:-1]):
            convolution = nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)
            self.down.append(nn.Sequential(nn.LeakyReLU(SLOPE), convolution, _normalisation(after, norm)))
        self.up = nn.ModuleList()
        for number, (before, after) in enumerate(pairwise(counts[::-1])):
            # All but the innermost read what comes from below beside their level's own features.
            scale = Innermost(after, before) if number == 0 else _doubling(2 * before, after)
            inner = number < levels - WITHOUT_DROPOUT and dropout > 0
            self.up.append(nn.Sequential(scale, _normalisation(after, norm), *([nn.Dropout(dropout)] if inner else [])))
        self.exit = nn.ConvTranspose2d(2 * width, shape.channels, 4, stride=2, padding=1)
        begin_small(self, init)

    def forward(self, source: Tensor) -> Tensor:
        """The translated images, in float32 whatever precision the layers ran in."""
        x = pad_to_multiple(source, self.multiple).contiguous(memory_format=torch.channels_last)
        levels = []
        for layer in self.down:
            x = layer(x)
            levels.append(x)
        for layer in self.up:
            x = torch.cat([layer(x), levels.pop()], dim=1)
        height, width = source.shape[2:]
        out: Tensor = self.exit(F.relu(x))[:, :, :height, :width].float().tanh()
        return out


class Innermost(nn.Module):
    """Features [N, C, H, W] -> [N, C, H, W] over a level of half the resolution, often one pixel: it has no norm.

    It is computed with a row and a column more than there are, which are set to zero. The result is the same, and an
    export knows that no side of it is ever 1: it would otherwise be for pictures of one size, or for none of that.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.down = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(width, channels, 4, stride=2, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """What comes from below, for this level. H and W are even."""
        height, width = x.shape[2:]
        inner = F.relu(self.down(F.pad(F.leaky_relu(x, SLOPE), [0, 2, 0, 2])))
        row = torch.arange(inner.shape[2], device=x.device)[:, None] < height // 2
        column = torch.arange(inner.shape[3], device=x.device) < width // 2
        out: Tensor = self.up(inner * (row & column))[:, :, :height, :width]
        return out


def _doubling(before: int, after: int) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False))


def _normalisation(channels: int, norm: Norm) -> nn.Module:
    return nn.BatchNorm2d(channels) if norm == "batch" else InstanceNorm(channels)
