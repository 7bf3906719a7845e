"""Features -> numbers: how a set of pictures compares with a set of real ones, beside the Frechet distance.

Everything here is pure, and computes in float64. Shapes in names: N, M pictures; D features; K neighbours.
"""

# ruff: noqa: N803, N806 (shapes in names)

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from limner.errors import LimnerError

_DISTANCES_AT_ONCE = 2**24
"""Entries of the distance matrix that are held in memory at one time (128 MiB)."""


@dataclass(frozen=True)
class KernelDistance:
    """Mean of the kernel distance over random subsets, and the standard error of that mean."""

    value: float
    standard_error: float


def kernel_distance(
    a_ND: Tensor, b_MD: Tensor, *, rng: Generator, subsets: int = 100, subset_size: int = 1000
) -> KernelDistance:
    """Kernel (inception) distance: the unbiased squared MMD under (x.y / D + 1)^3, so it may fall a little below 0.

    Binkowski et al. 2018, arXiv:1801.01401. `subset_size` pictures are
    drawn from each side without replacement, `subsets` times, with `rng` (on the CPU); where a side has fewer than
    twice as many, half of it is drawn instead, so that the subsets still differ. The standard error says how much the
    choice of subsets matters; it does not know how the value varies with the training seed.
    """
    size = min(subset_size, len(a_ND) // 2, len(b_MD) // 2)
    if size < 2 or subsets < 2:
        raise LimnerError(
            f"A kernel distance needs at least 4 pictures on each side, not {len(a_ND)} and {len(b_MD)}.",
            fix="Give more pictures, or judge by another metric.",
        )
    a_ND, b_MD = a_ND.double(), b_MD.double()
    values = torch.tensor(
        [
            unbiased_squared_mmd(
                a_ND[torch.randperm(len(a_ND), generator=rng)[:size].to(a_ND.device)],
                b_MD[torch.randperm(len(b_MD), generator=rng)[:size].to(b_MD.device)],
            )
            for _ in range(subsets)
        ],
        dtype=torch.float64,
    )
    return KernelDistance(float(values.mean()), float(values.std()) / math.sqrt(subsets))


def unbiased_squared_mmd(a_ND: Tensor, b_MD: Tensor) -> float:
    """Unbiased squared maximum mean discrepancy of two samples under the kernel (x.y / D + 1)^3."""

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return torch.addmm(x.new_ones(()), x, y.T, alpha=1 / x.shape[1]).pow_(3)

    def mean_off_diagonal(square: Tensor) -> Tensor:
        return (square.sum() - square.trace()) / (len(square) * (len(square) - 1))

    return float(
        mean_off_diagonal(kernel(a_ND, a_ND)) + mean_off_diagonal(kernel(b_MD, b_MD)) - 2 * kernel(a_ND, b_MD).mean()
    )


@dataclass(frozen=True)
class PrecisionRecall:
    """Precision: share of generated pictures that look real. Recall: share of real ones that could be generated."""

    precision: float
    recall: float


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
    return PrecisionRecall(
        precision=_share_within(generated_MD, real_ND, neighbours),
        recall=_share_within(real_ND, generated_MD, neighbours),
    )


def _share_within(queries_ND: Tensor, centres_MD: Tensor, neighbours: int) -> float:
    # The nearest centre of a centre is itself, hence one neighbour more.
    radii_M = nearest(centres_MD, centres_MD, neighbours=neighbours + 1).distances[:, -1]
    inside = [(_distances(rows, centres_MD) <= radii_M).any(1) for rows in _chunks(queries_ND, len(centres_MD))]
    return float(torch.cat(inside).double().mean())


@dataclass(frozen=True)
class Nearest:
    """The nearest targets of each query, nearest first: Euclidean distances and indices, [N, K]."""

    distances: Tensor
    indices: Tensor


def nearest(queries_ND: Tensor, targets_MD: Tensor, *, neighbours: int) -> Nearest:
    """The `neighbours` nearest targets of every query, in pieces that fit into memory."""
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
