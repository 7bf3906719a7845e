"""How a picture is brought to the size that a network looks at: the three ways that published distances were taken in.

They differ visibly in what comes out, so a distance is told with its resize. Of the order of a tenth of its value hangs
on it: Parmar et al. 2022, arXiv:2104.11222.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it


def rgb(images: Tensor) -> Tensor:
    """Float32 [N, 3, H, W] in 0..255 of images uint8 [N, 1, 3 or 4, H, W]: grey is repeated, alpha laid over black."""
    pixels = images.float()
    if pixels.shape[1] == 4:
        return pixels[:, :3] * (pixels[:, 3:] / 255)
    return pixels.expand(-1, 3, -1, -1)


def bilinear(pixels: Tensor, *, side: int) -> Tensor:
    """Square maps float [N, C, side, side] of such of any size: PyTorch's bilinear, which skips pixels in shrinking."""
    return F.interpolate(pixels, size=(side, side), mode="bilinear", align_corners=False)


def bilinear_tf1(pixels: Tensor, *, side: int) -> Tensor:
    """As TensorFlow 1 did it: the grid of results begins at the first pixel's centre and ends before the last one's."""
    height, width = pixels.shape[2:]
    upper, lower, share = _neighbours(height, side, like=pixels)
    rows = torch.lerp(pixels[:, :, upper], pixels[:, :, lower], share[:, None])
    left, right, share = _neighbours(width, side, like=pixels)
    columns, across = torch.arange(side, device=pixels.device), pixels.new_zeros(width, side)
    across[left, columns] = 1 - share
    across[right, columns] += share
    return rows @ across  # for small pictures faster than picking neighbours once more


def _neighbours(size: int, side: int, *, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each place of the grid the pixel before it, the one behind it, and the share of the latter."""
    places = torch.arange(side, device=like.device, dtype=like.dtype) * (size / side)
    low = places.long().clamp(max=size - 1)
    return low, (low + 1).clamp(max=size - 1), places - low


def bicubic(pixels: Tensor, *, side: int) -> Tensor:
    """As Pillow does it, one channel after the other in float, clipped to 0..255 and not rounded to whole numbers."""
    # With antialias PyTorch takes Pillow's kernel, of a = -0.5, at every scale; without, another one.
    resized = F.interpolate(pixels, size=(side, side), mode="bicubic", align_corners=False, antialias=True)
    return resized.clamp_(0, 255)
