"""A small network that reads a picture's class: what a translation has to keep, where labels say so."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

GROUPS = 8


class Recogniser(nn.Module):
    """Images [N, C, H, W] of any size from 16x16 -> class logits [N, K], float32.

    Group normalisation (arXiv:1803.08494): real and translated pictures in one batch, or in two, are read alike.
    """

    def __init__(self, channels: int, classes: int, *, width: int = 32) -> None:
        """`width` channels of the first layer, a multiple of 8; they double twice."""
        super().__init__()
        counts = [width, 2 * width, 4 * width]
        layers: list[nn.Module] = [*_convolution(channels, width)]
        for before, after in pairwise([width, *counts]):
            layers += [*_convolution(before, after), nn.AvgPool2d(2)]
        self.layers = nn.Sequential(*layers, *_convolution(counts[-1], counts[-1]))
        self.score = nn.Linear(counts[-1], classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        features = self.layers(images.contiguous(memory_format=torch.channels_last))
        with torch.autocast(images.device.type, enabled=False):
            # The largest value says whether a shape is there, wherever it is.
            logits: Tensor = self.score(features.float().amax((2, 3)))
        return logits


def _convolution(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, after), nn.ReLU()]
