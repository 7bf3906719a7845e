"""Whether new pictures are what a model was trained on: a two-sample test, how much they differ, which lie outside.

What is compared are features. Those of training pictures and of held-out ones lie beside an exported model, in
`drift.safetensors`, so that the dataset is not needed. Shapes in names: N, M pictures; D features.
"""

# ruff: noqa: N803 (shapes in names)

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from limner.distribution import frechet_figures, frechet_name, kernel_name
from limner.errors import LimnerError
from limner.features import Extractor, extract, fit_for
from limner.features import inception_2015 as inception
from limner.features.pixels import Pixels
from limner.features.pretrained import PRETRAINED
from limner.features.torchvision_model import PREFIX, TorchvisionModel
from limner.frechet import Moments
from limner.metrics import kernel_distance, nearest
from limner.packing import PackedDataset, Split
from limner.randomness import generator
from limner.reference import BATCH, selection
from limner.settings import ImageSettings
from limner.two_sample import (
    SAME,
    GaussianKernel,
    TwoSampleTest,
    held_out_discrepancy,
    outlier_factors,
    share_beyond_p_value,
    two_sample_test,
)

FILE_NAME = "drift.safetensors"
MOST_TRAIN, MOST_HELD_OUT = 3000, 1000
"""Pictures whose features are kept ..."""
MOST_BYTES = 8 * 2**20
"""... or as many as take so much."""
ENOUGH = 50
"""New pictures from which on "no drift" is said, and held-out pictures that a difference is measured by."""
FEWEST = 10
"""Pictures of either side below which nothing is tested."""
USUAL = 0.99
"""Share of held-out pictures that lie closer to the training pictures than what counts as an outlier."""
MANY = 2 * (1 - USUAL)
"""Share of outliers above which pictures have drifted, if it is no chance."""

_KEY, _SCHEMA = "limner", 1
Verdict = Literal["no drift", "a small shift", "drift", "too few pictures to say"]


# -- the training pictures --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class DriftReference:
    """The pictures that a model was trained on, as an extractor sees them."""

    train: Tensor
    """Features float32 [N, D]."""
    held_out: Tensor
    """[M, D]"""
    record: Mapping[str, str]
    """What the features are and of which pictures: `features`, `protocol`, `weights`, `resize`, `frechet`, `kernel`
    (names of the metrics), `dataset` (digest), `domain`, `held_out` (which pictures these are)."""
    image: ImageSettings
    """How the pictures were prepared."""


def write_reference(path: Path, packed: PackedDataset, *, judged_by: Extractor | None = None) -> None:
    """Write the features of pictures that a model of this dataset eats: the source's, or all pictures'.

    They are those of the extractor that the model is judged by where anybody can open it again, else of the pixels: a
    classifier that was trained on the dataset would have to be shipped as well, and it sees only what tells the
    dataset's classes apart. The same dataset gives the same bytes.
    """
    reopened = None if judged_by is None else _reopened(judged_by)
    extractor: Extractor = Pixels() if judged_by is None or reopened is None else judged_by
    domain = "source" if "source" in packed.domains else "pictures"
    train, validation = packed.split("train", domain), packed.split("validation", domain)
    of_one = extract(extractor, [_pictures(train, np.zeros(1, np.int64))])
    rows = max(2, min(MOST_TRAIN + MOST_HELD_OUT, MOST_BYTES // (4 * of_one.shape[1])))
    most = rows * MOST_HELD_OUT // (MOST_TRAIN + MOST_HELD_OUT)
    places = selection(train.count, rows - most)
    apart = validation.count < ENOUGH
    if apart:
        of_places = selection(len(places), min(most, len(places) // 4))
        held_out, places = (train, places[of_places]), np.delete(places, of_places)
    else:
        held_out = validation, selection(validation.count, most)
    image = packed.manifest.image
    record = {
        "schema": _SCHEMA,
        "record": {
            **(reopened or {"features": "pixels", "protocol": ""}),
            "weights": extractor.identity,
            "resize": extractor.resize,
            "frechet": frechet_name(extractor),
            "kernel": kernel_name(extractor),
            "dataset": packed.digest,
            "domain": domain,
            "held_out": "training pictures kept apart" if apart else "validation split",
        },
        "image": packed.manifest.settings.get("image") or {"size": image.height, "channels": image.channels},
    }
    tensors = {"train": _look(train, places, extractor), "held_out": _look(*held_out, extractor)}
    # One entry: several are written in an order by chance.
    save_file(tensors, path, metadata={_KEY: json.dumps(record, sort_keys=True)})


def read_reference(path: Path) -> DriftReference:
    """What `write_reference` has written. Raises LimnerError where it is not that."""
    try:
        with safe_open(path, framework="pt") as file:
            document: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
            train, held_out = file.get_tensor("train"), file.get_tensor("held_out")
        if document["schema"] != _SCHEMA:
            raise ValueError(f"It is of schema {document['schema']!r}; this Limner reads {_SCHEMA}.")
        if train.ndim != 2 or held_out.ndim != 2 or train.shape[1:] != held_out.shape[1:]:
            raise ValueError(f"Its features have the shapes {list(train.shape)} and {list(held_out.shape)}.")
        record = {str(key): str(value) for key, value in document["record"].items()}
        if missing := {"features", "protocol", "weights", "frechet", "kernel", "domain"} - record.keys():
            raise ValueError(f"It does not say: {', '.join(sorted(missing))}.")
        return DriftReference(train, held_out, record, ImageSettings.model_validate(document["image"]))
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimnerError(
            f"{path} holds no features of training pictures.",
            why=f"{type(error).__name__}: {error}",
            fix="Evaluate and export the model again: limner evaluate MODEL; limner export MODEL",
        ) from error


def _reopened(extractor: Extractor) -> dict[str, str] | None:
    """What `open_pretrained` asks for to give this extractor again; None where it cannot."""
    if isinstance(extractor, inception.Inception):
        return {"features": inception.NAME, "protocol": extractor.protocol}
    if isinstance(extractor, TorchvisionModel):
        return {"features": PREFIX + extractor.name.removeprefix("torchvision-"), "protocol": ""}
    return {"features": extractor.name, "protocol": ""} if extractor.name in PRETRAINED else None


def _look(split: Split, places: NDArray[np.int64], extractor: Extractor) -> Tensor:
    def pieces() -> Iterator[Tensor]:
        for start in range(0, len(places), BATCH):
            yield _pictures(split, places[start : start + BATCH])

    if not len(places):
        return extract(extractor, [_pictures(split, np.zeros(1, np.int64))])[:0]
    return extract(fit_for(extractor, len(places)), pieces())


def _pictures(split: Split, places: NDArray[np.int64]) -> Tensor:
    return torch.from_numpy(split.pixels(places)).permute(0, 3, 1, 2)


# -- the judgement ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Judgement:
    """What is to be said of new pictures."""

    verdict: Verdict
    reasons: tuple[str, ...]
    test: TwoSampleTest | None
    """None of fewer than FEWEST pictures on a side."""
    effect: float | None
    """Their discrepancy over that of ENOUGH held-out pictures at its largest by chance."""
    figures: Mapping[str, float]
    """Kernel and Frechet distance to the training pictures, with standard errors."""
    held_out: Mapping[str, float]
    """The same of held-out pictures; of as many, where there are as many."""
    outliers: Outliers
    same: int
    """Pictures that are training pictures to the extractor."""


@dataclass(frozen=True, eq=False)
class Outliers:
    """How far each new picture lies outside of the training pictures."""

    factors: Tensor
    """`outlier_factors` [N], over the median of held-out ones."""
    limit: float
    """Beyond it lies one in a hundred of the held-out pictures."""
    share: float
    """Of the new pictures that lie beyond it."""
    p_value: float | None
    """How often so many would, if they were like the held-out ones; None of fewer than FEWEST on a side."""


def judge(new_ND: Tensor, reference: DriftReference, *, alpha: float = 0.05, seed: int = 0) -> Judgement:
    """Whether pictures with these features differ from the training pictures, beyond chance and beyond a trifle.

    Two tests, each at half of `alpha`: whether they as a whole are another distribution, and whether too many single
    ones lie outside, of which the whole shows next to nothing (the squared MMD is quadratic in their share). "drift" is
    said where one of them finds something large: a discrepancy larger than that of ENOUGH held-out pictures drawn at
    random, but for 5 draws of 100, or a share of outliers above MANY. With enough pictures every difference is found,
    so what is not large is "a small shift".
    """
    train, held_out = (side.double() for side in (reference.train, reference.held_out))
    new = new_ND.double()
    test, effect, figures, of_held_out = None, None, {}, {}
    if min(len(new), len(train)) >= FEWEST and len(held_out) >= 4:
        kernel = GaussianKernel.for_training(train)
        test = two_sample_test(new, train, kernel=kernel, rng=generator(seed, "drift", "test"))
        effect = test.discrepancy / held_out_discrepancy(
            held_out, train, drawn=ENOUGH, kernel=kernel, rng=generator(seed, "drift", "held-out")
        )
        figures = _distances(new_ND, reference, seed)
        of_held_out = _distances(reference.held_out[selection(len(held_out), len(new))], reference, seed)
    outliers = find_outliers(new, reference)
    verdict, reasons = _verdict(len(new), (test, effect, outliers), reference, alpha / 2)
    return Judgement(
        verdict=verdict,
        reasons=reasons,
        test=test,
        effect=effect,
        figures=figures,
        held_out=of_held_out,
        outliers=outliers,
        same=int((nearest(new, train, neighbours=1).distances < SAME).sum()) if len(train) else 0,
    )


def find_outliers(new_ND: Tensor, reference: DriftReference) -> Outliers:
    """How far pictures lie outside of the training pictures, and whether more of them do than of held-out ones."""
    factors, usual = (outlier_factors(side, reference.train) for side in (new_ND, reference.held_out))
    if not len(usual):
        return Outliers(factors, math.inf, 0.0, None)
    rank = max(1, round((1 - USUAL) * len(usual)))
    limit = float(usual.sort(descending=True).values[rank - 1])
    beyond = int((factors > limit).sum())
    p_value = None
    if min(len(factors), len(usual), len(reference.train)) >= FEWEST:
        p_value = share_beyond_p_value(beyond, len(factors), rank=rank, held_out=len(usual))
    unit = float(usual.median()) or 1.0
    return Outliers(factors / unit, limit / unit, beyond / len(factors), p_value)


def _distances(features: Tensor, reference: DriftReference, seed: int) -> dict[str, float]:
    if len(features) < 4:
        return {}
    kernel, name = reference.record["kernel"], reference.record["kernel"]
    found = kernel_distance(reference.train, features, rng=generator(seed, "drift", kernel))
    train = Moments.of(reference.train).gaussian()
    return {
        name: found.value,
        f"{name}_se": found.standard_error,
        **{
            key: value
            for key, value in frechet_figures(reference.record["frechet"], features, train).items()
            if not key.endswith("_infinity")
        },
    }


def _verdict(
    count: int,
    found: tuple[TwoSampleTest | None, float | None, Outliers],
    reference: DriftReference,
    level: float,
) -> tuple[Verdict, tuple[str, ...]]:
    test, effect, outliers = found
    if test is None or effect is None:
        kept = len(reference.train) + len(reference.held_out)
        if count < FEWEST:
            return "too few pictures to say", (
                f"{_pictures_in_words(count)} to test; it takes {FEWEST}, and {ENOUGH} to say that all is well.",
            )
        return "too few pictures to say", (
            f"The model was trained on so few pictures, {kept}, that there is nothing to compare with.",
        )
    drawn = min(ENOUGH, len(reference.held_out) // 2)
    as_much = f"They differ {effect:.2g} times as much as {drawn} held-out pictures do by chance"
    tested = f"p = {test.p_value:.3f}, and {level:g} is the level"
    differ, astray = test.p_value <= level, outliers.p_value is not None and outliers.p_value <= level
    reasons = []
    if differ:
        word = "" if effect > 1 else "quite "
        reasons.append(f"The {count} pictures are not {word}a sample of what the model was trained on: {tested}.")
        reasons.append(f"{as_much}{'.' if effect > 1 else ': it is little.'}")
    else:
        reasons.append(f"Nothing tells the {count} pictures as a whole from those of training: {tested}.")
    if astray:
        reasons.append(
            f"{outliers.share:.1%} of them lie outside, where 1% of held-out pictures do: p = {outliers.p_value:.2g}."
        )
    if (differ and effect > 1) or (astray and outliers.share > MANY):
        return "drift", tuple(reasons)
    if differ or astray:
        return "a small shift", tuple(reasons)
    if count < ENOUGH:
        reasons.append(f"A difference would have to be large to show in so few: it takes {ENOUGH}.")
        return "too few pictures to say", tuple(reasons)
    return "no drift", tuple(reasons)


def _pictures_in_words(count: int) -> str:
    return "There is one picture" if count == 1 else f"There are {count} pictures"
