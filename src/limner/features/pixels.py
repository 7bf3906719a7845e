"""The pixels themselves, averaged to a small size: features for pictures without labels where no weights are at hand.

They see colours, brightness and layout, and nothing finer: a low distance says that these agree, not that a person
would take the pictures for real.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it


@dataclass(frozen=True)
class Pixels:
    """Extractor: pictures area-averaged to at most `side` pixels."""

    side: int = 8
    name: str = "pixels"

    @property
    def identity(self) -> str:
        """There are no weights: the size says all."""
        return f"pixels-{self.side}"

    @property
    def resize(self) -> str:
        """See `thumbnails`."""
        return f"area average, longer side at most {self.side}"

    def __call__(self, images: Tensor) -> Tensor:
        """Features [N, C h w] in [0, 1]."""
        return thumbnails(images, side=self.side)


def thumbnails(images: Tensor, *, side: int) -> Tensor:
    """Pixels float32 [N, C h w] in [0, 1] of images uint8 [N, C, H, W], area-averaged so that max(h, w) <= side."""
    height, width = images.shape[-2:]
    scale = min(1.0, side / max(height, width))
    small = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.adaptive_avg_pool2d(images.float() / 255, small).flatten(1)
