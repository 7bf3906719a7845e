"""Generation: the two-player game of generator G and discriminator C (arXiv:1406.2661), class-conditional or not.

One step, in the order of the textbooks, after the networks are initialised (1):
    2. take a batch of real images x
    3. make a batch of fake ones G(z), z standard normal
    4. discriminate: C(x), C(G(z))
    5. score them with the adversarial loss (`limner.losses`) and the gradient penalties
    6. the discriminator moves down its loss
    7. the generator moves down its own, judged by the discriminator that has just moved
The penalties are gamma/2 times R1 at real and R2 at fake images (arXiv:1801.04406). Taken every k-th step they weigh k
times as much (lazy regularisation, arXiv:1912.04958), which costs a fraction and has the same expectation.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from limner.losses import ADVERSARIAL, LossName
from limner.methods import Losses, Moment
from limner.networks import dcgan, dense
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.penalties import zero_centred_gradient_penalty
from limner.settings import MethodSettings, Settings
from limner.tasks import Pictures, PictureShape


class GeneratorSettings(Settings):
    """The convolutional generator of `limner.networks.dcgan`."""

    latent: int = Field(64, ge=1, le=4096, description="dimensions of the noise")
    width: int = Field(32, ge=1, le=1024, description="channels at the image's own resolution")
    max_width: int = Field(128, ge=1, le=4096, description="most channels of any layer")
    upsampling: Literal["nearest", "transposed"] = Field("nearest", description="transposed: as the DCGAN paper has it")


class DcganDiscriminator(Settings):
    """Strided convolutions: `limner.networks.dcgan`."""

    name: Literal["dcgan"]
    width: int = Field(32, ge=1, le=1024, description="channels of the first layer")
    max_width: int = Field(128, ge=1, le=4096, description="most channels of any layer")


class DenseDiscriminator(Settings):
    """Fully connected layers: `limner.networks.dense`."""

    name: Literal["dense"]
    widths: list[Annotated[int, Field(ge=1)]] = Field([512, 256], min_length=1, description="of the hidden layers")


DiscriminatorSettings = Annotated[DcganDiscriminator | DenseDiscriminator, Field(discriminator="name")]


class PenaltySettings(Settings):
    """Zero-centred gradient penalties."""

    r1: float = Field(0.0, ge=0, description="gamma at real images")
    r2: float = Field(0.0, ge=0, description="gamma at generated images")
    interval: int = Field(1, ge=1, description="taken every so many steps, and weighed as much more")


class Params(MethodSettings):
    """Defaults: RpGAN with R1 and R2 (arXiv:2501.05441) on small DCGAN networks with their Adam (arXiv:1511.06434)."""

    name: Literal["gan"]
    conditional: bool = Field(True, description="use the dataset's classes, where it has some")
    generator: GeneratorSettings = GeneratorSettings()
    discriminator: DiscriminatorSettings = DcganDiscriminator(name="dcgan")
    loss: LossName = Field("rpgan", description="adversarial loss")
    penalties: PenaltySettings = PenaltySettings(r1=10.0, r2=10.0, interval=4)
    generator_optimizer: OptimizerSettings = AdamSettings(name="adam")
    discriminator_optimizer: OptimizerSettings = AdamSettings(name="adam")


class Method:
    """See the module's first lines."""

    task: Literal["pictures"] = "pictures"

    def __init__(self, params: Params, shape: PictureShape) -> None:
        self._params = params
        self._loss = ADVERSARIAL[params.loss]
        if not params.conditional:
            shape = PictureShape(shape.channels, shape.height, shape.width, classes=0)
        self._shape = shape
        self._generator = dcgan.Generator(
            shape,
            latent=params.generator.latent,
            width=params.generator.width,
            max_width=params.generator.max_width,
            upsampling=params.generator.upsampling,
        )
        self._discriminator = _build_discriminator(params.discriminator, shape, offset=not self._loss.relativistic)
        self.networks = nn.ModuleDict({"generator": self._generator, "discriminator": self._discriminator})
        self.optimizers = {
            "generator": build_optimizer(params.generator_optimizer, self._generator.parameters()),
            "discriminator": build_optimizer(params.discriminator_optimizer, self._discriminator.parameters()),
        }

    def step(self, batch: Pictures, moment: Moment) -> Losses:
        """One move of the discriminator, then one of the generator."""
        real, labels = batch.images, self._labels(batch)
        fake = self._generator(**self.product_inputs(batch, moment.rng))
        judged = self._move_discriminator(real, fake.detach(), labels, moment)
        moved = self._move_generator(real, fake, labels)
        return judged | moved

    def product(self) -> nn.Module:
        """The generator."""
        return self._generator

    def product_inputs(self, batch: Pictures, rng: Generator) -> dict[str, Tensor]:
        """Noise [N, Z], and the batch's own labels [N] where the generator is conditional."""
        count, device = len(batch.images), batch.images.device
        latent = torch.randn(count, self._params.generator.latent, generator=rng, device=device)
        labels = self._labels(batch)
        return {"latent": latent} if labels is None else {"latent": latent, "labels": labels}

    def _move_discriminator(self, real: Tensor, fake: Tensor, labels: Tensor | None, moment: Moment) -> Losses:
        penalties = self._params.penalties
        due = moment.step % penalties.interval == 0
        real.requires_grad_(due and penalties.r1 > 0)
        fake.requires_grad_(due and penalties.r2 > 0)
        real_logits, fake_logits = self._discriminator(real, labels), self._discriminator(fake, labels)
        adversarial = self._loss.discriminator(real_logits, fake_logits)
        terms: Losses = {"loss/discriminator": adversarial.detach()}
        total = adversarial
        for name, gamma, logits, images in (
            ("r1", penalties.r1, real_logits, real),
            ("r2", penalties.r2, fake_logits, fake),
        ):
            if images.requires_grad:
                penalty = zero_centred_gradient_penalty(logits, images)
                total = total + 0.5 * gamma * penalties.interval * penalty
                terms[f"penalty/{name}"] = penalty.detach()
        for name, logits in (("real", real_logits.detach()), ("fake", fake_logits.detach())):
            terms[f"logit/{name}"] = logits.mean()
            if self._loss.probability is not None:
                terms[f"probability/{name}"] = self._loss.probability(logits).mean()
        terms["gradient/discriminator"] = descend(total, self.optimizers["discriminator"])
        real.requires_grad_(False)
        return terms

    def _move_generator(self, real: Tensor, fake: Tensor, labels: Tensor | None) -> Losses:
        fake_logits = self._discriminator(fake, labels)
        with torch.no_grad():
            real_logits = self._discriminator(real, labels) if self._loss.relativistic else fake_logits
        loss = self._loss.generator(real_logits, fake_logits)
        norm = descend(loss, self.optimizers["generator"])
        return {"loss/generator": loss.detach(), "gradient/generator": norm}

    def _labels(self, batch: Pictures) -> Tensor | None:
        return batch.labels if self._shape.classes else None


def _build_discriminator(settings: DiscriminatorSettings, shape: PictureShape, *, offset: bool) -> nn.Module:
    if isinstance(settings, DenseDiscriminator):
        return dense.Discriminator(shape, widths=settings.widths, offset=offset)
    return dcgan.Discriminator(shape, width=settings.width, max_width=settings.max_width, offset=offset)
