"""Half and twice the resolution without aliasing (arXiv:1904.11486), and pictures of any size for what halves them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it


class BlurHalve(nn.Module):
    """Features [N, C, H, W] -> [N, C, ceil(H/2), ceil(W/2)]: the filter [1, 2, 1] / 4, then every second pixel.

    Beyond the border the picture is reflected. H and W are 2 at least.
    """

    def forward(self, features: Tensor) -> Tensor:
        """The halved features: a mean of two neighbours, twice, is the filter."""
        return F.avg_pool2d(F.avg_pool2d(reflect(features, 1), 2, stride=1), 2)


class BlurDouble(nn.Module):
    """Features [N, C, H, W] -> [N, C, 2H, 2W]: zeros in between, then the filter [1, 3, 3, 1] / 4."""

    def forward(self, features: Tensor) -> Tensor:
        """The doubled features: bilinear interpolation by 2 is that filter, with the border repeated."""
        return F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=False)


class Reflect(nn.Module):
    """`reflect` as a layer."""

    def __init__(self, edge: int) -> None:
        super().__init__()
        self.edge = edge

    def forward(self, features: Tensor) -> Tensor:
        """Features [N, C, H, W] -> [N, C, H + 2 edge, W + 2 edge]."""
        return reflect(features, self.edge)


def reflect(features: Tensor, edge: int) -> Tensor:
    """Features [N, C, H, W] with `edge` reflected pixels around them; both sides are larger than `edge`."""
    if features.is_cuda and torch.are_deterministic_algorithms_enabled():
        return reflect_by_parts(features, edge)  # the gradient of PyTorch's own is not deterministic there: it raises
    return F.pad(features, [edge] * 4, mode="reflect")


def reflect_by_parts(features: Tensor, edge: int) -> Tensor:
    """The same, cut and joined: with a gradient that is deterministic everywhere, but slower."""
    for axis in (2, 3):
        first = features.narrow(axis, 1, edge).flip(axis)
        last = features.narrow(axis, features.shape[axis] - 1 - edge, edge).flip(axis)
        features = torch.cat([first, features, last], dim=axis)
    return features


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Images [N, C, H, W] reflected at the bottom and the right until both sides are a multiple of `multiple`.

    A side that needs more than its own length is reflected again and again. A side that is a multiple already is left
    alone, so that an export whose sizes are declared as multiples has no padding in it.
    """
    height, width = images.shape[2:]
    below, right = -height % multiple, -width % multiple
    if below:
        images = images.index_select(2, _reflected(height, height + below, images.device))
    if right:
        images = images.index_select(3, _reflected(width, width + right, images.device))
    return images


def _reflected(length: int, padded: int, device: torch.device) -> Tensor:
    """Which of `length` pixels is at each of `padded` places: 0 1 2 1 0 1 ... for three."""
    period = max(1, 2 * (length - 1))
    place = torch.arange(padded, device=device) % period
    return torch.minimum(place, period - place)
