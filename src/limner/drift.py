"""Whether new pictures are what a model was trained on: a two-sample test, how much they differ, which lie furthest.

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
from torch import Generator, Tensor

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

FILE_NAME = "drift.safetensors"
MOST_TRAIN, MOST_HELD_OUT = 3000, 1000
"""Pictures whose features are kept ..."""
MOST_BYTES = 8 * 2**20
"""... or as many as take so much."""
ENOUGH = 50
"""New pictures from which on "no drift" is said, and held-out pictures that a difference is measured by."""
FEWEST = 10
"""Pictures of either side below which nothing is tested."""
PERMUTATIONS, DRAWS = 999, 999
BY_CHANCE = 0.95
"""Share of draws of held-out pictures that differ less than what counts as a difference."""
FAR = 0.99
"""Share of held-out pictures that lie nearer to a training picture than what counts as far."""

_KEY, _SCHEMA = "limner", 1
_AT_ONCE = 2**23
"""Entries of the matrix of permutations that are held in memory at one time (64 MiB)."""
_SAME = 1e-6
"""Distance below which two features are those of the same picture."""

Verdict = Literal["no drift", "drift", "too few pictures to say"]


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


@dataclass(frozen=True)
class TwoSampleTest:
    """A two-sample test."""

    discrepancy: float
    """Unbiased squared MMD."""
    p_value: float


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
    distances: Tensor
    """[N]: from the nearest training picture, over the median of held-out ones."""
    far: float
    """Beyond it lies one in a hundred of the held-out pictures."""
    same: int
    """Pictures that are training pictures to the extractor."""


def judge(new_ND: Tensor, reference: DriftReference, *, alpha: float = 0.05, seed: int = 0) -> Judgement:
    """Whether pictures with these features differ from the training pictures, beyond chance and beyond a trifle.

    "drift" is said where the test's p-value is at most `alpha` and the discrepancy is larger than that of ENOUGH
    held-out pictures drawn at random, but for 5 draws of 100: with enough pictures every difference is significant.
    """
    train, held_out = (side.double() for side in (reference.train, reference.held_out))
    new = new_ND.double()
    to_nearest, usual = (nearest(side, train, neighbours=1).distances[:, 0] for side in (new, held_out))
    unit = float(usual.median()) if len(usual) else 0.0
    unit = unit or 1.0
    test, effect, figures, of_held_out = None, None, {}, {}
    if min(len(new), len(train)) >= FEWEST and len(held_out) >= 4:
        kernel = GaussianKernel.for_training(train)
        test = two_sample_test(new, train, kernel=kernel, rng=generator(seed, "drift", "test"))
        effect = test.discrepancy / held_out_discrepancy(
            held_out, train, kernel=kernel, rng=generator(seed, "drift", "held-out")
        )
        figures = _distances(new_ND, reference, seed)
        of_held_out = _distances(reference.held_out[selection(len(held_out), len(new))], reference, seed)
    verdict, reasons = _verdict(len(new), test, effect, reference, alpha)
    return Judgement(
        verdict=verdict,
        reasons=reasons,
        test=test,
        effect=effect,
        figures=figures,
        held_out=of_held_out,
        distances=to_nearest / unit,
        far=float(usual.quantile(FAR)) / unit if len(usual) else math.inf,
        same=int((to_nearest < _SAME).sum()),
    )


@dataclass(frozen=True)
class GaussianKernel:
    """exp(-|x - y|^2 / 2 s^2): it tells any two distributions apart, given enough pictures."""

    bandwidth: float
    """s"""

    @classmethod
    def for_training(cls, train_ND: Tensor) -> GaussianKernel:
        """With the median distance of different training pictures as s: Gretton et al. 2012, section 8."""
        some = train_ND[:1000].double()
        distances = torch.pdist(some)
        median = float(distances.median()) if len(distances) else 0.0
        return cls(median or 1.0)  # of pictures that all look the same

    def __call__(self, x_ND: Tensor, y_MD: Tensor) -> Tensor:
        """Values [N, M] in [0, 1], float64."""
        squares = torch.cdist(x_ND.double(), y_MD.double(), compute_mode="use_mm_for_euclid_dist").square()
        return squares.div_(-2 * self.bandwidth**2).exp_()


def two_sample_test(
    a_ND: Tensor, b_MD: Tensor, *, kernel: GaussianKernel, rng: Generator, permutations: int = PERMUTATIONS
) -> TwoSampleTest:
    """Whether two samples are of one distribution, by the unbiased squared MMD and random exchanges of its pictures.

    Gretton et al. 2012, JMLR 13:723-773: lemma 6, equation (3). The p-value counts the sample itself as one of the
    exchanges, so that it is at most a share alpha of the time at most alpha where the distribution is one, whatever
    that is. As a test for drift under features: Rabanser et al. 2019, arXiv:1810.11953.
    """
    pooled = torch.cat([a_ND, b_MD])
    values = kernel(pooled, pooled)
    values.fill_diagonal_(0.0)
    count, total = len(a_ND), len(pooled)
    found = []
    rows = max(1, _AT_ONCE // total)
    for start in range(0, permutations + 1, rows):
        chosen = values.new_zeros(min(rows, permutations + 1 - start), total)
        for row, one in enumerate(chosen, start):
            one[torch.arange(count) if row == 0 else torch.randperm(total, generator=rng)[:count]] = 1
        found.append(_squared_mmd(chosen, values))
    discrepancies = torch.cat(found)
    observed = float(discrepancies[0])
    as_large = int((discrepancies[1:] >= observed - 1e-12).sum())
    return TwoSampleTest(observed, (as_large + 1) / (permutations + 1))


def held_out_discrepancy(held_out_MD: Tensor, train_ND: Tensor, *, kernel: GaussianKernel, rng: Generator) -> float:
    """The squared MMD to training pictures that ENOUGH held-out ones, drawn at random, exceed in 5 of 100 draws.

    Of half of them, where there are fewer than twice as many, so that draws differ.
    """
    count = min(ENOUGH, len(held_out_MD) // 2)
    inside, across = kernel(held_out_MD, held_out_MD).fill_diagonal_(0.0), kernel(held_out_MD, train_ND).mean(1)
    chosen = inside.new_zeros(DRAWS, len(held_out_MD))
    for one in chosen:
        one[torch.randperm(len(held_out_MD), generator=rng)[:count]] = 1
    of_train = kernel(train_ND, train_ND).fill_diagonal_(0.0).sum() / (len(train_ND) * (len(train_ND) - 1))
    of_drawn = (chosen @ inside * chosen).sum(1) / (count * (count - 1))
    values = of_drawn + of_train - 2 * (chosen @ across) / count
    return max(float(values.quantile(BY_CHANCE)), 1e-12)


def _squared_mmd(chosen: Tensor, values: Tensor) -> Tensor:
    """Of the pictures with a 1 in each row of `chosen` [R, T] from the others; `values` [T, T] with a diagonal of 0."""
    count, total = chosen[0].sum(), len(values)
    inside = (chosen @ values * chosen).sum(1)
    across = chosen @ values.sum(1) - inside
    outside = values.sum() - 2 * across - inside
    rest = total - count
    return inside / (count * (count - 1)) + outside / (rest * (rest - 1)) - 2 * across / (count * rest)


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
    count: int, test: TwoSampleTest | None, effect: float | None, reference: DriftReference, alpha: float
) -> tuple[Verdict, tuple[str, ...]]:
    few: Verdict = "too few pictures to say"
    if test is None or effect is None:
        kept = len(reference.train) + len(reference.held_out)
        if count < FEWEST:
            return few, (
                f"{_pictures_in_words(count)} to test; it takes {FEWEST}, and {ENOUGH} to say that all is well.",
            )
        return few, (f"The model was trained on so few pictures, {kept}, that there is nothing to compare with.",)
    drawn = min(ENOUGH, len(reference.held_out) // 2)
    as_much = f"{effect:.2g} times as much as {drawn} held-out pictures do by chance"
    found = f"p = {test.p_value:.3f}, and {alpha:g} is the level"
    if test.p_value <= alpha and effect > 1:
        return "drift", (
            f"The {count} pictures are not a sample of what the model was trained on: {found}.",
            f"They differ {as_much}.",
        )
    if test.p_value <= alpha:
        reasons = [f"The {count} pictures are not quite what the model was trained on: {found}."]
        reasons.append(f"But it is a trifle: they differ {as_much}.")
    else:
        reasons = [f"Nothing tells the {count} pictures from those that the model was trained on: {found}."]
    if count < ENOUGH:
        return few, (*reasons, f"A difference would have to be large to show in so few: it takes {ENOUGH}.")
    return "no drift", tuple(reasons)


def _pictures_in_words(count: int) -> str:
    return "There is one picture" if count == 1 else f"There are {count} pictures"
