"""Unpaired translation by contrastive learning: CUT (arXiv:2007.15651). The algorithm is `limner.contrastive`."""

from __future__ import annotations

from typing import Literal

from limner.contrastive import ContrastiveSettings, ContrastiveTranslation


class Params(ContrastiveSettings):
    """The paper's: LSGAN, PatchNCE of sources and targets with weight 1 in all."""

    name: Literal["cut"]


class Method(ContrastiveTranslation):
    """See `limner.contrastive`."""
