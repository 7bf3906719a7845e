"""The kinds of data a training method can eat, and the batch type of each.

Images are float tensors [N, C, H, W] in [-1, 1]; labels are int64 tensors [N].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # packed datasets are made without PyTorch
    from torch import Tensor

TaskName = Literal["pictures", "unpaired"]
"""`pictures`: one set of images, labelled or not. `unpaired`: a source set and a target set with no pairs."""


@dataclass(frozen=True)
class PictureShape:
    """What one image of a dataset looks like, and how many classes label it (0: unlabelled)."""

    channels: int
    height: int
    width: int
    classes: int


@dataclass(frozen=True)
class Pictures:
    """Images of one set."""

    images: Tensor
    labels: Tensor | None = None


@dataclass(frozen=True)
class UnpairedPictures:
    """Images of two sets, drawn independently of each other."""

    source: Pictures
    target: Pictures
