"""Paired translation: pix2pix (arXiv:1611.07004).

The discriminator looks at a source picture x beside a picture that claims to be its translation, the true y or G(x).
One step, in the order of the paper:
    1. translate x
    2. the discriminator moves: (x, y) is real, (x, G(x)) is fake
    3. the generator moves: the adversarial loss and lambda |y - G(x)|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from limner.adversary import AdversarialSettings, Adversary, Duel
from limner.averaging import one_set_of_statistics, unchanged_statistics
from limner.game import Losses, MicroBatch, Moment, mean_terms
from limner.losses import LossName, reconstruction_loss
from limner.networks import DiscriminatorSettings, TranslatorSettings, build_translator, patch_discriminator, unet
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.randomness import global_seed
from limner.schedules import HELD_THEN_DOWN
from limner.tasks import Pairs, PictureShape


class Params(AdversarialSettings):
    """Defaults: the paper's U-Net and 70x70 PatchGAN."""

    name: Literal["pix2pix"]
    conditional: bool = Field(False, description="tell the discriminator the classes too, where both sides have them")
    generator: TranslatorSettings = unet.TranslatorSettings()
    discriminator: DiscriminatorSettings = patch_discriminator.DiscriminatorSettings()
    loss: LossName = Field("bce", description="adversarial loss")
    adversarial: float = Field(1.0, ge=0, description="weight of the adversarial loss")
    reconstruction: float = Field(100.0, ge=0, description="lambda: weight of the mean absolute error")
    generator_optimizer: OptimizerSettings = AdamSettings(learning_rate=HELD_THEN_DOWN)
    discriminator_optimizer: OptimizerSettings = AdamSettings(learning_rate=HELD_THEN_DOWN)


@dataclass
class _Part:
    """A micro-batch on its way through a step."""

    batch: Pairs
    seed: int
    results: Tensor
    duel: Duel


class Method:
    """See the module's first lines."""

    task: Literal["paired"] = "paired"

    def __init__(self, params: Params, shape: PictureShape) -> None:
        self._params = params
        both = params.conditional and shape.classes and shape.source_classes
        seen = replace(shape, channels=2 * shape.channels, classes=shape.classes if both else 0)
        self._generator = build_translator(params.generator, shape)
        self._adversary = Adversary(params, seen)
        self.networks = nn.ModuleDict({"generator": self._generator, **self._adversary.networks})
        self.optimizers = {
            "generator": build_optimizer(params.generator_optimizer, self._generator.parameters()),
            "discriminator": self._adversary.optimizer,
        }

    def step(self, parts: Sequence[MicroBatch[Pairs]], moment: Moment) -> Losses:
        """One move of the discriminator, then one of the generator."""
        with torch.set_grad_enabled(len(parts) == 1):  # then the results of the first turn serve the second one too
            begun = [self._begin(part, moment) for part in one_set_of_statistics(self._generator, parts)]
        terms = self._adversary.move([part.duel for part in begun], moment)
        told: list[Losses] = []
        with unchanged_statistics(self._generator):  # where results are made again, they do not count again
            moved = descend(
                (self._pull(part, moment, told=told) for part in self._adversary.on_trial(begun)),
                self.optimizers["generator"],
                player="generator",
            )
        return terms | mean_terms(told) | moved

    def product(self) -> nn.Module:
        """The generator."""
        return self._generator

    def product_inputs(self, batch: Pairs, rng: Generator) -> dict[str, Tensor]:
        """The source pictures [N, C, H, W]."""
        del rng
        return {"source": batch.source.images}

    def realness(self, batch: Pairs, results: Tensor | None = None) -> Tensor:
        """The discriminator's logits [N] beside the sources, nothing augmented."""
        images, labels = (batch.target.images, batch.target.labels) if results is None else (results, batch.asked)
        return self._adversary.realness(torch.cat([batch.source.images, images], 1), labels)

    def _begin(self, part: MicroBatch[Pairs], moment: Moment) -> _Part:
        source, target = part.batch.source, part.batch.target
        results = self._translate(source.images, part.seed)
        real = self._adversary.show(torch.cat([source.images, target.images], 1), part.rng, moment)
        fake = torch.cat([source.images, results], 1)
        labels, wanted = (self._adversary.labels(side.labels) for side in (target, source))
        return _Part(part.batch, part.seed, results, Duel(real, fake, labels, wanted, part.rng))

    def _pull(self, part: _Part, moment: Moment, *, told: list[Losses]) -> Tensor:
        source = part.batch.source.images
        results = part.results if part.results.requires_grad else self._translate(source, part.seed)
        adversarial = self._adversary.judge(torch.cat([source, results], 1), part.duel, moment)
        reconstruction = reconstruction_loss(results, part.batch.target.images)
        told.append({"loss/generator": adversarial.detach(), "loss/reconstruction": reconstruction.detach()})
        return self._params.adversarial * adversarial + self._params.reconstruction * reconstruction

    def _translate(self, source: Tensor, seed: int) -> Tensor:
        """Results in training mode, with the dropout of the part that has the seed."""
        with global_seed(seed, source.device):
            results: Tensor = self._generator(source)
        return results
