"""Network architectures, one family a file, and what builds one from its settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from limner.networks import dcgan, dense, patch_discriminator, r3gan, resnet_translator, sngan, unet
from limner.tasks import PictureShape

GeneratorSettings = Annotated[
    dcgan.GeneratorSettings | sngan.GeneratorSettings | r3gan.GeneratorSettings, Field(discriminator="name")
]
DiscriminatorSettings = Annotated[
    dcgan.DiscriminatorSettings
    | dense.DiscriminatorSettings
    | sngan.DiscriminatorSettings
    | r3gan.DiscriminatorSettings
    | patch_discriminator.DiscriminatorSettings
    | patch_discriminator.MultiscaleSettings,
    Field(discriminator="name"),
]
TranslatorSettings = Annotated[
    resnet_translator.TranslatorSettings | unet.TranslatorSettings, Field(discriminator="name")
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
    """Images [N, C, H, W] and labels [N] -> logits: [N], or [N, P] of one that judges P patches.

    Without `offset` no part of it is added to all logits alike. Raises LimnerError for a size that it cannot judge.
    """
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
        case patch_discriminator.MultiscaleSettings():
            return patch_discriminator.MultiscaleDiscriminator(shape, **options, offset=offset)
        case patch_discriminator.DiscriminatorSettings():
            return patch_discriminator.Discriminator(shape, **options, offset=offset)


def build_translator(
    settings: TranslatorSettings, shape: PictureShape
) -> resnet_translator.Translator | unet.Translator:
    """Images [N, C, H, W] in [-1, 1] of any size from 16x16 -> images of the same shape, float32 in [-1, 1].

    `multiple` of the result is what its sizes are padded to a multiple of, inside.
    """
    options = settings.model_dump(exclude={"name"})
    match settings:
        case resnet_translator.TranslatorSettings():
            return resnet_translator.Translator(shape, **options)
        case unet.TranslatorSettings():
            return unet.Translator(shape, **options)
