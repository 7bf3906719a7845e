"""What the evaluate step needs to know about a kind of model: how a moment of it is judged, and what is shown of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from limner.evaluation import Evaluation
from limner.packing import Split
from limner.pixels import grid
from limner.report import Exhibits, Sheet
from limner.trained import Which

COLUMNS = 10
NEIGHBOURS = 20
"""Pictures shown beside the training picture that is most like them: those that come nearest to one."""


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

    def exhibits(self, judged: Judged, which: Which) -> Exhibits:
        """What the report shows of a moment that was judged."""


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
