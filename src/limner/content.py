"""What a translation must keep: the class of the picture, where labels say which one that is.

A small recogniser learns the classes beside the game from whichever side has labels, and the generator is asked that
its results are read as what the source is: the semantic consistency of CyCADA (arXiv:1711.03213). Where the
source is labelled, that is its label; where only the target is, what the recogniser itself reads in the source. Where
both are, a class-conditional discriminator says the same and more (`limner.adversary`), and this is rarely needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torch.optim import Optimizer

from limner.errors import LimnerError
from limner.game import Losses, mean_terms
from limner.losses import prediction_consistency_loss
from limner.networks.recogniser import Recogniser
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.strict import Settings
from limner.tasks import PictureShape, UnpairedPictures


class ContentSettings(Settings):
    """Keeping the class."""

    weight: float = Field(0.0, ge=0, description="of the class's cross-entropy in the generator's loss; 0: not asked")
    width: int = Field(32, ge=8, multiple_of=8, le=512, description="channels of the recogniser's first layer")
    optimizer: OptimizerSettings = AdamSettings(learning_rate=1e-3, beta1=0.9)


class Content:
    """A recogniser that learns beside the game; nothing at all where its weight is 0."""

    def __init__(self, settings: ContentSettings, shape: PictureShape) -> None:
        """Raises LimnerError where it is asked for and no side of the dataset is labelled."""
        self._settings = settings
        self.networks: dict[str, nn.Module] = {}
        self.optimizers: dict[str, Optimizer] = {}
        if not settings.weight:
            return
        classes = max(shape.classes, shape.source_classes)
        if not classes:
            raise LimnerError(
                "content.weight asks that classes are kept, but neither side of the dataset has labels.",
                fix="Use class-folders for one side or both, or leave content.weight at 0.",
            )
        self._recogniser = Recogniser(shape.channels, classes, width=settings.width)
        self.networks["recogniser"] = self._recogniser
        self.optimizers["recogniser"] = build_optimizer(settings.optimizer, self._recogniser.parameters())

    def move(self, batches: Sequence[UnpairedPictures]) -> Losses:
        """The recogniser learns from the labelled pictures of every micro-batch."""
        if not self.networks:
            return {}
        told: list[Losses] = []
        moved = descend(
            (self._pull(batch, told=told) for batch in batches), self.optimizers["recogniser"], player="recogniser"
        )
        return mean_terms(told) | moved

    def _pull(self, batch: UnpairedPictures, *, told: list[Losses]) -> Tensor:
        labelled = [(side.images, side.labels) for side in (batch.source, batch.target) if side.labels is not None]
        labels = torch.cat([each for _, each in labelled])
        logits = self._recogniser(torch.cat([images for images, _ in labelled]))
        loss = F.cross_entropy(logits, labels)
        right = (logits.detach().argmax(1) == labels).float().mean()
        told.append({"loss/recogniser": loss.detach(), "recogniser/right": right})
        return loss

    def loss(self, results: Tensor, batch: UnpairedPictures) -> Tensor | None:
        """What the generator pays [] for results [N, C, H, W] that are read as another class; None if not asked."""
        if not self.networks:
            return None
        truth = batch.source.labels
        if truth is None:
            with torch.no_grad():
                truth = self._recogniser(batch.source.images).softmax(1)
        return self._settings.weight * prediction_consistency_loss(self._recogniser(results), truth)
