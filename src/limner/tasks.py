"""The kinds of data a training method can eat, and the batch type of each.

Images are float tensors [N, C, H, W] in [-1, 1]; labels are int64 tensors [N].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # packed datasets are made without PyTorch
    from torch import Tensor

TaskName = Literal["pictures", "unpaired", "paired"]
"""`pictures`: one set of images, labelled or not. `unpaired`: a source set and a target set with no pairs. `paired`:
a source set and a target set, where picture i of the one becomes picture i of the other."""

TRANSLATION: frozenset[TaskName] = frozenset({"unpaired", "paired"})
"""Tasks whose product turns a picture into a picture. Their datasets have the domains `source` and `target`."""


@dataclass(frozen=True)
class PictureShape:
    """What one image of a dataset looks like, and how many classes label it (0: unlabelled).

    Of a dataset with two domains `classes` are the target's and `source_classes` the source's; where both are labelled
    they are the same classes.
    """

    channels: int
    height: int
    width: int
    classes: int
    source_classes: int = 0


@dataclass(frozen=True)
class Pictures:
    """Images of one set."""

    images: Tensor
    labels: Tensor | None = None

    @property
    def real(self) -> Pictures:
        """What results are to look like."""
        return self

    @property
    def asked(self) -> Tensor | None:
        """The classes that results are to be of."""
        return self.labels


@dataclass(frozen=True)
class UnpairedPictures:
    """Images of two sets, drawn independently of each other."""

    source: Pictures
    target: Pictures

    @property
    def real(self) -> Pictures:
        """What results are to look like."""
        return self.target

    @property
    def asked(self) -> Tensor | None:
        """The classes that results are to be of: a change of style leaves them as they were."""
        return self.source.labels


@dataclass(frozen=True)
class Pairs(UnpairedPictures):
    """Images of two sets: target i is what source i has to become."""


Batch = Pictures | UnpairedPictures
