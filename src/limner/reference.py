"""The real side of an evaluation: the extractor, and the dataset's pictures under it, computed once and kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limner.errors import LimnerError
from limner.features import Extractor, extract, fit_for
from limner.features.cache import Tensors, load_or_build
from limner.features.classifier import RECIPE, restore_classifier, train_classifier
from limner.features.pixels import thumbnails
from limner.features.pretrained import fetch_weights, open_pretrained
from limner.features.staged import Staged, perceptual_variety
from limner.frechet import Gaussian, Moments
from limner.packing import PackedDataset, Split
from limner.ports import Ports
from limner.randomness import generator
from limner.settings import EvaluateSettings

BATCH = 128
"""Pictures that go through an extractor at a time."""
THUMBNAIL_SIDE = 16
"""Pixels; pictures are compared with each other at this size."""
MOST_REAL = 50_000
"""Real pictures of a split that are looked at; of a larger one a random selection."""
MOST_VARIED = 1000
"""Pictures that are compared with another one of their set."""


@dataclass(frozen=True)
class RealPictures:
    """What is known of the real pictures of one split: in this order, one row a picture."""

    indices: NDArray[np.int64]
    """Places in the split."""
    features: Tensor
    thumbnails: Tensor
    labels: Tensor | None


@dataclass(frozen=True)
class Reference:
    """The real side of every comparison."""

    dataset: str
    """Digest."""
    domain: str
    classes: int
    train: RealPictures
    validation: RealPictures | None
    gaussian: Gaussian
    """Of the training pictures' features."""
    variety: float | None
    """`perceptual_variety` of training pictures, where the extractor has maps to tell it by."""


def open_extractor(
    settings: EvaluateSettings,
    dataset: PackedDataset,
    *,
    domain: str = "pictures",
    device: torch.device,
    ports: Ports,
) -> Extractor:
    """The extractor that the settings name. `auto`: the classifier where the domain has two classes, else the pixels.

    A classifier is trained where the cache folder does not hold it yet. Raises LimnerError where weights are missing.
    """
    shape, split = dataset.shape(domain), dataset.split("train", domain)
    name = settings.features
    if name == "auto":
        name = "classifier" if shape.classes > 1 else "pixels"
    if name == "classifier":

        def train() -> Tensors:
            return train_classifier(split, classes=shape.classes, device=device).network.state_dict()

        depends_on = {"dataset": dataset.digest, "domain": domain, "recipe": RECIPE}
        state = load_or_build(ports.cache, "classifier", depends_on, train)
        return restore_classifier(state, height=shape.height, width=shape.width, device=device)
    return open_pretrained(
        name,
        weights=fetch_weights(name, settings.weights, sha256=settings.weights_sha256, fetch=ports.fetch),
        sha256=settings.weights_sha256,
        protocol=settings.protocol,
        device=device,
        elsewhere=ports.extractor_weights,
    )


def open_reference(dataset: PackedDataset, extractor: Extractor, *, domain: str = "pictures", cache: Path) -> Reference:
    """The dataset under the extractor, from the cache folder where it was seen before."""
    splits = {name: dataset.split(name, domain) for name in ("train", "validation")}
    if splits["train"].count == 0:
        raise LimnerError("The dataset has no picture to compare with.", fix="Prepare it again with more pictures.")

    def look() -> Tensors:
        found = {
            f"{name}.{what}": tensor
            for name, split in splits.items()
            if split.count
            for what, tensor in _look(split, extractor).items()
        }
        if isinstance(extractor, Staged) and splits["train"].count > 1:
            found["variety"] = torch.tensor(perceptual_variety(extractor, _some_pictures(splits["train"])))
        return found

    depends_on = {
        "dataset": dataset.digest,
        "domain": domain,
        "extractor": extractor.name,
        "weights": extractor.identity,
        "resize": extractor.resize,
        "thumbnails": str(THUMBNAIL_SIDE),
        "most": str(MOST_REAL),
    }
    tensors = load_or_build(cache, "reference", depends_on, look)
    return Reference(
        dataset=dataset.digest,
        domain=domain,
        classes=dataset.shape(domain).classes,
        train=_real_pictures(splits["train"], "train", tensors),
        validation=_real_pictures(splits["validation"], "validation", tensors) if splits["validation"].count else None,
        gaussian=_gaussian(tensors["train.features"], depends_on, cache=cache),
        variety=float(tensors["variety"]) if "variety" in tensors else None,
    )


def selection(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of `count` places, ascending. Drawn, because even steps could meet one class again and again."""
    order = torch.randperm(count, generator=generator(0, "selection", count)).numpy()
    return np.sort(order[:most])


def _gaussian(features: Tensor, depends_on: Mapping[str, str], *, cache: Path) -> Gaussian:
    if len(features) <= features.shape[1]:
        return Moments.of(features).gaussian()

    def find() -> Tensors:
        found = Moments.of(features).gaussian()
        return {"mean": found.mean, "covariance": found.covariance, "root": found.root}

    kept = load_or_build(cache, "gaussian", depends_on, find)
    return Gaussian(kept["mean"], None, kept["covariance"]).with_root(kept["root"])


def _some_pictures(split: Split) -> Tensor:
    """uint8 [N, C, H, W], in an order by chance."""
    places = selection(split.count, MOST_VARIED)
    order = torch.randperm(len(places), generator=generator(0, "variety", len(places)))
    return torch.from_numpy(split.pixels(places)).permute(0, 3, 1, 2)[order]


def _look(split: Split, extractor: Extractor) -> Tensors:
    places = selection(split.count, MOST_REAL)

    def pieces() -> Iterator[Tensor]:
        for start in range(0, len(places), BATCH):
            yield torch.from_numpy(split.pixels(places[start : start + BATCH])).permute(0, 3, 1, 2)

    return {
        "features": extract(fit_for(extractor, len(places)), pieces()),
        "thumbnails": torch.cat([thumbnails(piece, side=THUMBNAIL_SIDE) for piece in pieces()]),
    }


def _real_pictures(split: Split, name: str, tensors: Tensors) -> RealPictures:
    places = selection(split.count, MOST_REAL)
    labels = None if split.labels is None else torch.from_numpy(split.labels[places])
    return RealPictures(places, tensors[f"{name}.features"], tensors[f"{name}.thumbnails"], labels)
