"""How two sets of pictures differ under an extractor: figures by name, each with its standard error.

A metric's name says which features it saw: `fid` is only ever the published Inception-v3 of 2015-12-05 with the scaling
of pytorch-fid, `fid_tf1` and `fid_clean` the same under another scaling; any other Frechet distance is
`fd_<extractor>`. Names that end in `_se` are standard errors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from limner.features import Classifying, Extractor
from limner.features.inception_2015 import NAME
from limner.features.staged import Staged, perceptual_variety
from limner.frechet import Gaussian, Moments, estimate_frechet, frechet_distance
from limner.metrics import density_coverage, inception_score, kernel_distance, precision_recall
from limner.randomness import generator
from limner.reference import MOST_VARIED, Reference, selection
from limner.settings import EvaluateSettings

GROUPS = 10
"""Random parts of a set, each of which is left out once to see how much the distance hangs on its pictures."""
FEWEST_IN_GROUPS = 2 * GROUPS
"""Pictures below which there is one group, and hence no standard error."""


def frechet_name(extractor: Extractor) -> str:
    """What the Frechet distance is called under this extractor."""
    return _name(extractor, published="fid", others="fd")


def kernel_name(extractor: Extractor) -> str:
    """What the kernel distance is called under this extractor."""
    return _name(extractor, published="kid", others="kd")


def _name(extractor: Extractor, *, published: str, others: str) -> str:
    # Of these names only: the published network's view of tiles, for one, gives no FID.
    scalings = {NAME: "", f"{NAME}-tf1": "_tf1", f"{NAME}-clean": "_clean"}
    scaling = scalings.get(extractor.name)
    return f"{others}_{extractor.name}" if scaling is None else f"{published}{scaling}"


def draw_groups(count: int) -> Tensor:
    """The group of each of `count` pictures, int64 [N]: by chance, in even sizes; always the same for a count."""
    group_of = torch.zeros(count, dtype=torch.int64)
    if count >= FEWEST_IN_GROUPS:
        group_of[torch.randperm(count, generator=generator(0, "groups", count))] = torch.arange(count) % GROUPS
    return group_of


def frechet_figures(name: str, features: Tensor, real: Gaussian) -> dict[str, float]:
    """The Frechet distance of features [N, D] to real ones, its standard error, and where more pictures would lead.

    Of fewer than FEWEST_IN_GROUPS pictures the distance alone.
    """
    # From all at once, as everywhere else: adding up groups would round in another way.
    figures = {name: frechet_distance(real, Moments.of(features).gaussian())}
    if len(features) >= FEWEST_IN_GROUPS:
        group_of = draw_groups(len(features))
        found = estimate_frechet([Moments.of(features[group_of == group]) for group in range(GROUPS)], real)
        figures |= {f"{name}_se": found.standard_error, f"{name}_infinity": found.at_infinity}
    return figures


def distribution_metrics(
    features: Tensor, *, reference: Reference, extractor: Extractor, settings: EvaluateSettings
) -> dict[str, float]:
    """Distances of the two distributions; the shares with equally many pictures on both sides."""
    real, name = reference.train.features, extractor.name
    kernel = kernel_distance(real, features, rng=generator(settings.seed, "kernel-distance"))
    count = min(len(real), len(features))
    as_many = real[selection(len(real), count)], features[selection(len(features), count)]
    shares = precision_recall(*as_many, neighbours=settings.neighbours)
    density = density_coverage(*as_many, neighbours=settings.neighbours)
    found = frechet_figures(frechet_name(extractor), features, reference.gaussian) | {
        kernel_name(extractor): kernel.value,
        f"{kernel_name(extractor)}_se": kernel.standard_error,
        f"precision_{name}": shares.precision,
        f"precision_{name}_se": shares.precision_se,
        f"recall_{name}": shares.recall,
        f"recall_{name}_se": shares.recall_se,
        f"density_{name}": density.density,
        f"density_{name}_se": density.density_se,
        f"coverage_{name}": density.coverage,
        f"coverage_{name}_se": density.coverage_se,
    }
    if isinstance(extractor, Classifying) and len(features) >= GROUPS:
        found |= inception_score_figures(extractor, features)
    return found


def inception_score_figures(extractor: Classifying, features: Tensor) -> dict[str, float]:
    """The inception score of features [N, D] and its deviation between ten random parts of them."""
    name = _name(extractor, published="inception_score", others="inception_score")
    order = torch.randperm(len(features), generator=generator(0, "inception-score", len(features)))
    score = inception_score(extractor.class_probabilities(features[order]))
    return {name: score.value, f"{name}_sd": score.standard_deviation}


def perceptual_diversity(images: Tensor, *, reference: Reference, extractor: Extractor) -> dict[str, float]:
    """How differently two generated images uint8 [N, C, H, W] look, over two real ones; nothing without maps."""
    if not (isinstance(extractor, Staged) and reference.variety and len(images) > 1):
        return {}
    order = torch.randperm(len(images), generator=generator(0, "variety", len(images)))[:MOST_VARIED]
    varied = perceptual_variety(extractor, images[order])
    return {f"perceptual_diversity_{extractor.name}": varied / reference.variety}
