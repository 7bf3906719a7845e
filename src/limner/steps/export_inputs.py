"""What an exported program is called with: examples, the sizes that stay free, and trials of its parity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limner.errors import LimnerError
from limner.inference import TranslatorTraits
from limner.randomness import generator
from limner.spatial_statistics import TranslatorProgram
from limner.tasks import TRANSLATION, Pairs, Pictures, UnpairedPictures
from limner.tiling import measure_reach, round_up
from limner.trained import TrainedModel

BATCHES = (1, 2, 5)
"""Batch sizes on which the exported programs are compared with the eager model: the batch is dynamic."""
SMALLEST_SIDE, LARGEST_SIDE = 16, 2048
MEASURED_SIDE = 256


@dataclass(frozen=True)
class ProgramInputs:
    """Inputs of a product by name."""

    examples: Mapping[str, Tensor]
    free: Mapping[str, dict[int, Any]]
    """Of each input the dimensions whose size is free, as torch.export wants them."""
    trials: tuple[Mapping[str, Tensor], ...]
    """On these every program has to compute what the product does."""


def program_inputs(trained: TrainedModel, product: nn.Module) -> ProgramInputs:
    """As the method draws them. A translator's pictures have any height and width; a generator's have one."""
    batch = torch.export.Dim("batch", min=1, max=65536)
    shape = trained.shape
    if trained.method.task not in TRANSLATION:
        examples = _draw(trained, 2, shape.height, shape.width, seed=0)
        trials = tuple(_draw(trained, count, shape.height, shape.width, seed=1) for count in BATCHES)
        return ProgramInputs(examples, {name: {0: batch} for name in examples}, trials)
    multiple, smallest = multiple_of(product), smallest_side(product, shape.channels)
    sides: Any = [torch.export.Dim(name, min=smallest // multiple, max=65536) for name in ("height", "width")]
    high, wide = (round_up(max(side, smallest), multiple) for side in (shape.height, shape.width))
    # Neither square nor the smallest, so that the exporter takes no size for a constant or for a special case.
    examples = _draw(trained, 2, high + multiple, wide + 2 * multiple, seed=0)
    sizes = ((high, wide), (smallest, smallest + multiple), (high + 3 * multiple, smallest))
    trials = tuple(_draw(trained, count, *size, seed=1) for count, size in zip(BATCHES, sizes, strict=True))
    free = {0: batch, 2: multiple * sides[0], 3: multiple * sides[1]}
    return ProgramInputs(examples, dict.fromkeys(examples, free), trials)


def multiple_of(product: nn.Module) -> int:
    """What a product's height and width have to be multiples of: the largest `multiple` of its networks."""
    return max((int(getattr(module, "multiple", 1)) for module in product.modules()), default=1)


@torch.no_grad()
def smallest_side(product: nn.Module, channels: int) -> int:
    """The least side, a multiple, that a product works with: reflection and normalisation need some pixels."""
    multiple = multiple_of(product)
    side = round_up(SMALLEST_SIDE, multiple)
    problem: Exception | None = None
    while side <= max(LARGEST_SIDE, multiple):
        try:
            product(source=torch.zeros(1, channels, side, side))
        except (RuntimeError, ValueError) as error:
            side, problem = side + multiple, error
        else:
            return side
    raise LimnerError("The model works on no size of picture.", why=f"{problem}")


def translator_traits(program: TranslatorProgram, product: nn.Module, channels: int) -> TranslatorTraits:
    """What has to be known to run an exported translator on pictures of any size. Takes seconds: it tries it out."""
    multiple, smallest = multiple_of(product), smallest_side(product, channels)
    side = round_up(max(MEASURED_SIDE, smallest), multiple)
    return TranslatorTraits(
        multiple=multiple,
        smallest=smallest,
        reach=measure_reach(program, channels=channels, multiple=multiple, smallest=smallest),
        bytes_per_pixel=round(program.bytes_per_pixel(torch.zeros(1, channels, side, side)), 1),
    )


def _draw(trained: TrainedModel, count: int, height: int, width: int, *, seed: int) -> dict[str, Tensor]:
    """Product inputs for `count` results, of pictures of that size."""
    rng = generator(seed, "export", count, height, width)
    task, shape = trained.method.task, trained.shape
    if task not in TRANSLATION:
        labels = torch.arange(count) % shape.classes if shape.classes else None
        blank = Pictures(torch.zeros(count, shape.channels, height, width), labels)
        return trained.method.product_inputs(blank, rng)
    sides = [
        Pictures(
            torch.rand(count, shape.channels, height, width, generator=rng) * 2 - 1,
            torch.arange(count) % classes if classes else None,
        )
        for classes in (shape.source_classes, shape.classes)
    ]
    return trained.method.product_inputs(Pairs(*sides) if task == "paired" else UnpairedPictures(*sides), rng)
