"""Judging while a model trains: a few batches, and what is measured of the results for them; for every task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from limner.data import judged_batches
from limner.evaluation import QuickJudge
from limner.packing import PackedDataset, SplitName
from limner.ports import Ports
from limner.reference import open_extractor, open_reference
from limner.settings import EvaluateSettings
from limner.tasks import Pictures, TaskName, UnpairedPictures
from limner.transfer_evaluation import TransferJudge, fitting_extractor, open_held_out


@dataclass(frozen=True)
class QuickJudging:
    """Draw results for `batches`, in their order, and give them to `judge`: the first metric is the one to get low."""

    batches: list[Pictures] | list[UnpairedPictures]
    judge: Callable[[Tensor], dict[str, float]]
    extractor: str
    """Its identity."""


def open_quick_judging(
    settings: EvaluateSettings,
    packed: PackedDataset,
    *,
    task: TaskName,
    device: torch.device,
    ports: Ports,
) -> QuickJudging:
    """What a method of this task is judged by while it trains.

    Translations are of training sources, so that the final figures are of pictures that chose nothing. Where pairs are
    learnt the sources are held out: the error on training pairs would choose what has learnt them by heart.
    """
    if task == "pictures":
        extractor = open_extractor(settings, packed, device=device, ports=ports)
        judge = QuickJudge(open_reference(packed, extractor, cache=ports.cache), extractor, sure=settings.sure)
        batches = judged_batches(packed, count=settings.judge_samples, seed=settings.seed, device=device)
        return QuickJudging(list(batches), judge, extractor.identity)
    split: SplitName = "validation" if task == "paired" else "train"
    held_out = open_held_out(packed, count=settings.judge_samples, split=split)
    extractor = fitting_extractor(
        open_extractor(settings, packed, domain="target", device=device, ports=ports), held_out
    )
    reference = open_reference(packed, extractor, domain="target", cache=ports.cache)
    judge_transfer = TransferJudge(held_out, reference, extractor, task=task)
    return QuickJudging(list(held_out.batches(device)), judge_transfer, extractor.identity)
