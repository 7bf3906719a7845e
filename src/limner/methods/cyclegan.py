"""Unpaired translation there and back: CycleGAN (arXiv:1703.10593).

Two generators, G from source x to target y and F the other way, each with an adversary that knows the pictures of its
side. One step, in the order of the authors' code:
    1. both generators move together: both adversarial losses, the cycle losses |F(G(x)) - x| and |G(F(y)) - y|, and the
       identity losses |G(y) - y| and |F(x) - x|
    2. each discriminator moves, shown fakes of this step and earlier ones from a pool (arXiv:1612.07828)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from limner import distributed
from limner.adversary import AdversarialSettings, Adversary, Duel
from limner.averaging import one_set_of_statistics
from limner.content import Content, ContentSettings
from limner.game import Losses, MicroBatch, Moment, mean_terms
from limner.image_pool import ImagePool
from limner.losses import LossName, cycle_loss, identity_loss
from limner.networks import (
    DiscriminatorSettings,
    TranslatorSettings,
    build_translator,
    patch_discriminator,
    resnet_translator,
)
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.randomness import generator, global_seed
from limner.schedules import HELD_THEN_DOWN
from limner.tasks import PictureShape, UnpairedPictures


class Params(AdversarialSettings):
    """Defaults: the paper's, with the weight of the identity loss that its code has."""

    name: Literal["cyclegan"]
    generator: TranslatorSettings = resnet_translator.TranslatorSettings(resampling="strided")
    discriminator: DiscriminatorSettings = patch_discriminator.DiscriminatorSettings()
    loss: LossName = Field("lsgan", description="adversarial loss")
    adversarial: float = Field(
        2.0, ge=0, description="weight of the adversarial losses; 2, as the authors' code has LSGAN without its 1/2"
    )
    cycle: float = Field(10.0, ge=0, description="lambda: weight of the cycle losses")
    identity: float = Field(0.5, ge=0, description="weight of the identity losses, times `cycle`")
    pool: int = Field(50, ge=0, le=10_000, description="earlier results that a discriminator is shown too")
    content: ContentSettings = ContentSettings()
    generator_optimizer: OptimizerSettings = AdamSettings(learning_rate=HELD_THEN_DOWN)
    discriminator_optimizer: OptimizerSettings = AdamSettings(learning_rate=HELD_THEN_DOWN)


class TwoWay(nn.Module):
    """Both generators, as one product: source pictures -> target style, and back."""

    def __init__(self, there: nn.Module, back: nn.Module) -> None:
        super().__init__()
        self.there = there
        self.return_ = back
        self.multiple = there.multiple

    def forward(self, source: Tensor) -> Tensor:
        """Source pictures [N, C, H, W] in the target's style."""
        translated: Tensor = self.there(source)
        return translated

    def back(self, target: Tensor) -> Tensor:
        """Target pictures [N, C, H, W] in the source's style."""
        translated: Tensor = self.return_(target)
        return translated


@dataclass
class _Part:
    """A micro-batch on its way through a step. `there` is judged by the target's adversary, `back` by the source's."""

    batch: UnpairedPictures
    seed: int
    there: Duel
    back: Duel


class Method:
    """See the module's first lines."""

    task: Literal["unpaired"] = "unpaired"
    calls_product = False
    """A step calls each of the product's two generators."""

    def __init__(self, params: Params, shape: PictureShape) -> None:
        self._params = params
        both = params.conditional and shape.classes and shape.source_classes
        seen = PictureShape(shape.channels, shape.height, shape.width, classes=shape.classes if both else 0)
        self._both = TwoWay(build_translator(params.generator, shape), build_translator(params.generator, shape))
        self._there, self._back = Adversary(params, seen), Adversary(params, seen, side="_back")
        self._content = Content(params.content, shape)
        self._pools = [ImagePool(params.pool, shape.channels, shape.height, shape.width) for _ in range(2)]
        self.networks = nn.ModuleDict(
            {
                "generator": self._both,
                **self._there.networks,
                **self._back.networks,
                **self._content.networks,
                "pool": self._pools[0],
                "pool_back": self._pools[1],
            }
        )
        self.optimizers = {
            "generator": build_optimizer(params.generator_optimizer, self._both.parameters()),
            self._there.player: self._there.optimizer,
            self._back.player: self._back.optimizer,
            **self._content.optimizers,
        }

    def step(self, parts: Sequence[MicroBatch[UnpairedPictures]], moment: Moment) -> Losses:
        """One move of both generators, then one of each discriminator."""
        begun = [self._begin(part, moment) for part in parts]
        terms = self._content.move([part.batch for part in begun])
        told: list[Losses] = []
        playing = nn.ModuleList([self._both, self._there.discriminator, self._back.discriminator])
        moved = descend(
            (self._pull(part, moment, told=told) for part in one_set_of_statistics(playing, begun)),
            self.optimizers["generator"],
            player="generator",
        )
        terms |= mean_terms(told) | moved
        for number, (adversary, pool) in enumerate(zip((self._there, self._back), self._pools, strict=True)):
            duels = [(part.there, part.back)[number] for part in begun]
            self._pool(duels, pool, generator(moment.seed, "pool", moment.step, number, device=duels[0].fake.device))
            terms |= adversary.move(duels, moment)
        return terms

    def product(self) -> nn.Module:
        """Both generators."""
        return self._both

    def product_inputs(self, batch: UnpairedPictures, rng: Generator) -> dict[str, Tensor]:
        """The source pictures [N, C, H, W]."""
        del rng
        return {"source": batch.source.images}

    def realness(self, batch: UnpairedPictures, results: Tensor | None = None) -> Tensor:
        """The logits [N] of the target's discriminator, nothing augmented."""
        if results is None:
            return self._there.realness(batch.target.images, batch.target.labels)
        return self._there.realness(results, batch.asked)

    def _begin(self, part: MicroBatch[UnpairedPictures], moment: Moment) -> _Part:
        source, target = part.batch.source, part.batch.target
        duels = []
        for adversary, real, fake in ((self._there, target, source), (self._back, source, target)):
            shown = adversary.show(real.images, part.rng, moment)
            labels = adversary.labels(real.labels), adversary.labels(fake.labels)
            duels.append(Duel(shown, fake.images, *labels, part.rng))
        return _Part(part.batch, part.seed, *duels)

    def _pull(self, part: _Part, moment: Moment, *, told: list[Losses]) -> Tensor:
        x, y, params = part.batch.source.images, part.batch.target.images, self._params
        # One pass of each generator for the pictures to be changed and for those to be left alone.
        keep = [y, x] if params.identity else []
        with global_seed(part.seed, x.device):  # dropout, where a generator has some
            there, back = self._both.there(torch.cat([x, *keep[:1]])), self._both.return_(torch.cat([y, *keep[1:]]))
            fake_y, fake_x = there[: len(x)], back[: len(y)]
            cycles = self._both.return_(fake_y), self._both.there(fake_x)
        terms = {
            "loss/generator": self._there.judge(fake_y, part.there, moment),
            "loss/generator_back": self._back.judge(fake_x, part.back, moment),
            "loss/cycle": cycle_loss(cycles[0], x),
            "loss/cycle_back": cycle_loss(cycles[1], y),
        }
        weights = [params.adversarial] * 2 + [params.cycle] * 2
        if params.identity:
            terms |= {
                "loss/identity": identity_loss(there[len(x) :], y),
                "loss/identity_back": identity_loss(back[len(y) :], x),
            }
            weights += [params.cycle * params.identity] * 2
        loss = torch.stack([weight * term for weight, term in zip(weights, terms.values(), strict=True)]).sum()
        if (kept := self._content.loss(fake_y, part.batch)) is not None:
            loss, terms["loss/content"] = loss + kept, kept
        told.append({name: term.detach() for name, term in terms.items()})
        part.there.fake, part.back.fake = fake_y.detach(), fake_x.detach()
        return loss

    def _pool(self, duels: list[Duel], pool: ImagePool, rng: Generator) -> None:
        """Exchange fakes with the pool: of all processes together, so that all of them keep the same pool."""
        if not pool.size:
            return
        images = _everybodys(torch.stack([duel.fake for duel in duels]))
        labels = [duel.fake_labels for duel in duels if duel.fake_labels is not None]
        if labels:
            images, found = pool.exchange_labelled(images, _everybodys(torch.stack(labels)), rng)
            for duel, mine in zip(duels, _mine(found, len(duels)), strict=True):
                duel.fake_labels = mine
        else:
            images = pool.exchange(images, rng)
        for duel, mine in zip(duels, _mine(images, len(duels)), strict=True):
            duel.fake = mine


def _everybodys(parts: Tensor) -> Tensor:
    """This process's micro-batches [K, n, ...] -> those of all processes [P K n, ...], in the batch's order."""
    shared = torch.unflatten(distributed.gathered(parts), 0, (distributed.processes(), -1))
    return shared.transpose(0, 1).flatten(0, 2)


def _mine(images: Tensor, count: int) -> Tensor:
    """This process's `count` micro-batches [K, n, ...] of all of them."""
    return torch.unflatten(images, 0, (count, distributed.processes(), -1))[:, distributed.rank()]
