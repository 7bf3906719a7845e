"""Unpaired translation in half the time: FastCUT (arXiv:2007.15651). The algorithm is `limner.contrastive`.

Without the identity loss only sources are translated. In its place PatchNCE weighs ten times as much, and mirrored
sources have to give mirrored features.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from limner.contrastive import ContrastiveSettings, ContrastiveTranslation, NceSettings
from limner.optimise import AdamSettings, OptimizerSettings
from limner.schedules import Ramp

LATE_DECAY = Ramp(start=2e-4, end=2e-6, hold=0.75, shape="linear")
"""The paper's learning rate: 150 epochs constant, 50 down."""


class FastNceSettings(NceSettings):
    """PatchNCE, with FastCUT's defaults."""

    weight: float = Field(10.0, ge=0, description="in the generator's loss")
    identity: bool = Field(False, description="half of it is of target pictures, which the generator is to leave alone")
    flip_equivariance: bool = Field(True, description="mirror the sources of half the steps; ask for mirrored features")


class Params(ContrastiveSettings):
    """The paper's."""

    name: Literal["fastcut"]
    nce: FastNceSettings = FastNceSettings()
    generator_optimizer: OptimizerSettings = AdamSettings(learning_rate=LATE_DECAY)
    discriminator_optimizer: OptimizerSettings = AdamSettings(learning_rate=LATE_DECAY)


class Method(ContrastiveTranslation):
    """See `limner.contrastive`."""
