"""Packed dataset -> batches on the device. A batch is a pure function of (seed, step): resuming needs no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError
from limner.packing import PackedDataset, Split
from limner.pixels import to_signed
from limner.randomness import generator
from limner.tasks import Pictures, TaskName

RESIDENT_SHARE = 0.25
"""A split that fits into this share of the free memory stays on the device as uint8, and no loader is needed."""


@dataclass(frozen=True)
class Augmentation:
    """What happens to real pictures on the device before they are shown."""

    shift_pixels: int = 0
    mirror: bool = False


def refuse_other_task(dataset: PackedDataset, *, task: TaskName) -> None:
    """Raises LimnerError where a method of this task cannot eat the dataset."""
    if dataset.task != task:
        raise LimnerError(
            f"The method needs a dataset of the kind {task!r}, but this one is {dataset.task!r}.",
            fix="Change the model's `dataset`, or its `method`.",
        )


class PictureBatches:
    """Batches of one set of pictures, in an order shuffled anew each epoch."""

    def __init__(
        self, split: Split, *, batch: int, seed: int, device: torch.device, augmentation: Augmentation | None = None
    ) -> None:
        if split.count == 0:
            raise LimnerError("The dataset has no picture to train on.", fix="Prepare it again with more pictures.")
        self._split = split
        self._batch = batch
        self._seed = seed
        self._augmentation = augmentation or Augmentation()
        self._device = device
        self._order: dict[int, NDArray[np.int64]] = {}
        self._labels = None if split.labels is None else torch.from_numpy(np.array(split.labels)).to(device)
        self._resident = self._load_all() if split.nbytes <= RESIDENT_SHARE * _free_bytes(device) else None

    def at(self, step: int, *, part: int = 0, parts: int = 1) -> Pictures:
        """The batch of a step, or one of the equal parts of it.

        Images [N, C, H, W] in [-1, 1], channels_last, and labels [N] where there are some.
        """
        size = self._batch // parts
        indices = self._indices(step)[part * size : (part + 1) * size]
        chosen = _to_device(indices, self._device)
        if self._resident is not None:
            pixels = self._resident[chosen]
        else:
            pixels = _to_device(self._split.pixels(indices), self._device)
        rng = generator(self._seed, "augment", step, part, device=self._device)
        images = self._augment(to_signed(pixels.permute(0, 3, 1, 2)), rng)
        return Pictures(images, None if self._labels is None else self._labels[chosen])

    def _indices(self, step: int) -> NDArray[np.int64]:
        count, batch = self._split.count, self._batch
        position = np.arange(step * batch, (step + 1) * batch)
        epochs, places = position // count, position % count
        return np.concatenate([self._epoch(int(e))[places[epochs == e]] for e in np.unique(epochs)])

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._order:
            rng = generator(self._seed, "order", epoch)
            order = torch.randperm(self._split.count, generator=rng).numpy()
            # A batch can span two epochs, or many where the set is smaller than a batch; old ones never come back.
            self._order = {e: o for e, o in self._order.items() if e >= epoch - 1} | {epoch: order}
        return self._order[epoch]

    def _augment(self, images: Tensor, rng: torch.Generator) -> Tensor:
        if self._augmentation.shift_pixels:
            images = shift(images, most=self._augmentation.shift_pixels, rng=rng)
        if self._augmentation.mirror:
            flip = torch.rand(len(images), 1, 1, 1, generator=rng, device=self._device) < 0.5
            images = torch.where(flip, images.flip(3), images)
        return images.contiguous(memory_format=torch.channels_last)

    def _load_all(self) -> Tensor:
        return _to_device(self._split.pixels(np.arange(self._split.count)), self._device)


def judged_batches(
    dataset: PackedDataset, *, count: int, seed: int, device: torch.device, batch: int = 100
) -> Iterator[Pictures]:
    """Batches for judging a product on `count` results: real pictures, and labels as frequent as in training."""
    batches = PictureBatches(dataset.split("train"), batch=batch, seed=seed, device=device)
    for start in range(0, count, batch):
        pictures, rest = batches.at(start // batch), count - start
        labels = None if pictures.labels is None else pictures.labels[:rest]
        yield Pictures(pictures.images[:rest], labels)


def showcase(split: Split, *, count: int, device: torch.device) -> Pictures:
    """The first pictures of a split; of each class in turn where there are labels, so that columns can be classes."""
    order = np.arange(split.count)
    if split.labels is not None:
        labels = np.asarray(split.labels)
        rank_within_class = np.empty_like(labels)
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            rank_within_class[members] = np.arange(len(members))
        order = np.lexsort((labels, rank_within_class))
    chosen = order[:count]
    images = to_signed(_to_device(split.pixels(chosen), device).permute(0, 3, 1, 2))
    return Pictures(images, None if split.labels is None else torch.from_numpy(labels[chosen]).to(device))


def shift(images: Tensor, *, most: int, rng: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] moved by up to `most` pixels either way; its border pixels fill what comes free."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=rng, device=images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    picture = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _to_device(values: NDArray[np.uint8] | NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":  # from pinned memory, or the host would wait for the copy
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return 8 * 2**30  # a modest guess: asking for the free memory of a host has no portable answer
