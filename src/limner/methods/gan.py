"""Generation: the two-player game of generator G and discriminator C (arXiv:1406.2661), class-conditional or not.

One step, in the order of the textbooks, after the networks are initialised (1):
    2. take a batch of real images x
    3. make a batch of fake ones G(z), z standard normal
    4. discriminate: C(x), C(G(z))
    5. score them with the adversarial loss (`limner.losses`) and the penalties (`limner.adversary`)
    6. the discriminator moves down its loss
    7. the generator moves down its own, judged by the discriminator that has just moved; where the discriminator takes
       several steps for one of the generator, only at the last of them
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from limner.adversary import AdversarialSettings, Adversary, Duel, PenaltySettings
from limner.averaging import one_set_of_statistics, unchanged_statistics
from limner.game import Losses, MicroBatch, Moment, mean_terms
from limner.networks import GeneratorSettings, build_generator, dcgan
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.tasks import Pictures, PictureShape


class Params(AdversarialSettings):
    """Defaults: RpGAN with R1 and R2 (arXiv:2501.05441) on small DCGAN networks with their Adam (arXiv:1511.06434)."""

    name: Literal["gan"]
    generator: GeneratorSettings = dcgan.GeneratorSettings()
    penalties: PenaltySettings = PenaltySettings(r1=10.0, r2=10.0, interval=4)
    discriminator_steps: int = Field(1, ge=1, description="for one of the generator; each sees a batch of its own")
    generator_optimizer: OptimizerSettings = AdamSettings()


@dataclass
class _Part:
    """A micro-batch on its way through a step."""

    inputs: dict[str, Tensor]
    duel: Duel


class Method:
    """See the module's first lines."""

    task: Literal["pictures"] = "pictures"

    def __init__(self, params: Params, shape: PictureShape) -> None:
        self._params = params
        if not params.conditional:
            shape = PictureShape(shape.channels, shape.height, shape.width, classes=0)
        self._generator = build_generator(params.generator, shape)
        self._adversary = Adversary(params, shape)
        self.networks = nn.ModuleDict({"generator": self._generator, **self._adversary.networks})
        self.optimizers = {
            "generator": build_optimizer(params.generator_optimizer, self._generator.parameters()),
            "discriminator": self._adversary.optimizer,
        }

    def step(self, parts: Sequence[MicroBatch[Pictures]], moment: Moment) -> Losses:
        """One move of the discriminator, then one of the generator where it is its turn."""
        generator_moves = (moment.step + 1) % self._params.discriminator_steps == 0
        at_once = len(parts) == 1  # then the fakes of the first turn serve the second one too
        with torch.set_grad_enabled(generator_moves and at_once):
            begun = [self._begin(part, moment) for part in one_set_of_statistics(self._generator, parts)]
        terms = self._adversary.move([part.duel for part in begun], moment)
        return terms | (self._move_generator(begun, moment) if generator_moves else {})

    def product(self) -> nn.Module:
        """The generator."""
        return self._generator

    def product_inputs(self, batch: Pictures, rng: Generator) -> dict[str, Tensor]:
        """Noise [N, Z], and the batch's own labels [N] where the generator is conditional."""
        count, device = len(batch.images), batch.images.device
        latent = torch.randn(count, self._params.generator.latent, generator=rng, device=device)
        labels = self._adversary.labels(batch.labels)
        return {"latent": latent} if labels is None else {"latent": latent, "labels": labels}

    def realness(self, batch: Pictures, results: Tensor | None = None) -> Tensor:
        """The discriminator's logits [N], nothing augmented."""
        return self._adversary.realness(batch.images if results is None else results, batch.labels)

    def _begin(self, part: MicroBatch[Pictures], moment: Moment) -> _Part:
        inputs = self.product_inputs(part.batch, part.rng)
        labels = self._adversary.labels(part.batch.labels)
        real = self._adversary.show(part.batch.images, part.rng, moment)
        return _Part(inputs, Duel(real, self._generator(**inputs), labels, labels, part.rng))

    def _move_generator(self, parts: list[_Part], moment: Moment) -> Losses:
        told: list[Losses] = []
        with unchanged_statistics(self._generator):  # where fakes are made a second time, they do not count again
            moved = descend(
                (self._pull_generator(part, moment, told=told) for part in self._adversary.on_trial(parts)),
                self.optimizers["generator"],
                player="generator",
            )
        return mean_terms(told) | moved

    def _pull_generator(self, part: _Part, moment: Moment, *, told: list[Losses]) -> Tensor:
        fake = part.duel.fake if part.duel.fake.requires_grad else self._generator(**part.inputs)
        loss = self._adversary.judge(fake, part.duel, moment)
        told.append({"loss/generator": loss.detach()})
        return loss
