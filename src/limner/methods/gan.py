"""Generation: the two-player game of generator G and discriminator C (arXiv:1406.2661), class-conditional or not.

One step, in the order of the textbooks, after the networks are initialised (1):
    2. take a batch of real images x
    3. make a batch of fake ones G(z), z standard normal
    4. discriminate: C(x), C(G(z))
    5. score them with the adversarial loss (`limner.losses`) and the penalties
    6. the discriminator moves down its loss
    7. the generator moves down its own, judged by the discriminator that has just moved; where the discriminator takes
       several steps for one of the generator, only at the last of them
The penalties are gamma/2 times R1 at real and R2 at fake images (arXiv:1801.04406), or WGAN-GP's between them. Taken
every k-th step they weigh k times as much (lazy regularisation, arXiv:1912.04958), which costs a fraction and has the
same expectation. They are taken at the images as the discriminator sees them, after any augmentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Generator, Tensor, nn

from limner import distributed
from limner.augment import AugmentSettings, build_augmentation
from limner.averaging import one_set_of_statistics
from limner.losses import ADVERSARIAL, LogitAnchors, LossName, lecam_penalty
from limner.methods import Losses, MicroBatch, Moment, mean_terms
from limner.networks import DiscriminatorSettings, GeneratorSettings, build_discriminator, build_generator, dcgan
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
from limner.tasks import Pictures, PictureShape


class PenaltySettings(Settings):
    """What keeps the discriminator smooth."""

    r1: NonNegativeSchedule = Field(0.0, description="gamma of the squared gradient norm at real images")
    r2: NonNegativeSchedule = Field(0.0, description="gamma of the squared gradient norm at generated images")
    wgan_gp: float = Field(0.0, ge=0, description="lambda of (gradient norm - 1)^2 between real and generated images")
    interval: int = Field(1, ge=1, description="taken every so many steps, and weighed as much more")
    form: Literal["exact", "finite-difference"] = Field("exact", description="of r1 and r2")
    lecam: float = Field(0.0, ge=0, description="weight of LeCam's penalty on the logits")
    lecam_decay: float = Field(0.99, ge=0, lt=1, description="of the mean logits that LeCam compares with, a step")


class Params(MethodSettings):
    """Defaults: RpGAN with R1 and R2 (arXiv:2501.05441) on small DCGAN networks with their Adam (arXiv:1511.06434)."""

    name: Literal["gan"]
    conditional: bool = Field(True, description="use the dataset's classes, where it has some")
    generator: GeneratorSettings = dcgan.GeneratorSettings()
    discriminator: DiscriminatorSettings = dcgan.DiscriminatorSettings()
    loss: LossName = Field("rpgan", description="adversarial loss")
    penalties: PenaltySettings = PenaltySettings(r1=10.0, r2=10.0, interval=4)
    augmentation: AugmentSettings | None = Field(None, description="of what the discriminator sees, real and fake")
    discriminator_steps: int = Field(1, ge=1, description="for one of the generator; each sees a batch of its own")
    generator_optimizer: OptimizerSettings = AdamSettings()
    discriminator_optimizer: OptimizerSettings = AdamSettings()

    @model_validator(mode="after")
    def _refuse_lecam_without_level(self) -> Params:
        if self.penalties.lecam and ADVERSARIAL[self.loss].relativistic:
            raise PydanticCustomError(
                "lecam", "penalties.lecam needs a loss that fixes the level of the logits, and rpgan does not"
            )
        return self


@dataclass
class _Part:
    """A micro-batch on its way through a step."""

    labels: Tensor | None
    inputs: dict[str, Tensor]
    fake: Tensor
    real: Tensor
    """As the discriminator sees it: both turns look at the same real batch."""
    rng: Generator


class Method:
    """See the module's first lines."""

    task: Literal["pictures"] = "pictures"

    def __init__(self, params: Params, shape: PictureShape) -> None:
        self._params = params
        self._loss = ADVERSARIAL[params.loss]
        if not params.conditional:
            shape = PictureShape(shape.channels, shape.height, shape.width, classes=0)
        self._shape = shape
        self._generator = build_generator(params.generator, shape)
        self._discriminator = build_discriminator(params.discriminator, shape, offset=not self._loss.offset_free)
        self._augmentation = build_augmentation(params.augmentation)
        self._anchors = LogitAnchors()
        self.networks = nn.ModuleDict(
            {
                "generator": self._generator,
                "discriminator": self._discriminator,
                "augmentation": self._augmentation,
                "anchors": self._anchors,
            }
        )
        self.optimizers = {
            "generator": build_optimizer(params.generator_optimizer, self._generator.parameters()),
            "discriminator": build_optimizer(params.discriminator_optimizer, self._discriminator.parameters()),
        }

    def step(self, parts: Sequence[MicroBatch[Pictures]], moment: Moment) -> Losses:
        """One move of the discriminator, then one of the generator where it is its turn."""
        generator_moves = (moment.step + 1) % self._params.discriminator_steps == 0
        at_once = len(parts) == 1  # then the fakes of the first turn serve the second one too
        with torch.set_grad_enabled(generator_moves and at_once):
            begun = [self._begin(part, moment) for part in one_set_of_statistics(self._generator, parts)]
        terms = self._move_discriminator(begun, moment)
        return terms | (self._move_generator(begun, moment) if generator_moves else {})

    def product(self) -> nn.Module:
        """The generator."""
        return self._generator

    def product_inputs(self, batch: Pictures, rng: Generator) -> dict[str, Tensor]:
        """Noise [N, Z], and the batch's own labels [N] where the generator is conditional."""
        count, device = len(batch.images), batch.images.device
        latent = torch.randn(count, self._params.generator.latent, generator=rng, device=device)
        labels = self._labels(batch)
        return {"latent": latent} if labels is None else {"latent": latent, "labels": labels}

    def realness(self, images: Tensor, batch: Pictures) -> Tensor:
        """The discriminator's logits [N], nothing augmented."""
        logits: Tensor = self._discriminator(images, self._labels(batch))
        return logits

    def _begin(self, part: MicroBatch[Pictures], moment: Moment) -> _Part:
        inputs = self.product_inputs(part.batch, part.rng)
        real = self._augmentation(part.batch.images, part.rng, moment.progress)
        return _Part(self._labels(part.batch), inputs, self._generator(**inputs), real, part.rng)

    # -- the discriminator's turn -------------------------------------------------------------------------------------

    def _move_discriminator(self, parts: list[_Part], moment: Moment) -> Losses:
        told: list[Losses] = []
        signs: list[Tensor] = []
        moved = descend(
            (
                self._pull_discriminator(part, moment, told=told, signs=signs)
                for part in one_set_of_statistics(self._discriminator, parts)
            ),
            self.optimizers["discriminator"],
            player="discriminator",
        )
        terms = mean_terms(told) | moved
        if self._params.augmentation:
            self._augmentation.observe(distributed.gathered(torch.cat(signs)))
            terms["augmentation/strength"] = self._augmentation.strength(moment.progress)
        if self._params.penalties.lecam:
            levels = terms["logit/real"].clone(), terms["logit/fake"].clone()
            distributed.average_(levels)
            self._anchors.update(*levels, decay=self._params.penalties.lecam_decay)
        return terms

    def _pull_discriminator(
        self, part: _Part, moment: Moment, *, told: list[Losses], signs: list[Tensor]
    ) -> Tensor | list[Tensor]:
        """The loss of a part, or its gradients at the discriminator's parameters; tells what it saw on the way."""
        settings, shown = self._params.penalties, self._shown(part, moment)
        judge = partial(self._discriminator, labels=None if part.labels is None else part.labels.repeat(2))
        weights = self._penalty_weights(shown, moment)
        exact = settings.form == "exact" and weights is not None
        if exact and weights is not None and getattr(self._discriminator, "piecewise_linear", False):
            found = penalised_gradients(
                judge, shown, loss=self._adversarial, weights=weights, parameters=self._discriminator.parameters()
            )
            signs.append(self._signs(found.logits))
            told.append(self._terms(found.logits, found.loss) | _norms(found.squared_norms))
            return found.gradients
        logits = judge(shown.requires_grad_(exact))
        loss = self._adversarial(logits)
        signs.append(self._signs(logits.detach()))
        terms = self._terms(logits.detach(), loss.detach())
        if weights is not None:
            norms = (
                squared_gradient_norms(logits, shown)
                if exact
                else squared_gradient_norm_estimates(judge, shown, part.rng)
            )
            loss = loss + 0.5 * (weights * norms).sum()
            terms |= _norms(norms.detach())
        if settings.wgan_gp and moment.step % settings.interval == 0:
            real, fake = shown.detach().chunk(2)
            penalty = interpolated_gradient_penalty(
                partial(self._discriminator, labels=part.labels), real, fake, part.rng
            )
            loss = loss + settings.wgan_gp * settings.interval * moment.caution * penalty
            terms["penalty/gp"] = penalty.detach()
        told.append(terms)
        return loss

    def _shown(self, part: _Part, moment: Moment) -> Tensor:
        """Real images and fake ones [2N, C, H, W]: one pass for both, as the discriminator looks at each by itself."""
        return torch.cat([part.real, self._augmentation(part.fake.detach(), part.rng, moment.progress)])

    def _penalty_weights(self, shown: Tensor, moment: Moment) -> Tensor | None:
        """What half the squared gradient norm of each image [2N] counts; None where this step takes no such penalty."""
        settings = self._params.penalties
        gammas = [value_at(gamma, moment.progress) for gamma in (settings.r1, settings.r2)]
        if moment.step % settings.interval or not any(gammas):
            return None
        count = len(shown) // 2
        scale = settings.interval * moment.caution / count
        return torch.cat([shown.new_full((count,), gamma * scale) for gamma in gammas])

    def _adversarial(self, logits: Tensor) -> Tensor:
        real, fake = logits.chunk(2)
        loss = self._loss.discriminator(real, fake)
        if self._params.penalties.lecam:
            loss = loss + self._params.penalties.lecam * lecam_penalty(
                real, fake, self._anchors.real, self._anchors.fake
            )
        return loss

    def _signs(self, logits: Tensor) -> Tensor:
        """Whether real images were told from fake ones: of C(x), or where its level is free of C(x) - C(G(z))."""
        real, fake = logits.chunk(2)
        return torch.sign(real - fake if self._loss.offset_free else real)

    def _terms(self, logits: Tensor, loss: Tensor) -> Losses:
        terms: Losses = {"loss/discriminator": loss, "overfitting/r_t": self._signs(logits).mean()}
        for name, values in zip(("real", "fake"), logits.chunk(2), strict=True):
            terms[f"logit/{name}"] = values.mean()
            if self._loss.probability is not None:
                terms[f"probability/{name}"] = self._loss.probability(values).mean()
        return terms

    # -- the generator's turn -----------------------------------------------------------------------------------------

    def _move_generator(self, parts: list[_Part], moment: Moment) -> Losses:
        told: list[Losses] = []
        before = [buffer.clone() for buffer in self._generator.buffers()]
        moved = descend(
            (
                self._pull_generator(part, moment, told=told)
                for part in one_set_of_statistics(self._discriminator, parts)
            ),
            self.optimizers["generator"],
            player="generator",
        )
        for buffer, value in zip(self._generator.buffers(), before, strict=True):
            buffer.copy_(value)  # where fakes were made a second time, they do not count a second time
        return mean_terms(told) | moved

    def _pull_generator(self, part: _Part, moment: Moment, *, told: list[Losses]) -> Tensor:
        fake = part.fake if part.fake.requires_grad else self._generator(**part.inputs)
        fake_logits = self._discriminator(self._augmentation(fake, part.rng, moment.progress), part.labels)
        with torch.no_grad():
            real_logits = self._discriminator(part.real, part.labels) if self._loss.relativistic else fake_logits
        loss = self._loss.generator(real_logits, fake_logits)
        told.append({"loss/generator": loss.detach()})
        return loss

    def _labels(self, batch: Pictures) -> Tensor | None:
        return batch.labels if self._shape.classes else None


def _norms(squared_norms: Tensor) -> Losses:
    real, fake = squared_norms.chunk(2)
    return {"penalty/r1": real.mean(), "penalty/r2": fake.mean()}
