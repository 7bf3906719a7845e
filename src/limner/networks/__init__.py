"""Network architectures, one family a file, and what builds one from its settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from limner.networks import dcgan, dense, r3gan, sngan
from limner.tasks import PictureShape

GeneratorSettings = Annotated[
    dcgan.GeneratorSettings | sngan.GeneratorSettings | r3gan.GeneratorSettings, Field(discriminator="name")
]
DiscriminatorSettings = Annotated[
    dcgan.DiscriminatorSettings
    | dense.DiscriminatorSettings
    | sngan.DiscriminatorSettings
    | r3gan.DiscriminatorSettings,
    Field(discriminator="name"),
]


def build_generator(settings: GeneratorSettings, shape: PictureShape) -> nn.Module:
    """Latent [N, Z], labels [N] -> images [N, C, H, W]. Raises LimnerError for a size that the family cannot make."""
    options = settings.model_dump(exclude={"name"})
    match settings:
        case dcgan.GeneratorSettings():
            return dcgan.Generator(shape, **options)
        case sngan.GeneratorSettings():
            return sngan.Generator(shape, **options)
        case r3gan.GeneratorSettings():
            return r3gan.Generator(shape, **options)


def build_discriminator(settings: DiscriminatorSettings, shape: PictureShape, *, offset: bool) -> nn.Module:
    """Images [N, C, H, W] and labels [N] -> logits [N]; without `offset` no part of it is added to all logits alike."""
    options = settings.model_dump(exclude={"name"})
    match settings:
        case dcgan.DiscriminatorSettings():
            return dcgan.Discriminator(shape, **options, offset=offset)
        case dense.DiscriminatorSettings():
            return dense.Discriminator(shape, **options, offset=offset)
        case sngan.DiscriminatorSettings():
            return sngan.Discriminator(shape, **options, offset=offset)
        case r3gan.DiscriminatorSettings():
            return r3gan.Discriminator(shape, **options)
