"""Translation from a single picture a side: SinCUT (arXiv:2007.15651, section 4.4).

The algorithm is `limner.contrastive`. Every batch consists of crops of the two pictures (`train.crop`), and R1 with the
non-saturating loss keeps the discriminator from learning them by heart. The paper's networks are StyleGAN2's; these
are CUT's.
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
    """The paper's loss and weights."""

    name: Literal["sincut"]
    discriminator: DiscriminatorSettings = patch_discriminator.DiscriminatorSettings(resampling="blur", norm="none")
    loss: LossName = Field("bce", description="adversarial loss; non-saturating")
    adversarial: float = Field(1.0, ge=0, description="weight of the adversarial loss")
    nce: SingleNceSettings = SingleNceSettings()
    penalties: PenaltySettings = PenaltySettings(r1=1.0)


class Method(ContrastiveTranslation):
    """See `limner.contrastive`."""
