"""The discriminator's side of the game: what it sees, how it moves, and how it judges what a generator made.

Every method has one such adversary or several. Its loss is one of `limner.losses`; what keeps it smooth are penalties,
gamma/2 times R1 at real and R2 at generated images (arXiv:1801.04406), or WGAN-GP's between them. Taken every k-th step
they weigh k times as much (lazy regularisation, arXiv:1912.04958), which costs a fraction and has the same expectation.
They are taken at the images as the discriminator sees them, after any augmentation.

Its logits are [N], or [N, P] where it judges patches: losses are means over all patches, and a penalty is taken of an
image's mean logit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Generator, Tensor, nn

from limner import distributed
from limner.augment import AugmentSettings, build_augmentation
from limner.averaging import one_set_of_statistics
from limner.game import Losses, Moment, mean_terms
from limner.losses import ADVERSARIAL, LogitAnchors, LossName, lecam_penalty
from limner.networks import DiscriminatorSettings, build_discriminator, dcgan
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.penalties import (
    interpolated_gradient_penalty,
    squared_gradient_norm_estimates,
    squared_gradient_norms,
)
from limner.piecewise_linear import penalised_gradients
from limner.schedules import NonNegativeSchedule, value_at
from limner.settings import MethodSettings
from limner.strict import Settings
from limner.tasks import PictureShape

T = TypeVar("T")


class PenaltySettings(Settings):
    """What keeps the discriminator smooth."""

    r1: NonNegativeSchedule = Field(0.0, description="gamma of the squared gradient norm at real images")
    r2: NonNegativeSchedule = Field(0.0, description="gamma of the squared gradient norm at generated images")
    wgan_gp: float = Field(0.0, ge=0, description="lambda of (gradient norm - 1)^2 between real and generated images")
    interval: int = Field(1, ge=1, description="taken every so many steps, and weighed as much more")
    form: Literal["exact", "finite-difference"] = Field("exact", description="of r1 and r2")
    lecam: float = Field(0.0, ge=0, description="weight of LeCam's penalty on the logits")
    lecam_decay: float = Field(0.99, ge=0, lt=1, description="of the mean logits that LeCam compares with, a step")


class AdversarialSettings(MethodSettings):
    """What every method says of its discriminator."""

    conditional: bool = Field(True, description="use the dataset's classes, where it has some")
    discriminator: DiscriminatorSettings = dcgan.DiscriminatorSettings()
    loss: LossName = Field("rpgan", description="adversarial loss")
    penalties: PenaltySettings = PenaltySettings()
    augmentation: AugmentSettings | None = Field(None, description="of what the discriminator sees, real and fake")
    discriminator_optimizer: OptimizerSettings = AdamSettings()

    @model_validator(mode="before")
    @classmethod
    def _keep_what_is_not_said(cls, raw: Any) -> Any:
        """Keys left out of a network's or an optimiser's block are the method's, as long as it is of the same name."""
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        for key, field in cls.model_fields.items():
            said, default = raw.get(key), field.default
            named = isinstance(said, Mapping) and isinstance(default, Settings) and "name" in type(default).model_fields
            if named and said.get("name", default.name) == default.name:  # type: ignore[union-attr]
                filled[key] = default.model_dump(mode="json") | dict(said)  # type: ignore[arg-type]
        return filled

    @model_validator(mode="after")
    def _refuse_lecam_without_level(self) -> AdversarialSettings:
        if self.penalties.lecam and ADVERSARIAL[self.loss].relativistic:
            raise PydanticCustomError(
                "lecam", "penalties.lecam needs a loss that fixes the level of the logits, and rpgan does not"
            )
        return self


@dataclass
class Duel:
    """Real images and generated ones of a micro-batch, with the classes that they should be of."""

    real: Tensor
    """[N, C, H, W], as the discriminator sees them: both turns look at the same ones."""
    fake: Tensor
    """[N, C, H, W], before any augmentation."""
    real_labels: Tensor | None
    fake_labels: Tensor | None
    rng: Generator


class Adversary:
    """One discriminator. Its networks and its optimiser belong into the method's, under names of the method's choice.

    `side` ends the names of its terms, where a method has several.
    """

    def __init__(self, settings: AdversarialSettings, shape: PictureShape, *, side: str = "") -> None:
        """`shape` is of the images it looks at, with as many classes as it is to tell apart (0: none)."""
        self._settings = settings
        self._loss = ADVERSARIAL[settings.loss]
        self._side = side
        self.player = f"discriminator{side}"
        self._classes = shape.classes
        self.discriminator = build_discriminator(settings.discriminator, shape, offset=not self._loss.offset_free)
        self._augmentation = build_augmentation(settings.augmentation)
        self._anchors = LogitAnchors()
        self.networks: dict[str, nn.Module] = {
            self.player: self.discriminator,
            f"augmentation{side}": self._augmentation,
            f"anchors{side}": self._anchors,
        }
        self.optimizer = build_optimizer(settings.discriminator_optimizer, self.discriminator.parameters())

    def show(self, images: Tensor, rng: Generator, moment: Moment) -> Tensor:
        """Images as the discriminator gets to see them."""
        shown: Tensor = self._augmentation(images, rng, moment.progress)
        return shown

    def labels(self, labels: Tensor | None) -> Tensor | None:
        """The labels, where the discriminator knows classes."""
        return labels if self._classes else None

    def realness(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """The logits [N] of images, nothing augmented."""
        return _of_images(self.discriminator(images, self.labels(labels)))

    # -- its own turn -------------------------------------------------------------------------------------------------

    def move(self, duels: Sequence[Duel], moment: Moment) -> Losses:
        """One step down its loss, from all micro-batches."""
        told: list[Losses] = []
        signs: list[Tensor] = []
        moved = descend(
            (
                self._pull(duel, moment, told=told, signs=signs)
                for duel in one_set_of_statistics(self.discriminator, duels)
            ),
            self.optimizer,
            player=self.player,
        )
        terms = mean_terms(told) | moved
        if self._settings.augmentation:
            self._augmentation.observe(distributed.gathered(torch.cat(signs)))
            terms[f"augmentation/strength{self._side}"] = self._augmentation.strength(moment.progress)
        if self._settings.penalties.lecam:
            levels = terms[f"logit/real{self._side}"].clone(), terms[f"logit/fake{self._side}"].clone()
            distributed.average_(levels)
            self._anchors.update(*levels, decay=self._settings.penalties.lecam_decay)
        return terms

    def _pull(self, duel: Duel, moment: Moment, *, told: list[Losses], signs: list[Tensor]) -> Tensor | list[Tensor]:
        """The loss of a part, or its gradients at the discriminator's parameters; tells what it saw on the way."""
        settings = self._settings.penalties
        # Real images and fake ones [2N, C, H, W]: one pass for both, as the discriminator looks at each by itself.
        shown = torch.cat([duel.real, self.show(duel.fake.detach(), duel.rng, moment)])
        judge = partial(self.discriminator, labels=_both(duel))
        weights = self._penalty_weights(shown, moment)
        exact = settings.form == "exact" and weights is not None
        if exact and weights is not None and getattr(self.discriminator, "piecewise_linear", False):
            found = penalised_gradients(
                judge, shown, loss=self._adversarial, weights=weights, parameters=self.discriminator.parameters()
            )
            signs.append(self._signs(found.logits))
            told.append(self._terms(found.logits, found.loss) | self._norms(found.squared_norms))
            return found.gradients
        logits = judge(shown.requires_grad_(exact))
        loss = self._adversarial(logits)
        signs.append(self._signs(logits.detach()))
        terms = self._terms(logits.detach(), loss.detach())
        if weights is not None:
            norms = (
                squared_gradient_norms(_of_images(logits), shown)
                if exact
                else squared_gradient_norm_estimates(lambda images: _of_images(judge(images)), shown, duel.rng)
            )
            loss = loss + 0.5 * (weights * norms).sum()
            terms |= self._norms(norms.detach())
        if settings.wgan_gp and moment.step % settings.interval == 0:
            real, fake = shown.detach().chunk(2)
            penalty = interpolated_gradient_penalty(
                lambda images: _of_images(self.discriminator(images, duel.real_labels)), real, fake, duel.rng
            )
            loss = loss + settings.wgan_gp * settings.interval * moment.caution * penalty
            terms[f"penalty/gp{self._side}"] = penalty.detach()
        told.append(terms)
        return loss

    def _penalty_weights(self, shown: Tensor, moment: Moment) -> Tensor | None:
        """What half the squared gradient norm of each image [2N] counts; None where this step takes no such penalty."""
        settings = self._settings.penalties
        gammas = [value_at(gamma, moment.progress) for gamma in (settings.r1, settings.r2)]
        if moment.step % settings.interval or not any(gammas):
            return None
        count = len(shown) // 2
        scale = settings.interval * moment.caution / count
        return torch.cat([shown.new_full((count,), gamma * scale) for gamma in gammas])

    def _adversarial(self, logits: Tensor) -> Tensor:
        real, fake = logits.chunk(2)
        loss = self._loss.discriminator(real, fake)
        if self._settings.penalties.lecam:
            loss = loss + self._settings.penalties.lecam * lecam_penalty(
                real, fake, self._anchors.real, self._anchors.fake
            )
        return loss

    def _signs(self, logits: Tensor) -> Tensor:
        """Whether real images were told from fake ones [N]: of C(x), or where its level is free of C(x) - C(G(z))."""
        real, fake = _of_images(logits).chunk(2)
        return torch.sign(real - fake if self._loss.offset_free else real)

    def _terms(self, logits: Tensor, loss: Tensor) -> Losses:
        terms: Losses = {"loss/discriminator": loss, "overfitting/r_t": self._signs(logits).mean()}
        for name, values in zip(("real", "fake"), logits.chunk(2), strict=True):
            terms[f"logit/{name}"] = values.mean()
            if self._loss.probability is not None:
                terms[f"probability/{name}"] = self._loss.probability(values).mean()
        return {f"{name}{self._side}": value for name, value in terms.items()}

    def _norms(self, squared_norms: Tensor) -> Losses:
        real, fake = squared_norms.chunk(2)
        return {f"penalty/r1{self._side}": real.mean(), f"penalty/r2{self._side}": fake.mean()}

    # -- the generator's turn -----------------------------------------------------------------------------------------

    def on_trial(self, parts: Sequence[T]) -> Iterator[T]:
        """The parts of a generator's turn one by one: what the discriminator's layers learn on the way counts once."""
        return one_set_of_statistics(self.discriminator, parts)

    def judge(self, fake: Tensor, duel: Duel, moment: Moment) -> Tensor:
        """The generator's loss for images [N, C, H, W] that it made, which gradients go through."""
        fake_logits = self.discriminator(self.show(fake, duel.rng, moment), duel.fake_labels)
        with torch.no_grad():
            relativistic = self._loss.relativistic
            real_logits = self.discriminator(duel.real, duel.real_labels) if relativistic else fake_logits
        return self._loss.generator(real_logits, fake_logits)


def _of_images(logits: Tensor) -> Tensor:
    """One logit an image [N] of logits [N] or of its patches' [N, P]."""
    return logits if logits.ndim == 1 else logits.mean(1)


def _both(duel: Duel) -> Tensor | None:
    if duel.real_labels is None or duel.fake_labels is None:
        return None
    return torch.cat([duel.real_labels, duel.fake_labels])
