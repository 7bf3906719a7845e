"""Contrastive unpaired translation: what the methods `cut`, `fastcut` and `sincut` have in common (arXiv:2007.15651).

A generator G turns a source picture x into the target's style. An adversary makes its results look like target
pictures y. That the content stays is asked by PatchNCE: of many patches of x, the one at the same place must be the
most similar to a patch of G(x). Similarity is measured in the features of G's own first half, seen through a small
projection F that learns with G.

One step, in the order of the authors' code:
    1. translate x, and y as well where identity is asked for, in one pass that also gives the features of both
    2. the discriminator moves, `limner.adversary`
    3. G and F move together: adversarial loss + PatchNCE of x and, as an identity loss, of y; half of each
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from limner.adversary import AdversarialSettings, Adversary, Duel
from limner.content import Content, ContentSettings
from limner.errors import LimnerError
from limner.game import Losses, MicroBatch, Moment, mean_terms
from limner.losses import LossName, patch_nce_loss
from limner.networks import DiscriminatorSettings, patch_discriminator, resnet_translator
from limner.networks.patch_projection import PatchProjection
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.randomness import generator
from limner.schedules import HELD_THEN_DOWN
from limner.strict import Settings
from limner.tasks import PictureShape, UnpairedPictures


class NceSettings(Settings):
    """PatchNCE: equation 3 of the paper."""

    weight: float = Field(1.0, ge=0, description="in the generator's loss")
    identity: bool = Field(True, description="half of it is of target pictures, which the generator is to leave alone")
    flip_equivariance: bool = Field(
        False, description="mirror the sources of half the steps; ask for mirrored features"
    )
    layers: list[int] = Field([], description="of the generator's encoder, see the network; empty: the paper's five")
    patches: int = Field(256, ge=2, le=65536, description="places compared in each layer")
    temperature: float = Field(0.07, gt=0)
    negatives: Literal["image", "batch"] = Field("image", description="where the wrong answers come from")
    width: int = Field(256, ge=1, le=4096, description="of the projection's vectors")


class ContrastiveSettings(AdversarialSettings):
    """Defaults: CUT (arXiv:2007.15651)."""

    generator: resnet_translator.TranslatorSettings = resnet_translator.TranslatorSettings(init="xavier")
    discriminator: DiscriminatorSettings = patch_discriminator.DiscriminatorSettings(resampling="blur", init="xavier")
    loss: LossName = Field("lsgan", description="adversarial loss")
    adversarial: float = Field(
        2.0, ge=0, description="weight of the adversarial loss; 2, as the authors' code has LSGAN without its 1/2"
    )
    nce: NceSettings = NceSettings()
    content: ContentSettings = ContentSettings()
    generator_optimizer: OptimizerSettings = AdamSettings(learning_rate=HELD_THEN_DOWN)
    discriminator_optimizer: OptimizerSettings = AdamSettings(learning_rate=HELD_THEN_DOWN)


@dataclass
class _Part:
    """A micro-batch on its way through a step."""

    batch: UnpairedPictures
    inputs: Tensor
    """What is translated: sources, mirrored or not, and behind them the targets where identity is asked for."""
    mirrored: bool
    results: Tensor
    keys: list[Tensor]
    """Features of what is translated, as it was before any mirroring; no gradient goes there."""
    duel: Duel


class ContrastiveTranslation:
    """See the module's first lines."""

    task: Literal["unpaired"] = "unpaired"
    calls_product = False
    """A step asks the generator for its features too, which a compiled call does not give."""

    def __init__(self, params: ContrastiveSettings, shape: PictureShape) -> None:
        self._params = params
        both = params.conditional and shape.classes and shape.source_classes
        seen = PictureShape(shape.channels, shape.height, shape.width, classes=shape.classes if both else 0)
        self._generator = resnet_translator.Translator(shape, **params.generator.model_dump(exclude={"name"}))
        self._layers = tuple(params.nce.layers) or self._generator.default_layers
        channels = self._generator.feature_channels
        if max(self._layers) >= len(channels) or min(self._layers) < 0:
            raise LimnerError(
                f"nce.layers asks for layer {max(self._layers)} of a generator that has 0 to {len(channels) - 1}.",
                fix="Name layers that there are, or none for the paper's.",
            )
        self._projection = PatchProjection([channels[layer] for layer in self._layers], width=params.nce.width)
        self._adversary = Adversary(params, seen)
        self._content = Content(params.content, shape)
        self.networks = nn.ModuleDict(
            {
                "generator": self._generator,
                "projection": self._projection,
                **self._adversary.networks,
                **self._content.networks,
            }
        )
        own = [*self._generator.parameters(), *self._projection.parameters()]
        self.optimizers = {
            "generator": build_optimizer(params.generator_optimizer, own),
            "discriminator": self._adversary.optimizer,
            **self._content.optimizers,
        }

    def step(self, parts: Sequence[MicroBatch[UnpairedPictures]], moment: Moment) -> Losses:
        """One move of the discriminator, then one of the generator with its projection."""
        with torch.set_grad_enabled(len(parts) == 1):  # then the results of the first turn serve the second one too
            begun = [self._begin(part, moment) for part in parts]
        terms = self._adversary.move([part.duel for part in begun], moment)
        terms |= self._content.move([part.batch for part in begun])
        told: list[Losses] = []
        moved = descend(
            (self._pull(part, moment, told=told) for part in self._adversary.on_trial(begun)),
            self.optimizers["generator"],
            player="generator",
        )
        return terms | mean_terms(told) | moved

    def product(self) -> nn.Module:
        """The generator."""
        return self._generator

    def product_inputs(self, batch: UnpairedPictures, rng: Generator) -> dict[str, Tensor]:
        """The source pictures [N, C, H, W]."""
        del rng
        return {"source": batch.source.images}

    def realness(self, batch: UnpairedPictures, results: Tensor | None = None) -> Tensor:
        """The logits [N] of the target's discriminator, nothing augmented."""
        if results is None:
            return self._adversary.realness(batch.target.images, batch.target.labels)
        return self._adversary.realness(results, batch.asked)

    def _begin(self, part: MicroBatch[UnpairedPictures], moment: Moment) -> _Part:
        source, target = part.batch.source, part.batch.target
        # One coin for all, as the authors toss it: the step's, so that every part and process has the same.
        coin = torch.rand((), generator=generator(moment.seed, "mirror", moment.step))
        mirrored = self._params.nce.flip_equivariance and float(coin) < 0.5
        pictures = source.images.flip(3) if mirrored else source.images
        inputs = torch.cat([pictures, target.images]) if self._params.nce.identity else pictures
        results, keys = self._generator.forward_with_features(inputs, self._layers)
        if mirrored:
            with torch.no_grad():
                plain = self._generator.features(source.images, self._layers)
            keys = [torch.cat([one, other[len(one) :]]) for one, other in zip(plain, keys, strict=True)]
        real = self._adversary.show(target.images, part.rng, moment)
        labels, wanted = (self._adversary.labels(side.labels) for side in (target, source))
        duel = Duel(real, results[: len(pictures)], labels, wanted, part.rng)
        return _Part(part.batch, inputs, mirrored, results, [key.detach() for key in keys], duel)

    def _pull(self, part: _Part, moment: Moment, *, told: list[Losses]) -> Tensor:
        results = part.results if part.results.requires_grad else self._generator(part.inputs)
        fake, nce = results[: len(part.duel.fake)], self._params.nce
        adversarial = self._adversary.judge(fake, part.duel, moment)
        terms = {"loss/generator": adversarial.detach()}
        loss = self._params.adversarial * adversarial
        if nce.weight:
            similar = self._patch_nce(results, part)
            loss = loss + nce.weight * similar.mean()
            for name, value in zip(("loss/nce", "loss/nce_identity"), similar, strict=False):
                terms[name] = value.detach()
        kept = self._content.loss(fake, part.batch)
        if kept is not None:
            loss, terms["loss/content"] = loss + kept, kept.detach()
        told.append(terms)
        return loss

    def _patch_nce(self, results: Tensor, part: _Part) -> Tensor:
        """Mean over layers of PatchNCE: of the sources, and of the targets where identity is asked for; [1] or [2]."""
        nce, count = self._params.nce, len(part.duel.fake)
        queries = self._generator.features(results, self._layers)
        if part.mirrored:
            queries = [torch.cat([each[:count].flip(3), each[count:]]) for each in queries]
        with torch.no_grad():
            keys, places = self._projection.sample(part.keys, nce.patches, part.duel.rng)
        vectors, _ = self._projection.sample(queries, nce.patches, part.duel.rng, places=places)
        layers = [
            torch.stack(
                [
                    patch_nce_loss(ours, theirs, temperature=nce.temperature, negatives=nce.negatives)
                    for ours, theirs in zip(torch.split(query, count), torch.split(key, count), strict=True)
                ]
            )
            for query, key in zip(vectors, keys, strict=True)
        ]
        return torch.stack(layers).mean(0)
