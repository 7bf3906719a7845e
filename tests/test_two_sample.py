"""Two samples of features: the test, the size of a difference, what lies outside."""

import math
from itertools import permutations

import numpy as np
import pytest
import torch

from limner import two_sample
from limner.randomness import generator
from limner.two_sample import (
    GaussianKernel,
    held_out_discrepancy,
    outlier_factors,
    share_beyond_p_value,
    two_sample_test,
)


def normal(count, seed, *, dimensions=8, shift=0.0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, dimensions, generator=rng)


def test_the_discrepancy_is_the_unbiased_one_of_the_paper():
    a, b = normal(7, 1).double(), normal(9, 2, shift=0.5).double()
    kernel = GaussianKernel(1.3)

    def k(x, y):
        return float(torch.exp(-(x - y).square().sum() / (2 * 1.3**2)))

    within_a = sum(k(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j) / (7 * 6)
    within_b = sum(k(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j) / (9 * 8)
    between = sum(k(x, y) for x in a for y in b) / (7 * 9)
    found = two_sample_test(a, b, kernel=kernel, rng=generator(0), permutations=9)
    assert found.discrepancy == pytest.approx(within_a + within_b - 2 * between, abs=1e-12)


def test_p_values_are_uniform_where_nothing_differs():
    """Of 150 pairs of samples each tenth of the p-values gets its share, and no more than alpha are below alpha."""
    values = []
    for seed in range(150):
        a, b = normal(15, 2 * seed, dimensions=3).exp(), normal(40, 2 * seed + 1, dimensions=3).exp()
        kernel = GaussianKernel.for_training(b)
        values.append(two_sample_test(a, b, kernel=kernel, rng=generator(seed), permutations=99).p_value)
    tenths = np.histogram(values, bins=np.arange(11) / 10 + 0.005)[0]
    # Chi-squared of 9 degrees of freedom: above 27.9 in one case of a thousand.
    assert ((tenths - 15) ** 2 / 15).sum() < 27.9
    assert np.mean(np.array(values) <= 0.05) == pytest.approx(0.05, abs=3.3 * np.sqrt(0.05 * 0.95 / 150))


def test_the_same_pictures_give_the_same_p_value():
    a, b = normal(30, 1), normal(60, 2)
    kernel = GaussianKernel.for_training(b)
    one, other = (two_sample_test(a, b, kernel=kernel, rng=generator(5), permutations=99) for _ in range(2))
    assert one == other


def test_permutations_in_pieces_are_the_same_permutations(monkeypatch):
    a, b = normal(30, 1), normal(60, 2)
    kernel = GaussianKernel.for_training(b)
    whole = two_sample_test(a, b, kernel=kernel, rng=generator(5), permutations=99)
    monkeypatch.setattr(two_sample, "_AT_ONCE", 7 * 90)
    pieces = two_sample_test(a, b, kernel=kernel, rng=generator(5), permutations=99)
    assert pieces.p_value == whole.p_value
    assert pieces.discrepancy == pytest.approx(whole.discrepancy, rel=1e-9)


def test_a_kernel_without_any_variety_has_a_width():
    assert GaussianKernel.for_training(torch.ones(20, 3)).bandwidth == 1.0


def test_held_out_pictures_of_the_training_kind_set_a_small_yardstick():
    train = normal(300, 1)
    kernel = GaussianKernel.for_training(train)
    alike, apart = (
        held_out_discrepancy(held, train, drawn=50, kernel=kernel, rng=generator(0))
        for held in (normal(200, 2), normal(200, 2, shift=0.7))
    )
    assert 0 < alike < apart / 3


# -- outliers ---------------------------------------------------------------------------------------------------------


def test_an_outlier_factor_compares_with_how_the_neighbours_lie_among_themselves():
    train = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    neighbours = 3  # of four: to each all others

    def apart(value, others):
        return sum(abs(value - other) for other in sorted(others, key=lambda o: abs(value - o))[:neighbours]) / 3

    values = train[:, 0].tolist()
    own = {value: apart(value, [other for other in values if other != value]) for value in values}
    nearest = sorted(values, key=lambda value: abs(2.4 - value))[:3]
    expected = apart(2.4, values) / (sum(own[value] for value in nearest) / 3)
    assert float(outlier_factors(torch.tensor([[2.4]]), train)) == pytest.approx(expected, rel=1e-6)


def test_what_lies_near_to_a_dense_place_is_an_outlier_and_the_same_way_from_a_wide_one_is_none():
    train = torch.cat([normal(100, 1, scale=0.05), normal(100, 2, shift=20, scale=3)])
    near_dense, near_wide = outlier_factors(torch.tensor([[0.5] * 8, [20.5] * 8]), train)
    assert near_dense > 4
    assert near_wide < 1.2


def test_outlier_factors_are_defined_where_training_pictures_are_copies_or_missing():
    same = torch.ones(20, 3)
    assert outlier_factors(same[:2], same).tolist() == [0, 0]
    assert math.isfinite(float(outlier_factors(same[:1] + 1, same)))
    assert outlier_factors(same[:2], same[:1]).tolist() == [1, 1]
    assert len(outlier_factors(same[:0], same)) == 0


@pytest.mark.parametrize(("count", "held_out", "rank"), [(3, 4, 1), (3, 4, 2), (4, 3, 3), (2, 5, 1)])
def test_the_p_value_of_a_share_counts_all_orders(count, held_out, rank):
    """Every order of all values is as likely: here they are written out."""
    orders = list(permutations(range(count + held_out)))
    found = []
    for order in orders:
        limit = sorted(order[count:], reverse=True)[rank - 1]
        found.append(sum(value > limit for value in order[:count]))
    for beyond in range(count + 1):
        expected = sum(one >= beyond for one in found) / len(orders)
        assert share_beyond_p_value(beyond, count, rank=rank, held_out=held_out) == pytest.approx(expected)


def test_the_p_value_of_a_share_knows_that_the_limit_was_found_in_a_sample():
    """The binomial test would say 0.01 of 20 among 1,000 where 1 % are expected; of 466 held-out ones it is weaker."""
    assert 0.02 < share_beyond_p_value(20, 1000, rank=5, held_out=466) < 0.2
