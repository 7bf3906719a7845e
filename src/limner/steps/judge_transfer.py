"""How the evaluate step judges a model that translates pictures: on held-out sources, beside the untouched ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limner.data import showcase
from limner.errors import LimnerError
from limner.features import Extractor
from limner.inference import open_translator
from limner.metric_words import TRANSFER_HEADLINES
from limner.packing import PackedDataset
from limner.pixels import bands, grid, to_signed, to_uint8
from limner.ports import Ports
from limner.reference import BATCH, Reference, open_extractor, open_reference
from limner.report import WIDEST_SHEET, Exhibits, Sheet
from limner.settings import EvaluateSettings
from limner.steps.bench import COLUMNS, RESULT, Judged, nearest_sheet
from limner.trained import TrainedModel, Which, draw
from limner.transfer_evaluation import (
    HeldOut,
    evaluate_transfer,
    first_metric,
    fitting_extractor,
    open_held_out,
)
from limner.transfer_report import safeguards, yardsticks

BANDS, CYCLE_BANDS = 4, 2
"""Rows of sources with what became of them below."""
LEAST_COLUMNS = 4
TARGET_ROWS = 8


@dataclass(frozen=True)
class TransferBench:
    """Results are held against the target's pictures, their held-out sources, and the truth where it is known."""

    settings: EvaluateSettings
    trained: TrainedModel
    packed: PackedDataset
    held_out: HeldOut
    reference: Reference
    extractor: Extractor

    @property
    def first_metric(self) -> str:
        """The error where the method learns from pairs, else the Frechet distance."""
        return first_metric(self.trained.method.task, self.extractor)

    def judge(self, which: Which) -> Judged:
        """Translate the held-out sources and judge what became of them."""
        product = self.trained.product(which)
        results = draw(self.trained.method, product, self.held_out.batches(_device(product)), seed=self.settings.seed)
        back = _way_back(product)
        found = evaluate_transfer(
            results,
            self.held_out,
            reference=self.reference,
            extractor=self.extractor,
            settings=self.settings,
            cycled=back(results) if back else None,
        )
        return Judged(results, found)

    def exhibits(self, judged: Judged, which: Which) -> Exhibits:
        """Before and after, real targets, the way back where the model knows it, and the nearest training pictures."""
        metrics = judged.evaluation.metrics
        sheets = list(self._sheets(judged, which))
        return Exhibits(
            sheets=sheets,
            headlines=TRANSFER_HEADLINES,
            yardsticks=list(yardsticks(metrics)),
            safeguards=list(safeguards(metrics)),
            specimen=sheets[0],
        )

    @property
    def layers(self) -> Sequence[str]:
        """Sources, results, and the truth where the pictures are pairs."""
        return ("source", RESULT, "truth") if self.packed.task == "paired" else ("source", RESULT)

    def beside(self, judged: Judged, which: Which, champion: Path) -> Sheet:
        """What this model and the champion make of the same held-out sources."""
        theirs, sources = open_translator(champion, precision="fp32"), self.held_out.sources
        if theirs.channels != sources.shape[1]:
            raise LimnerError(f"The champion takes pictures of {theirs.channels} channels, not {sources.shape[1]}.")
        columns = self._columns()
        shown = _in_turn(self.held_out.labels, len(sources))[: columns * BANDS]
        made = torch.from_numpy(theirs.stylize_batch(sources[shown].permute(0, 2, 3, 1).numpy())).permute(0, 3, 1, 2)
        return Sheet(
            "The same sources",
            "Bands of pictures: sources, below them this model's results, and below these the champion's.",
            bands([sources[shown], judged.images[shown], made], columns=columns),
            "Sources, below them what this model makes of them, and below that what the champion does. None is chosen.",
        )

    def _columns(self) -> int:
        sources = self.held_out.sources
        return min(COLUMNS, max(LEAST_COLUMNS, WIDEST_SHEET // sources.shape[3]), len(sources))

    def _sheets(self, judged: Judged, which: Which) -> Iterator[Sheet]:
        held_out, columns = self.held_out, self._columns()
        shown = _in_turn(held_out.labels, len(held_out.sources))[: columns * BANDS]
        headings = self.packed.classes("source")
        rounds = _full_rounds(held_out.labels, len(headings))
        if len(headings) == columns and rounds:  # then columns can be classes
            shown = shown[: columns * rounds]
        else:
            headings = ()
        rows = [held_out.sources[shown], judged.images[shown]]
        words = "sources, and below them their results"
        if held_out.truth is not None:
            rows.append(held_out.truth[shown])
            words += ", and below these the truth"
        kind = "Held-out" if held_out.split == "validation" else "Training"
        yield Sheet(
            "Before and after",
            f"Bands of pictures: {words}.",
            bands(rows, columns=columns),
            f"{kind} {words}. None is chosen.",
            headings,
        )
        real = self._targets(columns * TARGET_ROWS)
        yield Sheet("Target", "A grid of training pictures of the target.", grid(real, columns=columns))
        if back := _way_back(self.trained.product(which)):
            yield from self._cycles(judged, shown[: columns * CYCLE_BANDS], back, columns=columns)
        yield nearest_sheet(judged, self.packed.split("train", "target"), words=("results", "targets"))

    def _targets(self, count: int) -> Tensor:
        """Training pictures of the target, classes in turn, uint8."""
        return to_uint8(showcase(self.packed.split("train", "target"), count=count, device=torch.device("cpu")).images)

    def _cycles(
        self, judged: Judged, shown: NDArray[np.int64], back: Callable[[Tensor], Tensor], *, columns: int
    ) -> Iterator[Sheet]:
        results = judged.images[shown]
        yield Sheet(
            "There and back",
            "Bands of pictures: sources, their results, and these brought back.",
            bands([self.held_out.sources[shown], results, back(results)], columns=columns),
            "Sources, below them their results, and below these what the way back makes of them: ideally the sources.",
        )
        targets = self._targets(columns * BANDS)
        yield Sheet(
            "The other direction",
            "Bands of pictures: targets, and below them what the way back makes of them.",
            bands([targets, back(targets)], columns=columns),
            "Targets of the training split, and below them what the way back makes of them.",
        )


def open_transfer_bench(
    settings: EvaluateSettings, packed: PackedDataset, trained: TrainedModel, *, ports: Ports
) -> TransferBench:
    """The bench of the tasks `unpaired` and `paired`."""
    device = next(trained.method.networks.parameters()).device
    held_out = open_held_out(packed, count=settings.samples)
    extractor = open_extractor(settings, packed, domain="target", device=device, ports=ports)
    extractor = fitting_extractor(extractor, held_out)
    return TransferBench(
        settings=settings,
        trained=trained,
        packed=packed,
        held_out=held_out,
        reference=open_reference(packed, extractor, domain="target", cache=ports.cache),
        extractor=extractor,
    )


def _way_back(product: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """uint8 [N, C, H, W] -> uint8: what the product makes of targets, where it knows the other direction."""
    way: Callable[[Tensor], Tensor] | None = getattr(product, "back", None)
    if way is None:
        return None

    @torch.no_grad()
    def back(images: Tensor) -> Tensor:
        pieces = torch.split(images.to(_device(product)), BATCH)
        return torch.cat([to_uint8(way(to_signed(piece))).cpu() for piece in pieces])

    return back


def _device(product: nn.Module) -> torch.device:
    return next(product.parameters()).device


def _in_turn(labels: Tensor | None, count: int) -> NDArray[np.int64]:
    """All places; the first of each class, then the second of each, and so on."""
    if labels is None:
        return np.arange(count)
    earlier = (labels[:, None] == labels).tril(-1).sum(1)
    return np.lexsort((labels.numpy(), earlier.numpy()))


def _full_rounds(labels: Tensor | None, classes: int) -> int:
    """How often every class comes in turn before one of them is used up."""
    return int(torch.bincount(labels, minlength=classes).min()) if labels is not None and classes else 0
