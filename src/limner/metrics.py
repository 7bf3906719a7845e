"""Features -> numbers: how a set of pictures compares with a set of real ones, beside the Frechet distance.

Everything here is pure, and computes in float64. Shapes in names: N, M pictures; D features; K neighbours
or classes.
"""

# ruff: noqa: N803, N806 (shapes in names)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from limner.errors import LimnerError

_DISTANCES_AT_ONCE = 2**24
"""Entries of the distance matrix that are held in memory at one time (128 MiB)."""
GROUPS = 10
"""Random parts of a set, each of which is left out once."""
MOST_RESAMPLED = 5000
"""Pictures of a side of which parts are left out."""


@dataclass(frozen=True)
class KernelDistance:
    """Mean of the kernel distance over random subsets, and how much it hangs on the choice of the pictures."""

    value: float
    standard_error: float


def kernel_distance(
    a_ND: Tensor, b_MD: Tensor, *, rng: Generator, subsets: int = 100, subset_size: int = 1000
) -> KernelDistance:
    """Kernel (inception) distance: the unbiased squared MMD under (x.y / D + 1)^3, so it may fall a little below 0.

    Binkowski et al. 2018, arXiv:1801.01401. `subset_size` pictures are drawn from each side without replacement,
    `subsets` times, with `rng` (on the CPU); where a side has fewer than twice as many, half of it is drawn instead, so
    that the subsets still differ. The standard error is not that between the subsets, which have most pictures in
    common and would make it several times too small: it adds to that the delete-a-group jackknife of both sides, on at
    most MOST_RESAMPLED pictures of each.
    """
    size = min(subset_size, len(a_ND) // 2, len(b_MD) // 2)
    if size < 2 or subsets < 2:
        raise LimnerError(
            f"A kernel distance needs at least 4 pictures on each side, not {len(a_ND)} and {len(b_MD)}.",
            fix="Give more pictures, or judge by another metric.",
        )

    def draw(features: Tensor, count: int) -> Tensor:
        return features[torch.randperm(len(features), generator=rng)[:count].to(features.device)].double()

    values = torch.tensor(
        [unbiased_squared_mmd(draw(a_ND, size), draw(b_MD, size)) for _ in range(subsets)], dtype=torch.float64
    )
    of_pictures = _resampling_error(draw(a_ND, MOST_RESAMPLED), draw(b_MD, MOST_RESAMPLED))
    return KernelDistance(float(values.mean()), math.hypot(of_pictures, float(values.std()) / math.sqrt(subsets)))


def _resampling_error(a_ND: Tensor, b_MD: Tensor) -> float:
    """Standard error of the squared MMD of two sets in an order by chance: each group of each side left out in turn."""
    a, b = (torch.tensor_split(side, min(GROUPS, len(side) // 2)) for side in (a_ND, b_MD))
    inside = [_KernelSums.of(side) for side in (a, b)]
    between = torch.stack([torch.stack([_kernel(x, y).sum() for y in b]) for x in a])
    variance = 0.0
    for side, other, across in ((inside[0], inside[1], between), (inside[1], inside[0], between.T)):
        rest = side.counts.sum() - side.counts
        mean_across = (across.sum() - across.sum(1)) / (rest * other.counts.sum())
        without = side.means_without_each() - 2 * mean_across
        groups = len(without)
        variance += float((groups - 1) / groups * (without - without.mean()).square().sum())
    return math.sqrt(variance)


@dataclass(frozen=True)
class _KernelSums:
    """Sums of the kernel within a set that is cut into groups [G]."""

    counts: Tensor
    pairs: Tensor
    """[G, G]"""
    selves: Tensor
    """[G], of each picture with itself."""

    @classmethod
    def of(cls, groups: Sequence[Tensor]) -> _KernelSums:
        pairs = torch.stack([torch.stack([_kernel(x, y).sum() for y in groups]) for x in groups])
        selves = torch.stack([(x.square().sum(1) / x.shape[1] + 1).pow(3).sum() for x in groups])
        return cls(pairs.new_tensor([len(group) for group in groups]), pairs, selves)

    def means_without_each(self) -> Tensor:
        """[G]: the mean over all pairs of different pictures, with each group left out in turn."""
        rest = self.counts.sum() - self.counts
        pairs = self.pairs.sum() - 2 * self.pairs.sum(1) + self.pairs.diagonal()
        return (pairs - (self.selves.sum() - self.selves)) / (rest * (rest - 1))


def unbiased_squared_mmd(a_ND: Tensor, b_MD: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two samples under the kernel (x.y / D + 1)^3."""

    def mean_off_diagonal(square: Tensor) -> Tensor:
        return (square.sum() - square.trace()) / (len(square) * (len(square) - 1))

    return float(
        mean_off_diagonal(_kernel(a_ND, a_ND)) + mean_off_diagonal(_kernel(b_MD, b_MD)) - 2 * _kernel(a_ND, b_MD).mean()
    )


def _kernel(x_ND: Tensor, y_MD: Tensor) -> Tensor:
    return torch.addmm(x_ND.new_ones(()), x_ND, y_MD.T, alpha=1 / x_ND.shape[1]).pow_(3)


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: share of generated pictures that look real. Recall: share of real ones that could be generated.

    The standard errors count so many pictures in and out of balls that are taken as given. So they are for real
    pictures that stay the same, and even then generated ones drawn anew spread recall up to half as much again; where
    both sets are drawn anew, up to twice as much (measured at 400 pictures).
    """

    precision: float
    recall: float
    precision_se: float
    recall_se: float


def precision_recall(real_ND: Tensor, generated_MD: Tensor, *, neighbours: int) -> PrecisionRecall:
    """Improved precision and recall: the share of one set that lies in the k-nearest-neighbour balls of the other.

    Kynkaanniemi et al. 2019, arXiv:1904.06991, equations (1) and (2). Use equally many pictures on both sides: a larger
    set has smaller balls. Raises LimnerError where a set has no more than `neighbours` pictures.
    """
    if min(len(real_ND), len(generated_MD)) <= neighbours:
        raise LimnerError(
            f"Precision and recall with {neighbours} neighbours need more than {neighbours} pictures on each side, "
            f"not {len(real_ND)} and {len(generated_MD)}.",
            fix="Give more pictures, or lower `neighbours`.",
        )
    looks_real = _in_balls(generated_MD, real_ND, neighbours).balls > 0
    could_be_made = _in_balls(real_ND, generated_MD, neighbours).balls > 0
    return PrecisionRecall(
        precision=float(looks_real.double().mean()),
        recall=float(could_be_made.double().mean()),
        precision_se=_share_error(looks_real),
        recall_se=_share_error(could_be_made),
    )


@dataclass(frozen=True)
class DensityCoverage:
    """Density: how thickly generated pictures lie among real ones. Coverage: share of real ones with one of them near.

    Density is about 1 for equal sets, and above 1 where pictures crowd at the densest places. The standard errors are
    for real pictures that stay the same, as in `PrecisionRecall`.
    """

    density: float
    coverage: float
    density_se: float
    coverage_se: float


def density_coverage(real_ND: Tensor, generated_MD: Tensor, *, neighbours: int) -> DensityCoverage:
    """Density and coverage of the balls of real pictures that reach to their k-th nearest real neighbour.

    Naeem et al. 2020, arXiv:2002.09797, section 3. Density is the number of balls that a generated picture
    lies in, over k, so that the large ball of one odd real picture counts as one and no more. Coverage of two equal
    distributions is 1 - 1 / 2^k about. Raises LimnerError for no more than `neighbours` real pictures, or fewer than
    two generated ones.
    """
    if len(real_ND) <= neighbours or len(generated_MD) < 2:
        raise LimnerError(
            f"Density and coverage with {neighbours} neighbours need more than {neighbours} real pictures and at "
            f"least 2 generated ones, not {len(real_ND)} and {len(generated_MD)}.",
            fix="Give more pictures, or lower `neighbours`.",
        )
    found = _in_balls(generated_MD, real_ND, neighbours)
    crowd = found.balls.double() / neighbours
    return DensityCoverage(
        density=float(crowd.mean()),
        coverage=float(found.met.double().mean()),
        density_se=float(crowd.std()) / math.sqrt(len(crowd)),
        coverage_se=_share_error(found.met),
    )


@dataclass(frozen=True)
class _InBalls:
    balls: Tensor
    """How many balls each query lies in, int64 [N]."""
    met: Tensor
    """Whether the ball of each centre holds a query, bool [M]."""


def _in_balls(queries_ND: Tensor, centres_MD: Tensor, neighbours: int) -> _InBalls:
    # The nearest centre of a centre is itself, hence one neighbour more.
    centres_MD = centres_MD.double()  # once, and not again for every piece
    radii_M = nearest(centres_MD, centres_MD, neighbours=neighbours + 1).distances[:, -1]
    balls, met = [], torch.zeros_like(radii_M, dtype=torch.bool)
    for rows in _chunks(queries_ND, len(centres_MD)):
        inside = _distances(rows, centres_MD) <= radii_M
        balls.append(inside.sum(1))
        met |= inside.any(0)
    return _InBalls(torch.cat(balls), met)


def _share_error(found_N: Tensor) -> float:
    # The spread of the share after a uniform prior: nearly the usual sqrt(p (1 - p) / N), but none of N is not certain.
    count, hits = len(found_N), int(found_N.sum())
    return math.sqrt((hits + 1) * (count - hits + 1) / (count + 3)) / (count + 2)


@dataclass(frozen=True)
class InceptionScore:
    """Mean of the score over the parts of a set, and its standard deviation from part to part."""

    value: float
    standard_deviation: float


def inception_score(probabilities_NK: Tensor, *, splits: int = 10) -> InceptionScore:
    """How sure and how varied the classes are: exp of the mean KL divergence from the mean probabilities, in [1, K].

    Salimans et al. 2016, arXiv:1606.03498, section 4: high where every picture is surely of one class, and there are
    many classes. Computed for each of `splits` parts in the order given, which should be by chance. The classes are
    those of the network, not of the dataset. Raises LimnerError for fewer pictures than parts, or no probabilities.
    """
    if probabilities_NK.ndim != 2 or not 1 <= splits <= len(probabilities_NK):
        raise LimnerError(
            f"An inception score of {splits} parts needs as many pictures, each with the probabilities of its classes "
            f"[N, K], not {list(probabilities_NK.shape)}.",
            fix="Give more pictures, or lower `splits`.",
        )
    probabilities = probabilities_NK.double()
    if not ((probabilities >= 0).all() and ((probabilities.sum(1) - 1).abs() < 1e-3).all()):
        raise LimnerError("An inception score needs probabilities: none below 0, and of each picture 1 together.")
    entropy = torch.special.entr
    # The mean divergence from the mean is the entropy of the mean less the mean entropy.
    scores = torch.stack(
        [
            (entropy(part.mean(0)).sum() - entropy(part).sum(1).mean()).exp()
            for part in probabilities.tensor_split(splits)
        ]
    )
    return InceptionScore(float(scores.mean()), float(scores.std(correction=0)))


@dataclass(frozen=True)
class Nearest:
    """The nearest targets of each query, nearest first: Euclidean distances and indices, [N, K]."""

    distances: Tensor
    indices: Tensor


def nearest(queries_ND: Tensor, targets_MD: Tensor, *, neighbours: int) -> Nearest:
    """The `neighbours` nearest targets of every query, in pieces that fit into memory."""
    targets_MD = targets_MD.double()
    found = [
        torch.topk(_distances(rows, targets_MD), neighbours, dim=1, largest=False)
        for rows in _chunks(queries_ND, len(targets_MD))
    ]
    return Nearest(torch.cat([part.values for part in found]), torch.cat([part.indices for part in found]))


def mean_pairwise_distance(features_ND: Tensor) -> float:
    """Mean Euclidean distance of two different pictures of the set: how varied it is. Needs at least two pictures."""
    if len(features_ND) < 2:
        raise LimnerError("A pairwise distance needs at least two pictures.", fix="Give more pictures.")
    total = sum(float(_distances(rows, features_ND).sum()) for rows in _chunks(features_ND, len(features_ND)))
    return total / (len(features_ND) * (len(features_ND) - 1))


def class_entropy(labels_N: Tensor, *, classes: int) -> float:
    """Entropy of the histogram of labels (int64, below `classes`) as a share of ln(classes): 1 uniform, 0 one class."""
    if classes < 2 or not len(labels_N):
        raise LimnerError("A class entropy needs at least two classes and one picture.")
    shares = torch.bincount(labels_N, minlength=classes).double() / len(labels_N)
    return float(torch.special.entr(shares).sum()) / math.log(classes)


def _chunks(rows_ND: Tensor, columns: int) -> tuple[Tensor, ...]:
    return torch.split(rows_ND, max(1, _DISTANCES_AT_ONCE // max(1, columns)))


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    # The matrix-product form is many times faster; in float64 it costs about 1e-7 of the features' norm. Named here
    # because the default changes its form, and so its rounding, with the number of rows.
    return torch.cdist(a_ND.double(), b_MD.double(), compute_mode="use_mm_for_euclid_dist")
