"""Means over time and over micro-batches: of a network's weights, and of the statistics that its layers keep."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, nn

from limner import distributed
from limner.schedules import Ramp, value_at

T = TypeVar("T")


class Average:
    """The averaged product: `network` has the averaged weights, and is always in evaluation mode."""

    def __init__(self, product: nn.Module, *, half_life_kimg: float | Ramp, ramp: float, total_images: int) -> None:
        """After the half-life an old weight counts half; early on, after `ramp` times the images seen."""
        self.network = copy.deepcopy(product).eval().requires_grad_(False)
        self._half_life_kimg = half_life_kimg
        self._ramp = ramp
        self._total_images = total_images

    def decay(self, *, batch: int, images_seen: int) -> float:
        """Share of the old average that a step keeps: 0.5 ** (batch / half-life), in [0, 1)."""
        half_life = 1000 * value_at(self._half_life_kimg, images_seen / self._total_images)
        half_life = min(half_life, self._ramp * images_seen)
        return float(0.5 ** (batch / half_life)) if half_life > 0 else 0.0

    @torch.no_grad()
    def update(self, product: nn.Module, *, batch: int, images_seen: int) -> None:
        """Take in the product's weights after a step of `batch` images. Buffers (batch statistics) are copied."""
        keep = self.decay(batch=batch, images_seen=images_seen)
        averaged: list[Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averaged, [p.detach() for p in product.parameters()], 1 - keep)
        for mine, theirs in zip(self.network.buffers(), product.buffers(), strict=True):
            mine.copy_(theirs)


def one_set_of_statistics(network: nn.Module, parts: Sequence[T]) -> Iterator[T]:
    """Give the parts of a batch one by one; what the network's layers learn from them is the same in whatever order.

    Batch normalisation's running statistics and spectral norm's vectors are buffers that change at every pass. Each
    part begins with the buffers as they were before the batch; in the end they are the mean over parts and processes.
    What is not finite then stays as it was: the step of such a batch is skipped, and it must not stay for ever.
    """
    buffers = list(network.buffers())
    measured = [buffer for buffer in buffers if buffer.is_floating_point()]  # the others count batches
    if not measured:
        yield from parts
        return
    before = [buffer.clone() for buffer in buffers]
    sums = [torch.zeros_like(buffer) for buffer in measured]
    for part in parts:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.copy_(value)
        yield part
        torch._foreach_add_(sums, measured)
    means = [total / len(parts) for total in sums]
    distributed.average_(means)
    earlier = [old for old in before if old.is_floating_point()]
    for buffer, mean, old in zip(measured, means, earlier, strict=True):
        # Past autograd: a batch may have its backward still before it, which in training mode needs no statistics.
        buffer.data.copy_(torch.where(torch.isfinite(mean), mean, old))


@contextmanager
def unchanged_statistics(network: nn.Module) -> Iterator[None]:
    """What the network's layers learn from batches inside does not count: afterwards their buffers are as before."""
    before = [buffer.clone() for buffer in network.buffers()]
    yield
    for buffer, value in zip(network.buffers(), before, strict=True):
        buffer.copy_(value)
