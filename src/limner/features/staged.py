"""How differently pictures look to an extractor, place by place and at several depths: the form of LPIPS.

Zhang et al. 2018, arXiv:1801.03924, without the weights that they learnt from people's judgements.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from limner.features import Extractor, exact_arithmetic
from limner.picture_metrics import perceptual_difference

PIECE = 32
"""Pictures whose maps are held at one time."""


@runtime_checkable
class Staged(Extractor, Protocol):
    """An extractor whose maps can be had."""

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps [N, C, H, W], shallow to deep, of images uint8 [N, C, H, W]."""


@torch.no_grad()
def perceptual_differences(extractor: Staged, a: Tensor, b: Tensor) -> Tensor:
    """`perceptual_difference` of each pair of images uint8 [N, C, H, W], [N] on the CPU."""
    with exact_arithmetic():
        return torch.cat(
            [
                perceptual_difference(extractor.stages(x), extractor.stages(y)).cpu()
                for x, y in zip(torch.split(a, PIECE), torch.split(b, PIECE), strict=True)
            ]
        )


def perceptual_variety(extractor: Staged, images: Tensor) -> float:
    """Mean difference of each image, of at least two in an order by chance, to the next one."""
    return float(perceptual_differences(extractor, images, images.roll(1, 0)).mean())
