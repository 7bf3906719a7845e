"""Instance normalisation (arXiv:1607.08022) that stays in the memory layout of the layers around it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class InstanceNorm(nn.InstanceNorm2d):
    """PyTorch's own, without weights, but channels_last as all layers around it.

    PyTorch's gives NCHW whatever it is given, and every layer behind it is then slow or copies.
    """

    def forward(self, features: Tensor) -> Tensor:
        """The features [N, C, H, W], each channel of each picture with mean 0 and variance 1."""
        return super().forward(features).contiguous(memory_format=torch.channels_last)
