"""A set of pictures under an extractor: the moments of its features in groups drawn by chance, computed once and kept.

The groups are what a standard error and an extrapolation of the Frechet distance are made of. Memory is bounded: no
group holds more than [D, D] numbers, and features themselves are kept only where a metric asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, reduce
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from limner.distribution import FEWEST_IN_GROUPS, GROUPS, draw_groups
from limner.errors import LimnerError
from limner.features import Extractor, extract, fit_for
from limner.features.cache import Tensors, keep, load, load_or_build
from limner.frechet import Gaussian, Moments
from limner.picture_reading import may_pass
from limner.picture_sets import PictureBatch, PictureSet, Reader, ReadOptions, refuse_damaged
from limner.reference import selection

MOST_KEPT = 50_000
"""Pictures whose features are kept; of a larger set a random selection."""
_ROWS = 512
"""Features of a group that are gathered before they go into its moments: a few large products are faster."""

Progress = Callable[[int], None]
"""Told how many more pictures are through."""


@dataclass(frozen=True)
class SetFeatures:
    """What is known of a set of pictures."""

    groups: tuple[Moments, ...]
    """One where there are fewer than FEWEST_IN_GROUPS pictures."""
    features: Tensor | None
    """float32 [n, D] of at most MOST_KEPT pictures, where they were asked for."""
    damaged: Mapping[int, str]
    """Pictures that are not part of it, by number, and why."""
    depends_on: Mapping[str, str]

    @property
    def count(self) -> int:
        """Pictures that were used."""
        return sum(group.count for group in self.groups)

    def gaussian(self, *, correction: int) -> Gaussian:
        """Of all groups together."""
        return reduce(Moments.merge, self.groups).gaussian(correction=correction)


def features_of_set(
    pictures: PictureSet,
    extractor: Extractor,
    options: ReadOptions,
    *,
    keep_features: bool,
    folder: Path | None,
    progress: Progress,
) -> SetFeatures:
    """A set under the extractor, from the cache folder where the same contents were seen before.

    Raises LimnerError where a picture is damaged and that was not allowed for, and where none is left.
    """
    depends_on = {
        "pictures": pictures.digest,
        "extractor": extractor.name,
        "weights": extractor.identity,
        "resize": extractor.resize,
        "groups": str(GROUPS),
        "most": str(MOST_KEPT),
    }

    @cache
    def seen() -> tuple[Tensors, Tensors]:
        return _see(pictures, extractor, options, keep_features=keep_features, progress=progress)

    def once(kind: str, part: int) -> Tensors:
        kept = load(folder, kind, depends_on) if folder else None
        if kept is not None:
            return kept
        # The digest is of intact contents: a picture that can be read another time must not be missing for good.
        if folder and not any(map(may_pass, _damaged(seen()[0]).values())):
            return keep(folder, kind, depends_on, seen()[part])
        return seen()[part]

    features = once("set-features", 1)["features"] if keep_features else None
    tensors = once("set-moments", 0)
    damaged = _damaged(tensors)
    if not options.skip_damaged:
        refuse_damaged(pictures, damaged)
    return SetFeatures(_groups(tensors), features, damaged, depends_on)


def with_kept_root(gaussian: Gaussian, depends_on: Mapping[str, str], *, folder: Path | None) -> Gaussian:
    """The same Gaussian, with its root from the cache folder: finding it takes longer than a distance."""
    if folder:
        gaussian = gaussian.with_root(
            load_or_build(folder, "root", depends_on, lambda: {"root": gaussian.root})["root"]
        )
    return gaussian


@dataclass
class _Gathered:
    """Features on their way into the moments of their group."""

    moments: Moments | None = None
    rows: list[Tensor] = field(default_factory=list)
    count: int = 0

    def add(self, features: Tensor) -> None:
        self.rows.append(features)
        self.count += len(features)
        if self.count >= _ROWS:
            self.finish()

    def finish(self) -> Moments | None:
        if self.rows:
            more = Moments.of(torch.cat(self.rows))
            self.moments = self.moments.merge(more) if self.moments else more
            self.rows, self.count = [], 0
        return self.moments


def _see(
    pictures: PictureSet, extractor: Extractor, options: ReadOptions, *, keep_features: bool, progress: Progress
) -> tuple[Tensors, Tensors]:
    """All pictures through the extractor, once: tensors of the moments, tensors of the features."""
    group_of = draw_groups(pictures.count).numpy()
    gathered = [_Gathered() for _ in range(int(group_of.max()) + 1)]
    kept = _Kept(pictures.count) if keep_features else None
    reader, dimensions, extractor = Reader(pictures, options), 0, fit_for(extractor, pictures.count)
    progress(len(reader.damaged))
    for batch in reader:
        features = extract(extractor, [torch.from_numpy(batch.pixels).permute(0, 3, 1, 2)])
        dimensions = dimensions or features.shape[1]
        if features.shape[1] != dimensions:
            raise LimnerError(
                f"The features {extractor.name!r} are {dimensions} or {features.shape[1]}, by a picture's proportions.",
                why=f"The pictures in {pictures.name} have different ones.",
                fix="Take other --features, or pictures of one shape.",
            )
        for number in np.unique(group_of[batch.numbers]):
            gathered[number].add(features[torch.from_numpy(group_of[batch.numbers] == number)])
        if kept:
            kept.add(batch, features)
        progress(len(features))
    if not options.skip_damaged:
        refuse_damaged(pictures, reader.damaged)
    groups = [moments for group in gathered if (moments := group.finish())]
    if not groups:
        raise LimnerError(f"None of the {pictures.count} pictures in {pictures.name} can be read.")
    if sum(group.count for group in groups) < FEWEST_IN_GROUPS:
        groups = [reduce(Moments.merge, groups)]
    tensors = {"damaged": torch.tensor(list(json.dumps(reader.damaged).encode()), dtype=torch.uint8)}
    for number, group in enumerate(groups):
        # Features come as float32: rows of them lose nothing by being kept as such.
        held = group.held if group.rows is None else group.rows.float()
        tensors |= {f"{number}.count": torch.tensor(group.count), f"{number}.mean": group.mean, f"{number}.held": held}
    return tensors, {"features": kept.finish()} if kept else {}


class _Kept:
    """Features of a selection of the pictures, in their order."""

    def __init__(self, count: int) -> None:
        chosen = selection(count, MOST_KEPT)
        self._row_of = np.full(count, -1)
        self._row_of[chosen] = np.arange(len(chosen))
        self._features: Tensor | None = None
        self._there = torch.zeros(len(chosen), dtype=torch.bool)

    def add(self, batch: PictureBatch, features: Tensor) -> None:
        rows = torch.from_numpy(self._row_of[batch.numbers])
        if self._features is None:
            self._features = torch.empty(len(self._there), features.shape[1])
        self._features[rows[rows >= 0]] = features[rows >= 0]
        self._there[rows[rows >= 0]] = True

    def finish(self) -> Tensor:
        if self._features is None:
            return torch.empty(0, 0)
        return self._features if self._there.all() else self._features[self._there]


def _damaged(tensors: Tensors) -> dict[int, str]:
    return {int(number): why for number, why in json.loads(bytes(tensors["damaged"].tolist())).items()}


def _groups(tensors: Tensors) -> tuple[Moments, ...]:
    count = sum(name.endswith(".count") for name in tensors)
    return tuple(
        Moments(int(tensors[f"{n}.count"]), tensors[f"{n}.mean"], tensors[f"{n}.held"].double()) for n in range(count)
    )
