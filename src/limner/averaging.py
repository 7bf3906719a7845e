"""An exponential moving average of a network's weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Average:
    """The averaged product: `network` has the averaged weights, and is always in evaluation mode."""

    def __init__(self, product: nn.Module, *, half_life_images: float, ramp: float) -> None:
        """After `half_life_images` an old weight counts half; early on, after `ramp` times the images seen if less."""
        self.network = copy.deepcopy(product).eval().requires_grad_(False)
        self._half_life_images = half_life_images
        self._ramp = ramp

    def decay(self, *, batch: int, images_seen: int) -> float:
        """Share of the old average that a step keeps: 0.5 ** (batch / half-life), in [0, 1)."""
        half_life = min(self._half_life_images, self._ramp * images_seen)
        return float(0.5 ** (batch / half_life)) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, product: nn.Module, *, batch: int, images_seen: int) -> None:
        """Take in the product's weights after a step of `batch` images. Buffers (batch statistics) are copied."""
        keep = self.decay(batch=batch, images_seen=images_seen)
        averaged: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in product.parameters()], 1 - keep)
        for mine, theirs in zip(self.network.buffers(), product.buffers(), strict=True):
            mine.copy_(theirs)
