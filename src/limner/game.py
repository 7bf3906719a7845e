"""What a step of the two-player game is given, and what it tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Generator, Tensor

Losses = dict[str, Tensor]
"""Every term of one step by name: scalar tensors, detached, still on the device."""

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class MicroBatch(Generic[BatchT]):
    """The part of a batch that is computed at once, with the randomness that belongs to it and to nothing else.

    Normally it is the whole batch. It is a part where memory does not hold all (gradient accumulation), and where
    several processes share the work; since it is the same whoever computes it, so is the result.
    """

    batch: BatchT
    rng: Generator
    """On the method's device, seeded from the run's seed, the step and the part."""
    seed: int = 0
    """Of the same three, for layers that draw from the global generator: see `limner.randomness.global_seed`."""


@dataclass(frozen=True)
class Moment:
    """Where in the run a step stands. All that a schedule or an interval needs, so that neither has a state to save."""

    step: int
    images_seen: int
    total_images: int
    rollbacks: int = 0
    """How often the guard has gone back to an earlier checkpoint."""
    seed: int = 0
    """The run's: for what all parts of a step have to draw alike."""

    @property
    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]."""
        return self.images_seen / self.total_images

    @property
    def caution(self) -> float:
        """What penalties are multiplied by: twice as much after each time the guard went back."""
        return float(2**self.rollbacks)


def mean_terms(parts: Sequence[Losses]) -> Losses:
    """Each term's mean over the micro-batches that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.stack([part[name] for part in parts if name in part]).mean() for name in names}
