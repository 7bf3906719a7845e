"""Whether two samples of features are of one distribution, how much they differ, and which rows lie outside.

Shapes in names: N, M, T rows, one for each picture; D features.
"""

# ruff: noqa: N803 (shapes in names)

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from limner.metrics import nearest

PERMUTATIONS, DRAWS = 999, 999
BY_CHANCE = 0.95
"""Share of draws of held-out pictures that differ less than what counts as a difference."""
NEIGHBOURS = 5
"""Training pictures that say how far a picture lies from all, and how densely they lie there themselves."""

_AT_ONCE = 2**23
"""Entries of the matrix of permutations that are held in memory at one time (64 MiB)."""
SAME = 1e-6
"""Distance below which two features are those of the same picture."""


@dataclass(frozen=True)
class TwoSampleTest:
    """A two-sample test."""

    discrepancy: float
    """Unbiased squared MMD."""
    p_value: float


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
        distances = torch.cdist(x_ND.double(), y_MD.double(), compute_mode="use_mm_for_euclid_dist")
        return distances.square_().div_(-2 * self.bandwidth**2).exp_()  # in place: it may be of 8,000 x 8,000


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


def held_out_discrepancy(
    held_out_MD: Tensor, train_ND: Tensor, *, drawn: int, kernel: GaussianKernel, rng: Generator
) -> float:
    """The squared MMD to training pictures that so many held-out ones, drawn at random, exceed in 5 of 100 draws.

    Of half of them, where there are fewer than twice as many, so that draws differ.
    """
    count = min(drawn, len(held_out_MD) // 2)
    inside, across = kernel(held_out_MD, held_out_MD).fill_diagonal_(0.0), kernel(held_out_MD, train_ND).mean(1)
    chosen = inside.new_zeros(DRAWS, len(held_out_MD))
    for one in chosen:
        one[torch.randperm(len(held_out_MD), generator=rng)[:count]] = 1
    of_train = kernel(train_ND, train_ND).fill_diagonal_(0.0).sum() / (len(train_ND) * (len(train_ND) - 1))
    of_drawn = (chosen @ inside * chosen).sum(1) / (count * (count - 1))
    values = of_drawn + of_train - 2 * (chosen @ across) / count
    return max(float(values.quantile(BY_CHANCE)), 1e-12)


def outlier_factors(x_ND: Tensor, train_MD: Tensor) -> Tensor:
    """How much further each picture lies from its NEIGHBOURS nearest training pictures than these do from theirs, [N].

    A ratio of mean distances, 1 where it lies as densely as they do: the local outlier factor (Breunig et al. 2000,
    doi:10.1145/342009.335388) with plain distances for its reachabilities. A black picture lies near to the faintest
    digits, yet far by this measure: they lie nearer to each other. 1 for all where there are fewer than two to compare.
    """
    neighbours = min(NEIGHBOURS, len(train_MD) - 1)
    if neighbours < 1 or not len(x_ND):
        return torch.ones(len(x_ND), dtype=torch.float64)
    own = nearest(train_MD, train_MD, neighbours=neighbours + 1).distances[:, 1:].mean(1)  # the first is itself
    found = nearest(x_ND, train_MD, neighbours=neighbours)
    return found.distances.mean(1) / own[found.indices].mean(1).clamp_min(SAME)


def share_beyond_p_value(beyond: int, count: int, *, rank: int, held_out: int) -> float:
    """How often at least `beyond` of `count` pictures would exceed the `rank`-th largest of `held_out` of their kind.

    Exact for values without ties, whatever their distribution is: all orders of the count + held_out values are as
    likely, and that is what happens where at least `beyond` of the beyond + rank - 1 largest are among the `count`, a
    tail of the hypergeometric distribution. Unlike the binomial test it knows that the limit was found in a sample.
    """
    largest = beyond + rank - 1
    ways = (math.comb(count, some) * math.comb(held_out, largest - some) for some in range(beyond, largest + 1))
    return sum(ways) / math.comb(count + held_out, largest)


def _squared_mmd(chosen: Tensor, values: Tensor) -> Tensor:
    """Of the pictures with a 1 in each row of `chosen` [R, T] from the others; `values` [T, T] with a diagonal of 0."""
    count, total = chosen[0].sum(), len(values)
    inside = (chosen @ values * chosen).sum(1)
    across = chosen @ values.sum(1) - inside
    outside = values.sum() - 2 * across - inside
    rest = total - count
    return inside / (count * (count - 1)) + outside / (rest * (rest - 1)) - 2 * across / (count * rest)
