"""Features of the parts of a picture: what a style is judged by where the pictures are too few to be compared as sets.

A set of one or two pictures has no distribution, the tiles of one have: Shaham et al. 2019, arXiv:1905.01164, compare
single pictures in this way.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from limner.features import Extractor

PER_SIDE = 8
"""Tiles that lie side by side in a picture; others lie half a tile off."""
SMALLEST = 8
"""Side of a tile at least, pixels."""


@dataclass(frozen=True)
class Tiles:
    """Extractor: another one's features of every square tile, half a tile apart."""

    extractor: Extractor

    @property
    def name(self) -> str:
        """The other's, and that it saw tiles."""
        return f"{self.extractor.name}-tiles"

    @property
    def identity(self) -> str:
        """The other's, and the size of the tiles."""
        return f"{self.extractor.identity}, tiles of 1/{PER_SIDE} of the shorter side, at least {SMALLEST} px"

    @property
    def resize(self) -> str:
        """The other's, of a tile."""
        return self.extractor.resize

    def __call__(self, images: Tensor) -> Tensor:
        """Features [N T, D] of the T tiles of each of the images uint8 [N, C, H, W], picture by picture."""
        side = max(SMALLEST, min(images.shape[2:]) // PER_SIDE)
        tiles = images.unfold(2, side, side // 2).unfold(3, side, side // 2)
        return self.extractor(tiles.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1], side, side))
