"""Translation from a single picture a side: SinCUT (arXiv:2007.15651, section 4.4).

The algorithm is `limner.contrastive`. Every batch consists of crops of the two pictures (`train.crop`), and R1 with the
non-saturating loss keeps the discriminator from learning them by heart. Of the paper's are the loss, the weight of
PatchNCE, its negatives out of the whole batch, and R1. Its networks are StyleGAN2's, with their rates, one patch a
picture and layer, and an L1 identity loss; here they are CUT's, with CUT's rates, more patches, and PatchNCE of the
target as identity loss.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limner.adversary import PenaltySettings
from limner.contrastive import ContrastiveSettings, ContrastiveTranslation, NceSettings
from limner.losses import LossName
from limner.networks import DiscriminatorSettings, patch_discriminator


class SingleNceSettings(NceSettings):
    """PatchNCE, with SinCUT's defaults."""

    weight: float = Field(4.0, ge=0, description="in the generator's loss")
    patches: int = Field(64, ge=2, le=65536, description="places compared in each layer")
    negatives: Literal["image", "batch"] = Field("batch", description="where the wrong answers come from")


class Params(ContrastiveSettings):
    """See the module's first lines. The authors' code halves the discriminator's loss but not its R1: hence 2."""

    name: Literal["sincut"]
    discriminator: DiscriminatorSettings = patch_discriminator.DiscriminatorSettings(resampling="blur", norm="none")
    loss: LossName = Field("bce", description="adversarial loss; non-saturating")
    adversarial: float = Field(1.0, ge=0, description="weight of the adversarial loss")
    nce: SingleNceSettings = SingleNceSettings()
    penalties: PenaltySettings = PenaltySettings(r1=2.0)


class Method(ContrastiveTranslation):
    """See `limner.contrastive`."""
