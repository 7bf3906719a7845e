"""A picture of any size within a budget of memory: tiles that join without a seam.

Two things make a tile differ from the same place in the whole picture: its edges, and statistics over the whole
picture that its network normalises by. So each tile is read with a margin as wide as the network sees (its reach), of
which nothing is kept; and all tiles use the same statistics, estimated beforehand from a spread of places. What is kept
of neighbours then agrees to within rounding: there is nothing to blend.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limner.pixels import to_signed, to_uint8
from limner.spatial_statistics import Statistics, TranslatorProgram, average

LONGEST_REACH = 1024
ROWS_OF_PATCHES, SAMPLES = 4, 8
"""The statistics are the mean over so many samples of 4 x 4 patches each."""


@dataclass(frozen=True)
class Tile:
    """A part of a picture as (top, bottom, left, right): what is read, and the part of it that is kept."""

    read: tuple[int, int, int, int]
    kept: tuple[int, int, int, int]


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not smaller."""
    return -(-value // multiple) * multiple


def plan_tiles(height: int, width: int, *, pixels: int, margin: int, multiple: int) -> tuple[Tile, ...]:
    """Tiles of at most `pixels` that cover a picture, each with `margin` around what is kept of it.

    All sizes and places are multiples of `multiple`, as height, width and margin have to be. Of all grids it is the one
    that computes the fewest pixels. All tiles are read at one size: for each new size kernels prepare anew, and hold on
    to memory. Empty where no tile is so small.
    """
    best: tuple[list[_Span], ...] = ()
    least = math.inf
    for columns in range(1, width // multiple + 1):
        across = _spans(width, round_up(-(-width // columns), multiple), margin, multiple)
        read_width = across[0].read_end - across[0].read_start
        read_height = min(height, pixels // read_width // multiple * multiple)
        kept_height = height if read_height == height else read_height - 2 * margin
        if kept_height < multiple:
            continue
        down = _spans(height, kept_height, margin, multiple)
        computed = len(down) * len(across) * read_width * (down[0].read_end - down[0].read_start)
        if computed < least:
            least, best = computed, (down, across)
    if not best:
        return ()
    return tuple(
        Tile(
            read=(rows.read_start, rows.read_end, columns.read_start, columns.read_end),
            kept=(rows.start, rows.end, columns.start, columns.end),
        )
        for rows in best[0]
        for columns in best[1]
    )


def least_pixels(margin: int, multiple: int) -> int:
    """The smallest tile that keeps anything."""
    return (2 * margin + multiple) ** 2


@dataclass(frozen=True)
class _Span:
    """One side of a tile."""

    start: int
    end: int
    read_start: int
    read_end: int


def _spans(length: int, piece: int, margin: int, multiple: int) -> list[_Span]:
    """A side in pieces that are no longer than `piece`; at the ends more than the margin is read."""
    count = -(-length // piece)
    places = [round_up(length * number // count, multiple) for number in range(count)] + [length]
    read = min(length, max(end - start for start, end in pairwise(places)) + 2 * margin)
    starts = (min(max(0, start - margin), length - read) for start in places[:-1])
    return [_Span(*kept, start, start + read) for kept, start in zip(pairwise(places), starts, strict=True)]


@dataclass(frozen=True)
class Canvas:
    """A picture uint8 [H, W, C], and how its parts get to the network and back."""

    pixels: NDArray[np.uint8]
    device: torch.device

    def source(self, place: tuple[int, int, int, int]) -> Tensor:
        """A part as the network sees it, [1, C, H, W] in [-1, 1]."""
        top, bottom, left, right = place
        return to_network(self.pixels[None, top:bottom, left:right], self.device)


def to_network(pixels_NHWC: NDArray[np.uint8], device: torch.device) -> Tensor:  # noqa: N803
    """float32 [N, C, H, W] in [-1, 1], with its channels last in memory."""
    writable = np.require(pixels_NHWC, requirements=["C", "W"])  # PyTorch warns of others, such as Pillow's own memory
    return to_signed(torch.from_numpy(writable).permute(0, 3, 1, 2).to(device))


def from_network(images: Tensor) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C] of images [N, C, H, W] in [-1, 1]."""
    pixels: NDArray[np.uint8] = to_uint8(images).permute(0, 2, 3, 1).cpu().numpy()
    return pixels


def estimate_statistics(program: TranslatorProgram, canvas: Canvas, *, pixels: int, multiple: int) -> Statistics:
    """The statistics that the whole picture would have, from samples of at most `pixels` spread over it.

    A sample is normalised as if it were one picture, so that the statistics of its layers agree with each other. (They
    have to: to measure each layer with the last estimate of those before it multiplies the errors instead.) The mean
    over samples takes each one's chance away.
    """
    height, width = canvas.pixels.shape[:2]
    return average(
        [
            program.pool(torch.cat([canvas.source(place) for place in patches]))[1]
            for patches in (sample_patches(height, width, number, pixels, multiple) for number in range(SAMPLES))
        ]
    )


def sample_patches(height: int, width: int, number: int, pixels: int, multiple: int) -> list[tuple[int, int, int, int]]:
    """Places of equal size, evenly spread over a picture, that hold `pixels` together; elsewhere for each number."""
    share = math.sqrt(min(1.0, pixels / (height * width))) / ROWS_OF_PATCHES
    tall, wide = (max(multiple, int(side * share) // multiple * multiple) for side in (height, width))

    def starts(length: int, piece: int, offset: float) -> list[int]:
        centres = [(row + offset) * length / ROWS_OF_PATCHES for row in range(ROWS_OF_PATCHES)]
        return [int(min(max(0, centre - piece / 2), length - piece)) // multiple * multiple for centre in centres]

    # The plastic number's two powers: places that never come close to earlier ones.
    down = starts(height, tall, (0.5 + number * 0.7549) % 1)
    across = starts(width, wide, (0.5 + number * 0.5698) % 1)
    return [(top, top + tall, left, left + wide) for top in down for left in across]


@torch.no_grad()
def measure_reach(program: TranslatorProgram, *, channels: int, multiple: int, smallest: int) -> int | None:
    """How far a result depends on its surroundings, in pixels, with the statistics given; None: as far as one looks.

    Measured: one half of a strip is replaced, and the furthest change in the other half is sought.
    """
    rng = torch.Generator().manual_seed(0)
    half = round_up(max(128, smallest), multiple)
    while True:
        strip = torch.rand(1, channels, smallest, 2 * half, generator=rng) * 2 - 1
        other = strip.clone()
        other[..., :half] = torch.rand(1, channels, smallest, half, generator=rng) * 2 - 1
        _, statistics = program.pool(strip)
        changed = program.given(strip, statistics) != program.given(other, statistics)
        columns = changed.any(2).any(1)[0, half:].nonzero()
        reach = int(columns.max()) + 1 if len(columns) else 0
        if reach <= half - multiple:
            return round_up(reach, multiple)
        if half >= LONGEST_REACH:
            return None
        half = min(2 * half, round_up(LONGEST_REACH, multiple))
