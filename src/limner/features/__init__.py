"""Feature extractors: what a picture is judged by. One file of this package is one extractor.

An extractor turns uint8 pictures into feature vectors. Its name goes into the names of the metrics and its identity
into their protocol, because values under different features cannot be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from limner.errors import LimnerError

MANY = 500
"""Pictures for which it pays to start slowly."""


class Extractor(Protocol):
    """Pictures -> features. Deterministic; what else is in the batch changes no more than the rounding."""

    @property
    def name(self) -> str:
        """The word that metric names end in."""

    @property
    def identity(self) -> str:
        """What the features depend on: the sha256 of the weights, or the recipe where there are none."""

    @property
    def resize(self) -> str:
        """How a picture is brought to the size that is looked at, in a few words."""

    def __call__(self, images: Tensor) -> Tensor:
        """Features float [N, D] of images uint8 [N, C, H, W] on any device."""


@runtime_checkable
class Recogniser(Extractor, Protocol):
    """An extractor that also knows the classes of the dataset."""

    def probabilities(self, features: Tensor) -> Tensor:
        """Class probabilities [N, K] that belong to features [N, D]."""


@runtime_checkable
class Classifying(Extractor, Protocol):
    """An extractor with classes of its own, whatever those of the dataset are."""

    def class_probabilities(self, features: Tensor) -> Tensor:
        """Probabilities [N, K] that belong to features [N, D]."""


@runtime_checkable
class Starting(Extractor, Protocol):
    """An extractor that can be made faster, if it may take its time to start."""

    def for_many(self) -> Extractor:
        """The same features, but for rounding."""


def fit_for(extractor: Extractor, count: int) -> Extractor:
    """The extractor in the form that takes the least time for so many pictures."""
    return extractor.for_many() if count >= MANY and isinstance(extractor, Starting) else extractor


@torch.no_grad()
def extract(extractor: Extractor, pieces: Iterable[Tensor]) -> Tensor:
    """Features float32 [N, D], on the CPU, of a stream of images uint8 [n, C, H, W].

    Raises LimnerError where a feature is not finite: the extractor's weights are damaged then, for pixels always are.
    """
    with exact_arithmetic():
        features = torch.cat([extractor(piece).float().cpu() for piece in pieces])
    if not features.isfinite().all():
        raise LimnerError(
            f"The features of the extractor {extractor.name!r} are not finite.",
            why="Its weights must be damaged.",
            fix="Give it intact weights, or empty the feature cache, and evaluate again.",
        )
    return features


def exact_arithmetic() -> AbstractContextManager[None]:
    """float32 convolutions on a GPU as exact and repeatable as on a CPU: no TF32, no choice of algorithm by race."""
    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
