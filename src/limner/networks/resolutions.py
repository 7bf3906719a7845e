"""The ladder of resolutions that a network climbs from a coarse grid to the picture, or down again."""

from __future__ import annotations

from limner.errors import LimnerError
from limner.tasks import PictureShape

SMALLEST, LARGEST = 16, 256
BASE = 4
"""Resolution at which the latent enters a generator and the features leave a discriminator."""


def resolutions(shape: PictureShape, *, family: str) -> list[int]:
    """Resolutions from 4 up to the picture's. Raises LimnerError for a size that such a network does not build."""
    size = shape.height
    if shape.width != size or size & (size - 1) or not SMALLEST <= size <= LARGEST:
        raise LimnerError(
            f"The {family} networks cannot make pictures of {shape.width}x{shape.height}.",
            why=f"They double the resolution from {BASE}x{BASE}: square, a power of two, {SMALLEST} to {LARGEST}.",
            fix="Set the dataset's image.size to 16, 32, 64, 128 or 256.",
        )
    return [2**power for power in range(2, size.bit_length())]
