"""How good generated pictures are: extractor + real pictures + generated pictures -> metrics with their protocol.

Two values may be compared where their protocols are equal, and not otherwise.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limner import distributed
from limner.distribution import GROUPS, distribution_metrics, frechet_name, perceptual_diversity
from limner.errors import LimnerError
from limner.features import Extractor, Recogniser, extract, fit_for
from limner.features.pixels import thumbnails
from limner.frechet import Moments, frechet_distance
from limner.metrics import class_entropy, mean_pairwise_distance, nearest
from limner.reference import BATCH, THUMBNAIL_SIDE, RealPictures, Reference, selection
from limner.settings import EvaluateSettings

MOST_PAIRED = 1000
"""Pictures of a class whose distances to each other are taken."""

COPY_RATIO = 0.5
COPY_RULE = (
    f"at {THUMBNAIL_SIDE} px, nearest training picture within {COPY_RATIO} of the second nearest's distance, "
    "or within one grey level"
)
"""Yoon et al. 2023 call a picture memorised where that ratio is under 1/3. On real handwriting 1/2 finds more copies
that are noisy or blurred, and takes no held-out picture for one. A copy that is also shifted may go unfound."""

STANDARD_ERRORS = (
    f"Frechet: first-order jackknife over {GROUPS} groups of the samples; kernel: jackknife over groups of both sides; "
    "shares: binomial"
)


@dataclass(frozen=True)
class Evaluation:
    """How a set of generated pictures was judged."""

    metrics: Mapping[str, float]
    protocol: Mapping[str, str]
    notes: tuple[str, ...]
    """Sentences on what these figures cannot say."""
    nearest: NDArray[np.int64]
    """For each picture, the place in the training split of the real one that is most like it."""
    nearest_distances: NDArray[np.float64]
    """How far that is: root mean square difference of the thumbnails, grey levels."""
    nearest_ratios: NDArray[np.float64]
    """That over the distance of the second nearest: the lower, the more a picture looks like a copy."""
    validation_distances: NDArray[np.float64] | None
    """The same for the held-out real pictures, where there are some."""


class QuickJudge:
    """The figures worth having during training, from few pictures: the Frechet distance, and how readable they are."""

    def __init__(self, reference: Reference, extractor: Extractor, *, sure: float) -> None:
        self._reference = reference
        self._extractor = extractor
        self._sure = sure

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Metrics of images uint8 [N, C, H, W]; the first is the Frechet distance. Few pictures raise it.

        Of processes that train together each looks at a share of them; all have to call, with the same images.
        """
        features = extract_together(self._extractor, images)
        distance = frechet_distance(self._reference.gaussian, Moments.of(features).gaussian())
        found = {frechet_name(self._extractor): distance}
        if isinstance(self._extractor, Recogniser):
            found["sure_share"] = _sure_share(self._extractor.probabilities(features), self._sure)
        return refuse_not_finite(found)


def evaluate_pictures(
    images: Tensor,
    labels: Tensor | None,
    *,
    reference: Reference,
    extractor: Extractor,
    settings: EvaluateSettings,
) -> Evaluation:
    """Judge images uint8 [N, C, H, W], made for classes `labels` int64 [N] where the model takes classes.

    A metric that the dataset does not allow (no classes, no validation split) is left out, and a note says so. The
    same pictures give the same figures. Raises LimnerError where pictures are too few or a figure is not finite.
    """
    features = extract(fit_for(extractor, len(images)), torch.split(images, BATCH))
    small = torch.cat([thumbnails(piece, side=THUMBNAIL_SIDE) for piece in torch.split(images, BATCH)])
    found = distribution_metrics(features, reference=reference, extractor=extractor, settings=settings)
    classes = labels
    if isinstance(extractor, Recogniser):
        probabilities = extractor.probabilities(features).cpu()
        found |= _recognition(probabilities, labels, reference=reference, extractor=extractor, sure=settings.sure)
        classes = probabilities.argmax(1) if labels is None else labels
    found |= diversity_metrics(small, classes, reference=reference)
    found |= perceptual_diversity(images, reference=reference, extractor=extractor)
    closest = closest_real(small, reference.train)
    held_out = None if reference.validation is None else closest_real(reference.validation.thumbnails, reference.train)
    return Evaluation(
        metrics=refuse_not_finite(found | copy_metrics(closest, held_out)),
        protocol=protocol_of(len(images), reference=reference, extractor=extractor, settings=settings),
        notes=tuple(notes_on(features, reference=reference, extractor=extractor)),
        nearest=closest.places,
        nearest_distances=closest.distances.numpy(),
        nearest_ratios=closest.ratios.numpy(),
        validation_distances=None if held_out is None else held_out.distances.numpy(),
    )


def extract_together(extractor: Extractor, images: Tensor) -> Tensor:
    """Features of images uint8 [N, C, H, W], of which each process that trains looks at a share."""
    pieces = torch.split(images, BATCH)
    return distributed.divided(lambda part: extract(extractor, [pieces[part]]), len(pieces))


def write_metrics(path: Path, *, chosen: Literal["best", "last"], best: Evaluation, last: Evaluation) -> None:
    """Write metrics.json, atomically: the protocol, which of the two is chosen, and the metrics of both."""
    assert best.protocol == last.protocol
    document = {
        "protocol": dict(best.protocol),
        "chosen": chosen,
        "best": dict(best.metrics),
        "last": dict(last.metrics),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n", encoding="utf-8")
    temporary.replace(path)


# -- the metrics ------------------------------------------------------------------------------------------------------


def _recognition(
    probabilities: Tensor, labels: Tensor | None, *, reference: Reference, extractor: Recogniser, sure: float
) -> dict[str, float]:
    """How readable the pictures are, against the held-out real ones; and whether every class is drawn."""
    predicted = probabilities.argmax(1)
    found = share_figures("sure_share", probabilities.max(1).values > sure)
    found["class_entropy"] = class_entropy(predicted, classes=reference.classes)
    if labels is not None:
        found |= share_figures("label_agreement", predicted == labels.cpu())
    if reference.validation is not None:
        real = extractor.probabilities(reference.validation.features).cpu()
        found |= share_figures("sure_share_real", real.max(1).values > sure)
        if found["sure_share_real"]:
            found["sure_share_ratio"] = found["sure_share"] / found["sure_share_real"]
        if reference.validation.labels is not None:
            found |= share_figures("label_agreement_real", real.argmax(1) == reference.validation.labels)
    return found


def share_figures(name: str, true_N: Tensor) -> dict[str, float]:  # noqa: N803
    """The share of those that are true, bool [N], and its binomial standard error."""
    share = float(true_N.double().mean())
    return {name: share, f"{name}_se": math.sqrt(share * (1 - share) / len(true_N))}


def _sure_share(probabilities: Tensor, sure: float) -> float:
    return float((probabilities.max(1).values > sure).double().mean())


def diversity_metrics(small: Tensor, classes: Tensor | None, *, reference: Reference) -> dict[str, float]:
    """Mean distance of two generated pictures as a share of that of two real ones; within a class, where there is one.

    1 is as varied as the real pictures, 0 one picture again and again. Taken on thumbnails, because a classifier's
    features hide what varies within a class: that is what it was trained for.
    """
    real, labels = reference.train.thumbnails, reference.train.labels
    if classes is None or labels is None:
        groups = [(small, real)]
    else:
        groups = [(small[classes.cpu() == label], real[labels == label]) for label in range(reference.classes)]
    ratios = []
    for generated, genuine in groups:
        if min(len(generated), len(genuine)) >= 2:
            varied = mean_pairwise_distance(genuine[selection(len(genuine), MOST_PAIRED)])
            if _grey_levels(varied, small) > 1:
                ratios.append(mean_pairwise_distance(generated[selection(len(generated), MOST_PAIRED)]) / varied)
    name = "diversity" if classes is None or labels is None else "within_class_diversity"
    return {name: sum(ratios) / len(ratios)} if ratios else {}


@dataclass(frozen=True)
class Closest:
    """The real picture that is most like each picture."""

    places: NDArray[np.int64]
    distances: Tensor
    """Grey levels."""
    ratios: Tensor
    """Of the distances of the nearest and the second nearest."""
    copied: Tensor
    """Whether it counts as a copy: COPY_RULE."""


def closest_real(small: Tensor, real: RealPictures) -> Closest:
    """The real picture nearest to each thumbnail [N, D]. Where there is but one, it has no second: the ratio is 1."""
    found = nearest(small, real.thumbnails, neighbours=min(2, len(real.thumbnails)))
    distances = found.distances * _grey_levels(1, small)
    first, second = distances[:, 0], distances[:, -1]
    ratios = first / second.clamp(min=1e-9) if distances.shape[1] > 1 else torch.ones_like(first)
    # Within one grey level it is a copy even where the training split has the picture twice.
    copied = (ratios <= COPY_RATIO) | (first <= 1)
    return Closest(real.indices[found.indices[:, 0].numpy()], first, ratios, copied)


def copy_metrics(closest: Closest, held_out: Closest | None) -> dict[str, float]:
    """Whether pictures were learnt by heart: the share of copies, and how near to training pictures they lie.

    `novelty` is the median distance to the training split over the held-out pictures' own: well below 1 is too near.
    """
    found = share_figures("copy_share", closest.copied)
    if held_out is not None:
        found |= share_figures("copy_share_real", held_out.copied)
        usual = float(held_out.distances.median())
        if usual > 1:
            found["novelty"] = float(closest.distances.median()) / usual
    return found


def _grey_levels(distance: float, small: Tensor) -> float:
    """A distance of thumbnails [N, D] in [0, 1] as root mean square difference of a pixel in grey levels."""
    return distance * 255 / math.sqrt(small.shape[1])


def refuse_not_finite(found: dict[str, float]) -> dict[str, float]:
    """The same figures. Raises LimnerError where one of them is not finite."""
    for name, value in found.items():
        if not math.isfinite(value):
            raise LimnerError(
                f"The metric {name} came out as {value}.",
                why="The features of these pictures are too extreme to compute with.",
                fix="Look at the pictures: the model may have diverged. Train it again with another seed or loss.",
            )
    return found


def protocol_of(
    samples: int, *, reference: Reference, extractor: Extractor, settings: EvaluateSettings
) -> dict[str, str]:
    """What figures depend on beside the pictures that are judged."""
    return {
        "features": extractor.name,
        "weights": extractor.identity,
        "resize": extractor.resize,
        "reading": "as packed; transparency over black",
        "reference": reference.dataset,
        "reference_domain": reference.domain,
        "reference_split": "train",
        "reference_pictures": str(len(reference.train.indices)),
        "held_out_pictures": str(0 if reference.validation is None else len(reference.validation.indices)),
        "covariance": "unbiased",
        "samples": str(samples),
        "standard_errors": STANDARD_ERRORS,
        "neighbours": str(settings.neighbours),
        "sure": str(settings.sure),
        "copy": COPY_RULE,
    }


def notes_on(features: Tensor, *, reference: Reference, extractor: Extractor) -> Iterator[str]:
    """What figures from features [N, D] cannot say."""
    count, dimensions = features.shape
    if count <= dimensions:
        yield (
            f"{count} pictures are few for {dimensions} features: the Frechet distance is too high, and only to be "
            "compared at this count. The kernel distance has no such bias."
        )
    if extractor.name == "pixels":
        yield "The features are pixels: they see colours and layout, not whether a picture could be taken for real."
    if reference.validation is None:
        yield "There is no validation split, so nothing says what held-out real pictures would score."
