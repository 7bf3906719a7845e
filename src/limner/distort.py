"""Random changes of pictures, each picture with its own draws: the operations that `limner.augment` is made of.

Images are float tensors [N, C, H, W] in [-1, 1], single or double precision, any C, H and W; results may leave that
range. Of 3 or 4 channels the first three are RGB, and colour operations leave a fourth (alpha, a mask) as it is.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.strict import Settings

Share = Annotated[float, Field(ge=0, le=1)]


class Operations(Settings):
    """Each operation's probability as a share of the strength. Defaults: R3GAN's on CIFAR-10 (arXiv:2501.05441)."""

    xflip: Share = Field(1.0, description="mirrored left to right, or not, at even odds")
    rot90: Share = Field(1.0, description="turned by 0, 90, 180 or 270 degrees; square pictures only")
    integer_translation: Share = Field(1.0, description="moved by whole pixels, up to an eighth of each side")
    scale: Share = Field(1.0, description="zoomed by 2^N(0, 0.2^2)")
    rotate: Share = Field(1.0, description="turned by any angle, before or after the stretch")
    anisotropic: Share = Field(1.0, description="stretched by 2^N(0, 0.2^2) across, squeezed as much down")
    fractional_translation: Share = Field(1.0, description="moved by N(0, 0.125^2) of each side")
    color: Share = Field(0.5, description="each of brightness, contrast, luma flip, hue and saturation")
    cutout: Share = Field(1.0, description="half of each side blanked round a random centre")

    @property
    def geometric(self) -> bool:
        """Whether any of them moves pixels."""
        return any(share > 0 for name, share in self if name not in ("color", "cutout"))


# -- space ------------------------------------------------------------------------------------------------------------


def sample_geometry(
    images: Tensor, strength: Tensor | float, operations: Operations, *, rng: Generator
) -> tuple[Tensor, Tensor]:
    """Where a pixel of the augmented picture comes from: source = linear [N, 2, 2] @ target + offset [N, 2], float32.

    Coordinates are (x, y) in pixels from the picture's centre. Operations follow each other as in arXiv:2006.06676,
    appendix B; since the map leads back, each one's inverse is multiplied from the right.
    """
    draws, (height, width) = _Draws(images, rng), images.shape[-2:]
    linear = torch.eye(2, device=images.device).repeat(len(images), 1, 1)

    mirrored = 1 - 2 * draws.below(2, strength * operations.xflip)
    linear = linear * torch.cat([mirrored, torch.ones_like(mirrored)], 1)[:, None]
    turnable = operations.rot90 if height == width else 0.0
    linear = _turned(linear, math.pi / 2 * draws.below(4, strength * turnable))
    moved = draws.uniform(1 / 8, strength * operations.integer_translation, size=2)
    offset = -_times(linear, _in_pixels(moved, height, width).round())

    linear = linear * torch.exp2(-draws.normal(0.2, strength * operations.scale))[:, None]
    either = 1 - (1 - strength * operations.rotate) ** 0.5  # two turns at this chance: at least one at the wanted one
    linear = _turned(linear, draws.uniform(math.pi, either))
    stretch = draws.normal(0.2, strength * operations.anisotropic)
    linear = linear * torch.exp2(torch.cat([-stretch, stretch], 1))[:, None]
    linear = _turned(linear, draws.uniform(math.pi, either))
    moved = draws.normal(1 / 8, strength * operations.fractional_translation, size=2)
    return linear, offset - _times(linear, _in_pixels(moved, height, width))


def warp(
    images: Tensor,
    linear: Tensor,
    offset: Tensor,
    *,
    mode: Literal["bilinear", "nearest"],
    padding: Literal["reflection", "zeros"],
) -> Tensor:
    """Images [N, C, H, W] sampled where `sample_geometry`'s map says. Outside: mirrored at the edges, or 0."""
    height, width = images.shape[-2:]
    x = torch.arange(width, device=images.device) - (width - 1) / 2
    y = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    # Not F.affine_grid: its matrix product may run in TF32, whose 10 bits cannot tell a large picture's pixels apart.
    sources = [
        (linear[:, i, 0, None, None] * x + linear[:, i, 1, None, None] * y + offset[:, i, None, None]) * (2 / side)
        for i, side in enumerate((width, height))
    ]
    grid = torch.stack(sources, -1).to(images.dtype)
    return F.grid_sample(images, grid, mode=mode, padding_mode=padding, align_corners=False)


def _turned(linear: Tensor, angle: Tensor) -> Tensor:
    """Matrices [N, 2, 2] @ rotations by angles [N, 1]; a positive one turns the picture counter-clockwise."""
    first, second = linear.unbind(2)
    cos, sin = torch.cos(angle), torch.sin(angle)
    return torch.stack([first * cos + second * sin, second * cos - first * sin], 2)


def _times(linear: Tensor, vectors: Tensor) -> Tensor:
    return (linear * vectors[:, None]).sum(2)


def _in_pixels(shares: Tensor, height: int, width: int) -> Tensor:
    return torch.cat([shares[:, :1] * width, shares[:, 1:] * height], 1)


def translate(images: Tensor, *, rng: Generator) -> Tensor:
    """Images [N, C, H, W] moved by whole pixels, up to an eighth of each side, filled with 0: arXiv:2006.10738."""
    height, width = images.shape[-2:]
    reach_x, reach_y = round(width / 8), round(height / 8)
    moved = [
        torch.randint(-reach, reach + 1, (len(images),), generator=rng, device=images.device)
        for reach in (reach_x, reach_y)
    ]
    linear = torch.eye(2, device=images.device).expand(len(images), 2, 2)
    return warp(images, linear, -torch.stack(moved, 1), mode="nearest", padding="zeros")


def cut_out(images: Tensor, chance: Tensor | float, *, rng: Generator) -> Tensor:
    """Images [N, C, H, W] where, with probability `chance`, all channels are 0 in a window of half of each side.

    Its centre is uniform over the picture, so the edge may clip it. arXiv:1708.04552.
    """
    centre = torch.rand(len(images), 2, generator=rng, device=images.device)
    chosen = torch.rand(len(images), 1, generator=rng, device=images.device) < chance
    across, down = (
        ((torch.arange(side, device=images.device) + 0.5) / side - centre[:, i, None]).abs() < 0.25
        for i, side in enumerate((images.shape[3], images.shape[2]))
    )
    return images.masked_fill((down & chosen)[:, None, :, None] & across[:, None, None, :], 0.0)


# -- colour -----------------------------------------------------------------------------------------------------------


def _colour_channels(images: Tensor) -> int:
    """How many channels, from the first, are colours: RGB of RGB and RGBA, else all."""
    channels = images.shape[1]
    return 3 if channels == 4 else channels


def sample_colour(images: Tensor, chance: Tensor | float, *, rng: Generator) -> tuple[Tensor, Tensor]:
    """A picture's colours after: linear [N, K, K] @ colours before + offset [N, 1], float32; K colour channels.

    Brightness, contrast and, for RGB, luma flip, hue and saturation, in the order of arXiv:2006.06676, appendix B. They
    share the grey axis as an eigenvector, so their product has a closed form: with contrast c, flip f = +-1, saturation
    s, hue h, P the projection to the axis and R its infinitesimal rotation, c (s cos h + (f - s cos h) P + s sin h R).
    """
    draws, channels = _Draws(images, rng), _colour_channels(images)
    identity = torch.eye(channels, device=images.device)
    brightness, contrast = draws.normal(0.2, chance), torch.exp2(draws.normal(0.5, chance))
    if channels != 3:
        return contrast[:, None] * identity, contrast * brightness
    flip, hue = 1 - 2 * draws.below(2, chance), draws.uniform(math.pi, chance)
    saturation = torch.exp2(draws.normal(1.0, chance))
    cos, sin = saturation * torch.cos(hue), saturation * torch.sin(hue) / math.sqrt(3)
    rotation = identity.roll(1, 0) - identity.roll(-1, 0)
    linear = cos[:, None] * identity + (flip - cos)[:, None] / 3 + sin[:, None] * rotation
    return contrast[:, None] * linear, contrast * flip * brightness


def recolour(images: Tensor, linear: Tensor, offset: Tensor) -> Tensor:
    """Images [N, C, H, W] with `sample_colour`'s map applied to their colour channels."""
    colours, others = images[:, : linear.shape[1]], images[:, linear.shape[1] :]
    mapped = torch.baddbmm(offset[:, :, None].to(images.dtype), linear.to(images.dtype), colours.flatten(2))
    kept = torch.where(changes_nothing(linear, offset), colours, mapped.view(colours.shape))  # TF32 would round
    return torch.cat([kept, others], 1) if others.shape[1] else kept


def jitter(images: Tensor, *, rng: Generator) -> Tensor:
    """Images [N, C, H, W] with random brightness, saturation and contrast: the policy `color` of DiffAugment.

    Added b = U(-0.5, 0.5); then distances to the pixel's grey value x s = U(0, 2), RGB only; then distances to the
    picture's mean m x c = U(0.5, 1.5). arXiv:2006.10738. As saturation keeps m, with P the projection to grey that is
    c (s + (1 - s) P) colours + (1 - c) m + b.
    """
    channels = _colour_channels(images)
    brightness, saturation, contrast = torch.rand(3, len(images), 1, generator=rng, device=images.device)
    linear = torch.eye(channels, device=images.device).expand(len(images), channels, channels)
    if channels == 3:
        linear = 2 * saturation[:, None] * linear + (1 - 2 * saturation[:, None]) / 3
    mean = images[:, :channels].flatten(1).mean(1, keepdim=True)
    contrast = contrast + 0.5
    return recolour(images, contrast[:, None] * linear, (1 - contrast) * mean + brightness - 0.5)


# -- chance -----------------------------------------------------------------------------------------------------------


def changes_nothing(linear: Tensor, offset: Tensor) -> Tensor:
    """Which of N affine maps, linear [N, K, K] and offset [N, K] or [N, 1], are the identity: bool [N, 1, 1, 1]."""
    identity = torch.eye(linear.shape[1], device=linear.device)
    return ((linear == identity).flatten(1).all(1) & (offset == 0).all(1))[:, None, None, None]


class _Draws:
    """Draws for N pictures, float32 [N, size]. A picture gets them with probability `chance`, else 0: no change."""

    def __init__(self, images: Tensor, rng: Generator) -> None:
        self._count, self._device, self._rng = len(images), images.device, rng

    def uniform(self, half_width: float, chance: Tensor | float, *, size: int = 1) -> Tensor:
        return (2 * self._rand(size) - 1) * half_width * self._chosen(chance)

    def normal(self, deviation: float, chance: Tensor | float, *, size: int = 1) -> Tensor:
        normal = torch.randn(self._count, size, generator=self._rng, device=self._device)
        return normal * deviation * self._chosen(chance)

    def below(self, end: int, chance: Tensor | float) -> Tensor:
        return torch.randint(end, (self._count, 1), generator=self._rng, device=self._device) * self._chosen(chance)

    def _chosen(self, chance: Tensor | float) -> Tensor:
        return (self._rand(1) < chance).float()

    def _rand(self, size: int) -> Tensor:
        return torch.rand(self._count, size, generator=self._rng, device=self._device)
