"""What the evaluate step needs to know about a kind of model: how a moment of it is judged, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from limner.evaluation import Evaluation
from limner.features import Extractor
from limner.packing import Split
from limner.pixels import grid
from limner.report import Exhibits, Sheet
from limner.tasks import PictureShape
from limner.trained import Which

COLUMNS = 10
NEIGHBOURS = 20
"""Pictures shown beside the training picture that is most like them: those that come nearest to one."""
MOMENTS = 8
"""Rows of the sheet that shows how a model learnt."""
RESULT = "result"


@dataclass(frozen=True)
class Judged:
    """Pictures of one moment of the model, uint8 [N, C, H, W], and what was found."""

    images: Tensor
    evaluation: Evaluation


class Bench(Protocol):
    """All that the moments of a model are judged with."""

    @property
    def first_metric(self) -> str:
        """The one to get low: it chooses between the best and the last moment."""

    def judge(self, which: Which) -> Judged:
        """Draw the moment's pictures and judge them."""

    @property
    def extractor(self) -> Extractor:
        """What it looks at pictures with."""

    @property
    def layers(self) -> Sequence[str]:
        """What the rows of a band of the training's samples are, from above; one of them is RESULT."""

    def exhibits(self, judged: Judged, which: Which) -> Exhibits:
        """What the report shows of a moment that was judged."""

    def beside(self, judged: Judged, which: Which, champion: Path) -> Sheet:
        """The moment's pictures beside those that an exported champion makes of the same inputs.

        Raises LimnerError where it cannot be opened, or makes other pictures.
        """


def nearest_sheet(judged: Judged, train: Split, *, words: Sequence[str]) -> Sheet:
    """Pictures above the training pictures that are most like them. `words`: what both are called, in the plural."""
    found = judged.evaluation
    closest = np.argsort(found.nearest_ratios, kind="stable")[:NEIGHBOURS]
    real = torch.from_numpy(train.pixels(found.nearest[closest])).permute(0, 3, 1, 2)
    halves = [torch.stack([judged.images[closest], real])[:, start : start + COLUMNS] for start in (0, COLUMNS)]
    shown, every = found.nearest_distances[closest], found.nearest_distances
    made, genuine = words
    caption = (
        f"Of {len(judged.images)} {made}, those that are most like one training picture and no other, each above it. "
        f"Distances: {shown.min():.1f} to {shown.max():.1f} grey levels; of all, least {every.min():.1f}, median "
        f"{np.median(every):.1f}"
    )
    if found.validation_distances is not None:
        held_out = found.validation_distances
        caption += f"; held-out {genuine}: least {held_out.min():.1f}, median {np.median(held_out):.1f}"
    return Sheet(
        "Nearest training pictures",
        "Generated pictures, each above the training picture that is most like it.",
        grid(torch.cat([half.flatten(0, 1) for half in halves if half.shape[1]]), columns=min(COLUMNS, len(closest))),
        f"{caption}.",
    )


def growth_sheet(samples: Path, *, shape: PictureShape, layers: Sequence[str]) -> Sheet | None:
    """Pictures of the same inputs, a row a moment of the training, out of its sample sheets; None where it left none.

    Each moment is about half as far as the next, where there are more than MOMENTS: most happens early.
    """
    sheets = {int(path.stem): _read(path) for path in _moments(sorted(samples.glob("*.png")))}
    if not sheets or any(sheet.shape[0] < len(layers) * shape.height for sheet in sheets.values()):
        return None
    last = list(sheets.values())[-1]
    rows = [(layer, _strip(last, place, shape)) for place, layer in enumerate(layers)]
    place = layers.index(RESULT)
    rows[place : place + 1] = [(_images(seen), _strip(sheet, place, shape)) for seen, sheet in sheets.items()]
    words, strips = zip(*rows, strict=True)
    return Sheet(
        "While it learnt",
        "Rows of pictures of the same inputs after more and more images of training.",
        np.concatenate(strips),
        "The same inputs at several moments: beside each row, how many images training had seen.",
        rows=words,
    )


def _moments(paths: Sequence[Path]) -> list[Path]:
    if len(paths) <= MOMENTS:
        return list(paths)
    total = int(paths[-1].stem)
    aims = [total / 2**halvings for halvings in range(MOMENTS)]
    return sorted({min(paths, key=lambda path: abs(int(path.stem) - aim)) for aim in aims})


def _read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        pixels = np.asarray(image)
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _strip(sheet: NDArray[np.uint8], place: int, shape: PictureShape) -> NDArray[np.uint8]:
    return sheet[place * shape.height : (place + 1) * shape.height]


def _images(seen: int) -> str:
    return f"{seen:,}" if seen < 10_000 else f"{seen / 1000:,.0f}k"
