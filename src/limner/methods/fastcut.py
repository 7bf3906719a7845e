"""Unpaired translation in half the time: FastCUT (arXiv:2007.15651, appendix C). The algorithm is `limner.contrastive`.

Without the identity loss only sources are translated. In its place PatchNCE weighs ten times as much, and mirrored
sources have to give mirrored features.
"""

from __future__ import annotations

from typing import Literal

from limner.contrastive import ContrastiveSettings, ContrastiveTranslation, NceSettings


class Params(ContrastiveSettings):
    """The paper's."""

    name: Literal["fastcut"]
    nce: NceSettings = NceSettings(weight=10.0, identity=False, flip_equivariance=True)


class Method(ContrastiveTranslation):
    """See `limner.contrastive`."""
