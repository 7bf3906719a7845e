"""Packed dataset -> batches on the device. A batch is a pure function of (seed, step): resuming needs no state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError
from limner.packing import PackedDataset, Split, SplitName
from limner.pixels import to_signed
from limner.randomness import derive_seed, generator
from limner.tasks import Batch, Pairs, Pictures, TaskName, UnpairedPictures

RESIDENT_SHARE = 0.25
"""A split that fits into this share of the free memory stays on the device as uint8, and no loader is needed."""


EATS: dict[TaskName, tuple[TaskName, ...]] = {
    "pictures": ("pictures",),
    "unpaired": ("unpaired", "paired"),
    "paired": ("paired",),
}
"""The kinds of dataset that a method of each task can be trained on: pairs can be drawn as if they were none."""

JUDGED_AT_ONCE = 100
"""Pictures in a batch that is judged."""

Translated = UnpairedPictures | Pairs


@dataclass(frozen=True)
class Augmentation:
    """What happens to real pictures on the device before they are shown: cut out, then shifted, then mirrored."""

    shift_pixels: int = 0
    mirror: bool = False
    crop: int = 0
    """Side of a square cut out of each picture at a place of its own, pixels; 0: the whole picture."""


class Batches(Protocol):
    """Batches by step, each a pure function of (seed, step)."""

    def at(self, step: int, *, part: int = 0, parts: int = 1) -> Batch:
        """The batch of a step, or one of the equal parts of it, on the device."""


def refuse_other_task(dataset: PackedDataset, *, task: TaskName) -> None:
    """Raises LimnerError where a method of this task cannot eat the dataset."""
    if dataset.task in EATS[task]:
        return
    kinds = {
        "pictures": "one set of pictures, such as `kind: folder`",
        "unpaired": "two sets, `kind: unpaired`, `paired` or `side-by-side`",
        "paired": "pairs, `kind: paired` or `side-by-side`",
    }
    methods = {"pictures": "of one set of pictures", "unpaired": "of unpaired translation", "paired": "of translation"}
    raise LimnerError(
        f"The method needs a dataset of the kind {task!r}, but this one is {dataset.task!r}.",
        fix=f"Change the model's `dataset` to one of {kinds[task]}; or its `method` to one {methods[dataset.task]}.",
    )


def open_batches(
    dataset: PackedDataset,
    *,
    task: TaskName,
    batch: int,
    seed: int,
    device: torch.device,
    augmentation: Augmentation | None = None,
) -> Batches:
    """The training batches of a dataset for a method of this task.

    Raises LimnerError where the method cannot eat the dataset, a training split is empty, or a crop is not possible.
    """
    refuse_other_task(dataset, task=task)
    if task == "pictures":
        if augmentation and augmentation.crop:
            raise LimnerError(
                "A crop is for translations only: what a generator draws is as large as the dataset's pictures.",
                fix="Leave out `crop`, or prepare the dataset with a smaller image.size.",
            )
        return PictureBatches(dataset.split("train"), batch=batch, seed=seed, device=device, augmentation=augmentation)
    # Pairs are two sets in the same order under the same changes, which a common seed gives them.
    seeds = (seed, seed) if task == "paired" else (derive_seed(seed, "source"), derive_seed(seed, "target"))
    source, target = (
        PictureBatches(
            dataset.split("train", domain), batch=batch, seed=side_seed, device=device, augmentation=augmentation
        )
        for domain, side_seed in zip(("source", "target"), seeds, strict=True)
    )
    return _TwoSides(source, target, Pairs if task == "paired" else UnpairedPictures)


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
        if self._augmentation.crop and self._augmentation.crop > min(split.shape[:2]):
            raise LimnerError(
                f"A crop of {self._augmentation.crop} pixels cannot be cut out of pictures of "
                f"{split.shape[1]}x{split.shape[0]}.",
                fix="Make train.crop smaller, or prepare the dataset with a larger image.size.",
            )
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
        rng = generator(self._seed, "augment", step, part, device=self._device)
        if self._resident is not None:
            pixels = self._cut(self._resident, chosen, rng)
        else:
            pixels = _to_device(self._split.pixels(indices), self._device)
            pixels = self._cut(pixels, torch.arange(size, device=self._device), rng)
        images = self._augment(to_signed(pixels.permute(0, 3, 1, 2)), rng)
        return Pictures(images, None if self._labels is None else self._labels[chosen])

    def _cut(self, pixels: Tensor, chosen: Tensor, rng: torch.Generator) -> Tensor:
        # Out of the bytes, before they become numbers: whole pictures would be many times as much to copy.
        side = self._augmentation.crop
        return crop(pixels, chosen, side=side, rng=rng) if side else pixels[chosen]

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


@dataclass(frozen=True)
class _TwoSides:
    """The batches of two sets, side by side."""

    source: PictureBatches
    target: PictureBatches
    together: type[Pairs] | type[UnpairedPictures]

    def at(self, step: int, *, part: int = 0, parts: int = 1) -> Translated:
        """The same step of both sides."""
        return self.together(self.source.at(step, part=part, parts=parts), self.target.at(step, part=part, parts=parts))


def judged_batches(dataset: PackedDataset, *, count: int, seed: int, device: torch.device) -> Iterator[Pictures]:
    """Batches for judging a product on `count` results: real pictures, and labels as frequent as in training.

    In an order that begins anew where the training split is used up. Raises LimnerError where it is empty.
    """
    batches = PictureBatches(dataset.split("train"), batch=JUDGED_AT_ONCE, seed=seed, device=device)
    for start in range(0, count, JUDGED_AT_ONCE):
        pictures, rest = batches.at(start // JUDGED_AT_ONCE), count - start
        labels = None if pictures.labels is None else pictures.labels[:rest]
        yield Pictures(pictures.images[:rest], labels)


def showcase(split: Split, *, count: int, device: torch.device) -> Pictures:
    """The first pictures of a split; of each class in turn where there are labels, so that columns can be classes."""
    return _read(split, _in_turn(split)[:count], device)


def showcase_batch(
    dataset: PackedDataset, *, task: TaskName, split: SplitName, count: int, device: torch.device
) -> Batch:
    """The first pictures of a split, classes in turn, as a batch: `Pairs` where a translation's dataset is paired.

    There are as many targets as sources; where there are fewer in the split they come again. Raises LimnerError where
    it is empty.
    """
    if task == "pictures":
        return showcase(_filled(dataset.split(split), split), count=count, device=device)
    source, target = (_filled(dataset.split(split, domain), split) for domain in ("source", "target"))
    if dataset.task == "paired":
        chosen = _in_turn(source if source.labels is not None else target)[:count]
        return Pairs(_read(source, chosen, device), _read(target, chosen, device))
    sources = _in_turn(source)[:count]
    targets = np.resize(_in_turn(target), len(sources))
    return UnpairedPictures(_read(source, sources, device), _read(target, targets, device))


def crop(pixels: Tensor, chosen: Tensor, *, side: int, rng: torch.Generator) -> Tensor:
    """A square [N, side, side, C] cut out of each picture chosen[N] of pixels [M, H, W, C], at a place of its own."""
    count, (height, width) = len(chosen), pixels.shape[1:3]
    top = torch.randint(0, height - side + 1, (count, 1), generator=rng, device=pixels.device)
    left = torch.randint(0, width - side + 1, (count, 1), generator=rng, device=pixels.device)
    along = torch.arange(side, device=pixels.device)
    return pixels[chosen[:, None, None], (top + along)[:, :, None], (left + along)[:, None, :]]


def shift(images: Tensor, *, most: int, rng: torch.Generator) -> Tensor:
    """Each image [N, C, H, W] moved by up to `most` pixels either way; its border pixels fill what comes free."""
    count, _, height, width = images.shape
    padded = F.pad(images, (most, most, most, most), mode="replicate")
    offsets = torch.randint(0, 2 * most + 1, (2, count, 1), generator=rng, device=images.device)
    rows = offsets[0] + torch.arange(height, device=images.device)
    columns = offsets[1] + torch.arange(width, device=images.device)
    picture = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _in_turn(split: Split) -> NDArray[np.int64]:
    """All places of a split; the first of each class, then the second of each, and so on."""
    if split.labels is None:
        return np.arange(split.count)
    labels = np.asarray(split.labels)
    rank_within_class = np.empty_like(labels)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        rank_within_class[members] = np.arange(len(members))
    return np.lexsort((labels, rank_within_class))


def _read(split: Split, indices: NDArray[np.int64], device: torch.device) -> Pictures:
    images = to_signed(_to_device(split.pixels(indices), device).permute(0, 3, 1, 2))
    labels = None if split.labels is None else _to_device(split.labels[indices], device)
    return Pictures(images, labels)


def _filled(split: Split, name: SplitName) -> Split:
    if split.count == 0:
        raise LimnerError(
            f"The {name} split of the dataset has no picture.",
            fix="Prepare it again with more pictures" + (", or a larger `validation`." if name != "train" else "."),
        )
    return split


def _to_device(values: NDArray[np.uint8] | NDArray[np.int64], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    if device.type == "cuda":  # from pinned memory, or the host would wait for the copy
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return 8 * 2**30  # a modest guess: asking for the free memory of a host has no portable answer
