"""The Frechet distance against closed forms, against scipy, and against what has to hold for any pictures."""

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import LimnerError
from limner.frechet import Gaussian, Moments, estimate_frechet, frechet_distance


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(count, dims, seed=0):
    return torch.randn(count, dims, generator=rng(seed), dtype=torch.float64)


def rotation(dims, seed=0):
    return torch.linalg.qr(normal(dims, dims, seed)).Q


def gaussian(mean, covariance):
    return Gaussian.of_statistics(torch.as_tensor(mean), torch.as_tensor(covariance))


def of(features, **how):
    return Moments.of(features).gaussian(**how)


def without_rows(one):
    return Gaussian.of_statistics(one.mean, one.covariance)


def size(*some):
    return float(sum(one.total_variance for one in some))


# -- moments ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_moments_do_not_depend_on_how_the_stream_is_split(sizes, dims, seed):
    features = normal(sum(sizes), dims, seed) * 3 + 100
    pieces = torch.split(features, sizes)
    moments = Moments.of(pieces[0])
    for piece in pieces[1:]:
        moments = moments.update(piece)
    assert moments.count == sum(sizes)
    torch.testing.assert_close(moments.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    if moments.count > 1:
        expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False)).reshape(dims, dims)
        torch.testing.assert_close(moments.covariance(), expected, rtol=1e-9, atol=1e-10)


@given(st.permutations(range(6)), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_shards_merged_in_any_order_and_shape_equal_the_whole(order, seed):
    features = normal(60, 12, seed)
    shards = [Moments.of(part) for part in torch.split(features, [1, 2, 30, 5, 7, 15])]
    first, second, third, fourth, fifth, sixth = (shards[place] for place in order)
    merged = first.merge(second).merge(third.merge(fourth)).merge(fifth.merge(sixth))
    whole = Moments.of(features)
    assert merged.count == whole.count
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-12, atol=1e-11)


def test_few_pictures_are_held_themselves_and_many_in_bounded_memory():
    features, moments = normal(20, 6), None
    for count in range(1, 21):
        piece = features[count - 1 : count]
        moments = Moments.of(piece) if moments is None else moments.update(piece)
        assert moments.held.numel() <= 36
        if count <= 6:
            torch.testing.assert_close(moments.rows, features[:count])
        else:
            assert moments.rows is None


def test_merging_is_the_same_from_either_side():
    a, b = Moments.of(normal(5, 3)), Moments.of(normal(50, 3, seed=1) + 7)
    torch.testing.assert_close(a.merge(b).scatter, b.merge(a).scatter, rtol=1e-13, atol=1e-12)


def test_moments_keep_their_precision_far_from_zero():
    features = normal(1000, 2) + 1e7
    expected = torch.from_numpy(np.cov((features - 1e7).numpy(), rowvar=False))
    moments = Moments.of(features[:500]).update(features[500:])
    torch.testing.assert_close(moments.covariance(), expected, rtol=1e-6, atol=1e-8)


def test_float32_features_are_summed_in_float64():
    features = normal(1000, 2).float() + 1000
    expected = torch.from_numpy(np.cov(features.double().numpy(), rowvar=False))
    torch.testing.assert_close(Moments.of(features).covariance(), expected, rtol=1e-10, atol=0)


@pytest.mark.parametrize("dims", [1, 3, 200])
def test_one_picture_has_no_covariance(dims):
    one = Moments.of(normal(1, dims))
    for ask in (one.covariance, one.gaussian, lambda: one.gaussian(correction=0)):
        with pytest.raises(LimnerError, match="at least two pictures"):
            ask()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (3,), (2, 3, 4)])
def test_moments_refuse_what_is_no_list_of_features(shape):
    with pytest.raises(LimnerError, match=r"shape \[N, D\]"):
        Moments.of(torch.zeros(shape))


@pytest.mark.parametrize("count", [5, 50])
@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_features_that_are_no_numbers_are_refused(count, wrong):
    features = normal(count, 20)
    features[3, 7] = wrong
    with pytest.raises(LimnerError, match="not finite"):
        of(features)


# -- Gaussians --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 12, 13, 100])
@pytest.mark.parametrize("correction", [0, 1])
def test_a_gaussian_has_the_covariance_of_numpy_biased_or_not(count, correction):
    features = normal(count, 12) + 5
    found = of(features, correction=correction)
    expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False, ddof=correction))
    torch.testing.assert_close(found.covariance, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.total_variance, expected.trace())
    torch.testing.assert_close(found.root @ found.root, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.root, found.root.T)
    assert (found.rows is not None) == (count <= 12)
    assert found.root is found.root, "the root is found once"


def test_statistics_are_taken_from_numpy_in_single_precision():
    features = normal(300, 40) @ torch.diag(torch.logspace(0, -6, 40, dtype=torch.float64))
    exact = of(features)
    rounded = Gaussian.of_statistics(exact.mean.float().numpy(), exact.covariance.float().numpy())
    assert frechet_distance(exact, rounded) < 1e-5 * size(exact)
    still = Gaussian.of_statistics(torch.ones(3), torch.zeros(3, 3))
    assert frechet_distance(still, gaussian([1, 1, 3], torch.zeros(3, 3))) == 4


@pytest.mark.parametrize(
    ("mean", "covariance", "problem"),
    [
        (torch.zeros(3), torch.eye(2), r"mean \[D\] and a covariance \[D, D\], not \[3\] and \[2, 2\]"),
        (torch.zeros(0), torch.zeros(0, 0), r"mean \[D\]"),
        (torch.zeros(2, 2), torch.eye(2), r"mean \[D\]"),
        (torch.zeros(2), torch.ones(2), r"mean \[D\]"),
        (torch.tensor([0, math.nan]), torch.eye(2), "not finite"),
        (torch.zeros(2), torch.tensor([[1, 0], [0, math.inf]]), "not finite"),
        (torch.zeros(2), torch.tensor([[1, 0.5], [0, 1]]), "not symmetric"),
        (torch.zeros(2), torch.tensor([[1.0, 2], [2, 1]]), "negative eigenvalues"),
        (torch.zeros(2), torch.tensor([[1.0, 0], [0, -0.01]]), "negative eigenvalues"),
        (torch.zeros(2), -torch.eye(2), "negative eigenvalues"),
    ],
)
def test_statistics_that_cannot_be_are_refused(mean, covariance, problem):
    with pytest.raises(LimnerError, match=problem):
        Gaussian.of_statistics(mean, covariance)


# -- the distance in closed form --------------------------------------------------------------------------------------


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    covariance = [[2.0, 0.5], [0.5, 1.0]]
    assert frechet_distance(gaussian([0, 0], covariance), gaussian([3, 4], covariance)) == pytest.approx(25)


def test_frechet_distance_of_commuting_covariances_is_that_of_their_standard_deviations():
    turn = rotation(3)
    a, b = (turn @ torch.diag(torch.tensor(v, dtype=torch.float64)) @ turn.T for v in ([1, 4, 9], [4, 4, 0]))
    expected = (1 - 2) ** 2 + 0 + 3**2
    assert frechet_distance(gaussian(torch.zeros(3), a), gaussian(torch.zeros(3), b)) == pytest.approx(expected)


def test_frechet_distance_of_one_dimension_needs_no_matrix():
    assert frechet_distance(gaussian([1], [[4.0]]), gaussian([3], [[9.0]])) == pytest.approx(4 + 1)
    a, b = torch.tensor([[1.0], [3.0], [5.0]]), torch.tensor([[0.0], [2.0]])  # variances 4 and 2
    assert frechet_distance(of(a), of(b)) == pytest.approx(4 + 4 + 2 - 2 * math.sqrt(8))


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_frechet_distance_of_two_dimensions_has_a_root_in_closed_form(seed):
    a, b = (of(normal(5, 2, seed + i) + i) for i in (0, 1))
    # Of a 2 x 2 matrix P: (Tr P^(1/2))^2 = Tr P + 2 det(P)^(1/2).
    product = a.covariance @ b.covariance
    root = (product.trace() + 2 * product.det().clamp(min=0).sqrt()).sqrt()
    expected = (a.mean - b.mean).square().sum() + a.total_variance + b.total_variance - 2 * root
    assert frechet_distance(a, b) == pytest.approx(float(expected), abs=1e-7 * size(a, b))


@pytest.mark.parametrize("rows", [True, False])
def test_frechet_distance_of_sets_that_vary_along_different_axes_is_all_of_their_variance(rows):
    a, b = normal(4, 20), normal(5, 20, 1)
    a[:, 10:], b[:, :10] = 0, 0
    first, second = (of(part) if rows else without_rows(of(part)) for part in (a, b))
    expected = float((first.mean - second.mean).square().sum()) + size(first, second)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_two_pairs_of_pictures_by_hand():
    # The covariance of a pair is d d^T / 2, with d their difference; so the root's trace is |d1 . d2| / 2.
    a, b = normal(2, 9), normal(2, 9, 1)
    d1, d2 = a[0] - a[1], b[0] - b[1]
    expected = (a.mean(0) - b.mean(0)).square().sum() + (d1 @ d1) / 2 + (d2 @ d2) / 2 - (d1 @ d2).abs()
    assert frechet_distance(of(a), of(b)) == pytest.approx(float(expected), rel=1e-12)


@given(st.integers(2, 60), st.integers(2, 60), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_frechet_distance_is_the_same_in_a_space_of_more_dimensions(count_a, count_b, seed):
    a, b = normal(count_a, 8, seed), normal(count_b, 8, seed + 1) * 2 + 1
    known = frechet_distance(without_rows(of(a)), without_rows(of(b)))
    into = rotation(40, seed)[:8]  # every covariance is now singular, and up to 40 pictures are fewer than features
    first, second = of(a @ into), of(b @ into)
    assert frechet_distance(first, second) == pytest.approx(known, abs=1e-6 * size(first, second))


def test_frechet_distance_of_few_pictures_is_exact_though_their_covariance_is_singular():
    a, b, into = normal(30, 8), normal(20, 8, 1) + 0.1, rotation(64)[:8]
    known = frechet_distance(without_rows(of(a)), without_rows(of(b)))
    assert frechet_distance(of(a @ into), of(b @ into)) == pytest.approx(known, rel=1e-11)


@given(st.integers(2, 40), st.integers(1, 45), st.floats(1e-3, 1e3), st.integers(0, 2**32))
@settings(deadline=None, max_examples=60)
def test_frechet_distance_to_itself_is_zero_and_it_is_symmetric(count, dims, scale, seed):
    a, b = normal(count, dims, seed) * scale, normal(count + 3, dims, seed + 1) * scale
    first, second, both = of(a), of(b), size(of(a), of(b))
    there = frechet_distance(first, second)
    assert 0 <= frechet_distance(first, of(a)) <= 1e-6 * both
    assert there >= 0
    assert there == pytest.approx(frechet_distance(second, first), abs=1e-6 * both)
    shuffled = of(a[torch.randperm(count, generator=rng(seed))])
    assert there == pytest.approx(frechet_distance(shuffled, second), abs=1e-6 * both)


# -- every way to it, against scipy's ---------------------------------------------------------------------------------


def by_scipy(a, b):
    """The textbook formula: value, and the largest imaginary part of the root."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy says itself that the matrix is singular
        root = scipy.linalg.sqrtm((a.covariance @ b.covariance).numpy())
    value = float((a.mean - b.mean).square().sum() + a.total_variance + b.total_variance) - 2 * np.trace(root).real
    return value, float(np.abs(np.imag(root)).max())


@pytest.mark.parametrize("dims", [2, 16, 64, 300])
def test_frechet_distance_equals_the_textbook_formula_with_scipys_matrix_root(dims):
    a, b = of(normal(500, dims) @ normal(dims, dims, 1)), of(normal(400, dims, 2) @ normal(dims, dims, 3) + 0.3)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b)[0], rel=1e-8)


@pytest.mark.slow
def test_frechet_distance_equals_the_textbook_formula_at_the_size_of_inception():
    scale = torch.logspace(0, -3, 2048, dtype=torch.float64)
    a, b = of(normal(4000, 2048) * scale), of(normal(3000, 2048, 1) * scale + 0.01)
    assert frechet_distance(a, b) == pytest.approx(by_scipy(a, b)[0], rel=1e-6)


@pytest.mark.parametrize("count", [5, 20, 55, 64, 100])
def test_all_ways_agree_with_fewer_or_more_pictures_than_features(count):
    a, b = of(normal(count, 64)), of(normal(30, 64, 1) + 0.1)
    # Without a full rank: Tr (S1 S2)^(1/2) is the nuclear norm of the product of the centred features.
    x, y = ((f - f.mean(0)) / math.sqrt(len(f) - 1) for f in (normal(count, 64), normal(30, 64, 1) + 0.1))
    cross = torch.linalg.svdvals(x @ y.T).sum()
    expected = float((a.mean - b.mean).square().sum() + (x**2).sum() + (y**2).sum() - 2 * cross)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-7)
    for first in (a, without_rows(a)):
        for second in (b, without_rows(b)):
            assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-6)
            assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-6)


def test_no_complex_number_leaks_where_scipy_has_one():
    leaks = 0.0
    for seed in range(20):
        flat = torch.cat([torch.logspace(2, -2, 20), torch.zeros(20)]).double()  # no variance along half of the axes
        a = of((normal(50, 40, seed) * flat) @ rotation(40, seed))
        b = of((normal(45, 40, 100 + seed) * flat) @ rotation(40, 200 + seed))
        assert a.rows is b.rows is None
        found, (expected, imaginary) = frechet_distance(a, b), by_scipy(a, b)
        assert isinstance(found, float)
        assert found == pytest.approx(expected, abs=1e-6 * size(a, b))
        leaks = max(leaks, imaginary)
    assert leaks > 1e-6, "no product was singular enough to show anything"


def test_the_slow_root_is_found_only_where_both_sets_are_large():
    large, other, small = of(normal(30, 8)), of(normal(20, 8, 1)), of(normal(5, 8, 2))
    for pair in ((large, small), (small, large), (small, small)):
        frechet_distance(*pair)
    assert not any("root" in vars(one) for one in (large, small))
    frechet_distance(large, other)
    assert "root" in vars(large)
    assert "root" not in vars(other), "the first one keeps it"


def test_different_numbers_of_features_have_no_distance():
    with pytest.raises(LimnerError, match="Sets of 3 and of 5 features have no distance"):
        frechet_distance(of(normal(9, 3)), of(normal(9, 5)))


# -- how sure the distance is -----------------------------------------------------------------------------------------

EQUAL, UNEQUAL = [20] * 10, [50, 10, 30, 20, 5, 25, 40, 20]
TRUTH = Gaussian.of_statistics(torch.zeros(6), torch.eye(6))


def dealt(features, counts):
    return [Moments.of(part) for part in torch.split(features, counts)]


def judged_by_share(features, counts, reference, shares):
    """The distance where each group counts for its share, whatever its size."""
    weights = torch.cat(
        [
            torch.full((count,), share / count, dtype=torch.float64)
            for count, share in zip(counts, shares.tolist(), strict=True)
        ]
    )
    mean = weights @ features
    rows = (features - mean) * weights.sqrt()[:, None]
    few = len(rows) <= rows.shape[1]
    judged = Gaussian(mean, rows) if few else Gaussian.of_statistics(mean, rows.T @ rows)
    return frechet_distance(reference, judged)


@pytest.mark.parametrize("dims", [6, 150, 300])
@pytest.mark.parametrize("counts", [EQUAL, UNEQUAL])
@pytest.mark.parametrize("reference_count", [40, 400])
def test_the_standard_error_follows_from_what_each_group_does_to_the_distance(dims, counts, reference_count):
    features, reference = normal(200, dims) + 0.2, of(normal(reference_count, dims, 1))
    found = estimate_frechet(dealt(features, counts), reference, correction=0)
    sizes, step, changes = np.array(counts), 1e-4, []
    for place in range(len(counts)):
        pulled = np.eye(len(counts))[place] - sizes / 200
        ahead, behind = (judged_by_share(features, counts, reference, sizes / 200 + s * pulled) for s in (step, -step))
        changes.append((ahead - behind) / (2 * step))
    variance = (sizes * np.square(changes)).sum() / (len(counts) - 1) / 200
    assert found.standard_error == pytest.approx(math.sqrt(variance), rel=1e-4)


@pytest.mark.parametrize("dims", [6, 150, 300])
def test_the_standard_error_is_about_that_of_leaving_every_group_out(dims):
    features, reference = normal(200, dims) + 0.2, of(normal(400, dims, 1))
    parts = list(torch.split(features, EQUAL))
    found = estimate_frechet(dealt(features, EQUAL), reference)
    without = np.array([frechet_distance(reference, of(torch.cat(parts[:k] + parts[k + 1 :]))) for k in range(10)])
    assert found.standard_error == pytest.approx(math.sqrt(0.9 * ((without - without.mean()) ** 2).sum()), rel=0.25)


@pytest.mark.parametrize("dims", [6, 150, 300])
def test_the_estimate_is_of_all_pictures_and_extrapolates_from_their_halves(dims):
    features, reference = normal(200, dims) + 0.2, of(normal(400, dims, 1))
    found = estimate_frechet(dealt(features, EQUAL), reference, correction=0)
    value, *halves = (
        frechet_distance(reference, of(some, correction=0)) for some in (features, features[:100], features[100:])
    )
    assert found.value == pytest.approx(value, rel=1e-9)
    assert found.at_infinity == pytest.approx(2 * value - sum(halves) / 2, rel=1e-6)


@pytest.mark.parametrize("counts", [EQUAL, UNEQUAL])
@pytest.mark.parametrize(("shift", "most"), [(0.5, 1.25), (0.0, 1.6)], ids=["apart", "a-perfect-match"])
def test_the_standard_error_is_the_spread_over_sets_drawn_anew(counts, shift, most):
    found = [estimate_frechet(dealt(normal(200, 6, seed) + shift, counts), TRUTH) for seed in range(150)]
    spread = np.std([each.value for each in found], ddof=1)
    error = math.sqrt(np.mean([each.standard_error**2 for each in found]))
    assert 0.8 < error / spread < most


@pytest.mark.parametrize("counts", [EQUAL, UNEQUAL, [150, 40, 10]])
@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_extrapolation_takes_most_of_the_bias_away(counts, shift):
    found = [estimate_frechet(dealt(normal(200, 6, seed) + shift, counts), TRUTH) for seed in range(150)]
    expected = 6 * shift**2
    bias = np.mean([each.value for each in found]) - expected
    left = np.mean([each.at_infinity for each in found]) - expected
    assert bias > 0.05
    assert abs(left) < 0.25 * bias


def test_the_estimate_does_not_depend_on_the_order_of_the_groups():
    groups = dealt(normal(200, 6), EQUAL)
    found, turned = (estimate_frechet(some, TRUTH) for some in (groups, groups[::-1]))
    for figure in ("value", "standard_error", "at_infinity"):
        assert getattr(found, figure) == pytest.approx(getattr(turned, figure), rel=1e-9)


@pytest.mark.parametrize("counts", [[], [200], [1, 1, 1], [199, 1]])
def test_an_estimate_of_too_little_is_refused(counts):
    with pytest.raises(LimnerError, match=f"at least 4 pictures.*not {sum(counts)} in {len(counts)}"):
        estimate_frechet(dealt(normal(sum(counts), 6), counts) if counts else [], TRUTH)


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, 2]])
def test_four_pictures_are_enough_for_an_estimate(counts):
    found = estimate_frechet(dealt(normal(4, 6), counts), TRUTH)
    assert found.standard_error > 0
    assert math.isfinite(found.at_infinity)
