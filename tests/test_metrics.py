"""Metrics against closed forms, against scipy, and against what has to hold for any pictures."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import LimnerError
from limner.frechet import Moments, frechet_distance
from limner.metrics import (
    class_entropy,
    kernel_distance,
    mean_pairwise_distance,
    nearest,
    precision_recall,
    unbiased_squared_mmd,
)
from limner.picture_metrics import (
    HIGHEST_PSNR,
    colour_correlation,
    feature_differences,
    mean_absolute_difference,
    peak_signal_to_noise,
    power_spectrum,
    ssim_window,
    stride_peaks,
    structural_similarity,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(count, dims, seed=0):
    return torch.randn(count, dims, generator=rng(seed), dtype=torch.float64)


def gaussian(mean, covariance):
    """Moments that have exactly this mean and covariance."""
    covariance = torch.as_tensor(covariance, dtype=torch.float64)
    return Moments(11, torch.as_tensor(mean, dtype=torch.float64), covariance * 10)


# -- moments ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 2**32))
@settings(deadline=None, max_examples=50)
def test_moments_do_not_depend_on_how_the_stream_is_split(sizes, seed):
    features = normal(sum(sizes), 4, seed) * 3 + 100
    pieces = torch.split(features, sizes)
    moments = Moments.of(pieces[0])
    for piece in pieces[1:]:
        moments = moments.update(piece)
    assert moments.count == sum(sizes)
    torch.testing.assert_close(moments.mean, features.mean(0), rtol=1e-12, atol=1e-12)
    if moments.count > 1:
        expected = torch.from_numpy(np.cov(features.numpy(), rowvar=False))
        torch.testing.assert_close(moments.covariance(), expected, rtol=1e-9, atol=1e-10)


def test_merging_is_the_same_from_either_side():
    a, b = Moments.of(normal(5, 3)), Moments.of(normal(50, 3, seed=1) + 7)
    torch.testing.assert_close(a.merge(b).scatter, b.merge(a).scatter, rtol=1e-13, atol=0)


def test_moments_keep_their_precision_far_from_zero():
    features = normal(1000, 2) + 1e7
    expected = torch.from_numpy(np.cov((features - 1e7).numpy(), rowvar=False))
    moments = Moments.of(features[:500]).update(features[500:])
    torch.testing.assert_close(moments.covariance(), expected, rtol=1e-6, atol=1e-8)


def test_float32_features_are_summed_in_float64():
    features = normal(1000, 2).float() + 1000
    expected = torch.from_numpy(np.cov(features.double().numpy(), rowvar=False))
    torch.testing.assert_close(Moments.of(features).covariance(), expected, rtol=1e-10, atol=0)


def test_one_picture_has_no_covariance():
    with pytest.raises(LimnerError, match="at least two pictures"):
        Moments.of(normal(1, 3)).covariance()


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 3, 4)])
def test_moments_refuse_what_is_no_list_of_features(shape):
    with pytest.raises(LimnerError, match=r"shape \[N, D\]"):
        Moments.of(torch.zeros(shape))


# -- Frechet distance -------------------------------------------------------------------------------------------------


def test_frechet_distance_of_shifted_gaussians_is_the_squared_shift():
    covariance = [[2.0, 0.5], [0.5, 1.0]]
    assert frechet_distance(gaussian([0, 0], covariance), gaussian([3, 4], covariance)) == pytest.approx(25)


def test_frechet_distance_of_diagonal_gaussians_is_that_of_their_standard_deviations():
    a, b = gaussian([0, 0, 0], np.diag([1.0, 4.0, 9.0])), gaussian([0, 0, 0], np.diag([4.0, 4.0, 0.0]))
    assert frechet_distance(a, b) == pytest.approx((1 - 2) ** 2 + 0 + 3**2)


def test_frechet_distance_of_one_dimension_needs_no_matrix():
    assert frechet_distance(gaussian([1], [[4.0]]), gaussian([3], [[9.0]])) == pytest.approx(4 + 1)


@pytest.mark.parametrize("dims", [2, 16, 64])
def test_frechet_distance_equals_the_textbook_formula_with_scipys_matrix_root(dims):
    a, b = normal(500, dims) @ normal(dims, dims, 1), normal(400, dims, 2) @ normal(dims, dims, 3) + 0.3
    first, second = np.cov(a.numpy(), rowvar=False), np.cov(b.numpy(), rowvar=False)
    root = scipy.linalg.sqrtm(first @ second).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum().item() + np.trace(first + second - 2 * root)
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected, rel=1e-8)


def test_frechet_distance_holds_with_fewer_pictures_than_features():
    a, b = normal(20, 64), normal(30, 64, 1)
    # Without a full rank: Tr (S1 S2)^(1/2) is the nuclear norm of the product of the centred features.
    x, y = ((f - f.mean(0)) / math.sqrt(len(f) - 1) for f in (a, b))
    cross = torch.linalg.svdvals(x @ y.T).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(expected.item(), rel=1e-5)


@given(st.integers(2, 40), st.integers(1, 12), st.floats(1e-3, 1e3), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_frechet_distance_to_itself_is_zero_and_it_is_symmetric(count, dims, scale, seed):
    a, b = normal(count, dims, seed) * scale, normal(count + 3, dims, seed + 1) * scale
    first, second = Moments.of(a), Moments.of(b)
    there, back = frechet_distance(first, second), frechet_distance(second, first)
    size = float(first.covariance().trace() + second.covariance().trace())
    assert frechet_distance(first, first) <= 1e-6 * size
    assert there >= 0
    assert there == pytest.approx(back, abs=1e-6 * size)
    assert frechet_distance(Moments.of(a[torch.randperm(count, generator=rng(seed))]), second) == pytest.approx(
        there, abs=1e-6 * size
    )


# -- kernel distance --------------------------------------------------------------------------------------------------


def test_squared_mmd_equals_its_sums_written_out():
    a, b = normal(4, 3), normal(5, 3, 1)
    kernel = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within_a = sum(kernel(a[i], a[j]) for i in range(4) for j in range(4) if i != j) / 12
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    between = sum(kernel(x, y) for x in a for y in b) / 20
    assert unbiased_squared_mmd(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_squared_mmd_of_equal_distributions_is_zero_on_average():
    values = torch.tensor([unbiased_squared_mmd(normal(8, 3, 2 * i), normal(8, 3, 2 * i + 1)) for i in range(2000)])
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    assert (values < 0).any(), "an estimate that is never below zero is biased"


def test_kernel_distance_of_equal_distributions_is_near_zero_and_of_others_is_not():
    real = normal(600, 8)
    same = kernel_distance(real, normal(600, 8, 1), rng=rng())
    other = kernel_distance(real, normal(600, 8, 2) + 0.5, rng=rng())
    assert abs(same.value) < 0.05
    assert other.value > 10 * other.standard_error
    assert other.value > 0.3


def test_kernel_distance_depends_on_nothing_but_its_generator():
    a, b = normal(100, 4), normal(100, 4, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert kernel_distance(a, b, rng=rng(5)) == kernel_distance(a, b, rng=rng(5))
    assert kernel_distance(a, b, rng=rng(5)) != kernel_distance(a, b, rng=rng(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_kernel_distance_of_few_pictures_still_knows_its_error():
    assert kernel_distance(normal(10, 4), normal(10, 4, 1), rng=rng()).standard_error > 0
    with pytest.raises(LimnerError, match="at least 4 pictures on each side, not 3 and 10"):
        kernel_distance(normal(3, 4), normal(10, 4), rng=rng())


# -- precision and recall ---------------------------------------------------------------------------------------------


def test_precision_and_recall_by_hand():
    # On a line, k = 1. Balls of the real ones: 0±1, 1±1, 10±9. Of the generated ones: 2±0.5, 2.5±0.5, 30±27.5.
    real, generated = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[2.0], [2.5], [30.0]])
    found = precision_recall(real, generated, neighbours=1)
    assert found.precision == pytest.approx(2 / 3)  # 2 and 2.5 lie in real balls, 30 does not
    assert found.recall == pytest.approx(1 / 3)  # 10 lies in 30±27.5; 0 and 1 in none


def test_precision_sees_a_bad_picture_and_recall_a_missing_one():
    real = torch.cat([normal(100, 2), normal(100, 2, 1) + 50])
    half = normal(200, 2, 2)
    found = precision_recall(real, half, neighbours=3)
    assert found.precision > 0.9
    assert found.recall < 0.55
    far = precision_recall(real, torch.cat([half[:100], normal(100, 2, 3) + 500]), neighbours=3)
    assert far.precision < 0.55


@given(st.integers(5, 30), st.integers(1, 4), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_precision_and_recall_change_places_with_the_sets(count, neighbours, seed):
    a, b = normal(count, 3, seed), normal(count, 3, seed + 1)
    there, back = precision_recall(a, b, neighbours=neighbours), precision_recall(b, a, neighbours=neighbours)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    itself = precision_recall(a, a, neighbours=neighbours)
    assert (itself.precision, itself.recall) == (1, 1)


def test_too_few_pictures_for_precision_are_refused():
    with pytest.raises(LimnerError, match="more than 3 pictures on each side, not 3 and 10"):
        precision_recall(normal(3, 2), normal(10, 2), neighbours=3)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_nearest_is_the_same_in_one_piece_and_in_many(monkeypatch):
    queries, targets = normal(50, 4), normal(30, 4, 1)
    whole = nearest(queries, targets, neighbours=3)
    expected = (queries[:, None] - targets).norm(dim=2).sort(1)
    torch.testing.assert_close(whole.distances, expected.values[:, :3])
    assert torch.equal(whole.indices, expected.indices[:, :3])
    monkeypatch.setattr("limner.metrics._DISTANCES_AT_ONCE", 70)
    assert torch.equal(nearest(queries, targets, neighbours=3).indices, whole.indices)


def test_nearest_finds_an_exact_copy_among_large_numbers():
    targets = normal(200, 100) * 255
    found = nearest(targets[17:18].float(), targets.float(), neighbours=1)
    assert found.indices.item() == 17
    assert found.distances.item() < 1e-3


def test_mean_pairwise_distance_counts_each_pair_once_and_no_picture_with_itself():
    assert mean_pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)
    with pytest.raises(LimnerError, match="at least two pictures"):
        mean_pairwise_distance(normal(1, 3))


def test_class_entropy_is_one_for_equal_shares_and_zero_for_one_class():
    assert class_entropy(torch.arange(30) % 10, classes=10) == pytest.approx(1)
    assert class_entropy(torch.zeros(30, dtype=torch.int64), classes=10) == 0
    # Two classes of four, half each: ln 2 / ln 4
    assert class_entropy(torch.tensor([0, 1]), classes=4) == pytest.approx(0.5)
    with pytest.raises(LimnerError, match="at least two classes"):
        class_entropy(torch.zeros(3, dtype=torch.int64), classes=1)


# -- a picture against a picture --------------------------------------------------------------------------------------


def pictures(count=3, channels=3, height=20, width=27, seed=0):
    return torch.rand(count, channels, height, width, generator=rng(seed), dtype=torch.float64)


def test_l1_and_psnr_of_known_differences():
    a = torch.zeros(3, 1, 4, 4)
    b = torch.stack([torch.zeros(1, 4, 4), torch.full((1, 4, 4), 0.1), torch.ones(1, 4, 4)])
    b[1, 0, :2] = -0.1
    torch.testing.assert_close(mean_absolute_difference(a, b).float(), torch.tensor([0, 0.1, 1]))
    torch.testing.assert_close(peak_signal_to_noise(a, b).float(), torch.tensor([HIGHEST_PSNR, 20, 0]))


def test_ssim_of_flat_pictures_is_that_of_their_brightness():
    a, b = torch.full((1, 3, 16, 16), 0.2), torch.full((1, 3, 16, 16), 0.8)
    expected = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    assert float(structural_similarity(a, b)) == pytest.approx(expected, rel=1e-6)


def test_ssim_equals_its_formula_with_scipys_gaussian_filter():
    a, b = pictures(seed=1), pictures(seed=2) * 0.5 + pictures(seed=1) * 0.5

    def mean(image):  # radius 5: a window of 11; where it does not fit is cut off
        return scipy.ndimage.gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        channels = []
        for p, q in zip(x, y, strict=True):
            mp, mq = mean(p), mean(q)
            vp, vq, vpq = mean(p * p) - mp**2, mean(q * q) - mq**2, mean(p * q) - mp * mq
            top = (2 * mp * mq + 0.01**2) * (2 * vpq + 0.03**2)
            channels.append((top / ((mp**2 + mq**2 + 0.01**2) * (vp + vq + 0.03**2))).mean())
        expected.append(np.mean(channels))
    np.testing.assert_allclose(structural_similarity(a, b).numpy(), expected, rtol=1e-9)


@given(st.integers(8, 24), st.integers(8, 24), st.sampled_from([1, 3, 4]), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_ssim_is_one_for_the_same_picture_and_symmetric_at_any_size(height, width, channels, seed):
    a, b = (pictures(2, channels, height, width, seed + i) for i in (0, 1))
    assert ssim_window(height, width) % 2 == 1
    assert ssim_window(height, width) == (11 if min(height, width) >= 11 else (min(height, width) - 1) // 2 * 2 + 1)
    torch.testing.assert_close(structural_similarity(a, a), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(structural_similarity(a, b), structural_similarity(b, a))
    assert (structural_similarity(a, b).abs() < 1).all()


def test_the_correlation_of_colours_sees_a_negative_and_leaves_flat_channels_out():
    a = pictures()
    torch.testing.assert_close(colour_correlation(a, 0.3 * a + 0.1), torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(colour_correlation(a, 1 - a), -torch.ones(3, dtype=torch.float64))
    expected = [np.mean([np.corrcoef(p, q)[0, 1] for p, q in zip(x, y, strict=True)])
                for x, y in zip(a.flatten(2).numpy(), pictures(seed=1).flatten(2).numpy(), strict=True)]  # fmt: skip
    np.testing.assert_allclose(colour_correlation(a, pictures(seed=1)), expected, rtol=1e-9)
    b = 1 - a
    b[0, 0], b[1] = 0.5, 0.7
    found = colour_correlation(a, b)
    assert float(found[0]) == pytest.approx(-1)
    assert found[1].isnan()


def test_feature_differences_see_directions_and_no_lengths():
    a = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
    b = torch.tensor([[9.0, 0], [0, 2], [-3, 0]])
    assert feature_differences(a, b).tolist() == [0, 2, 4]


def test_a_pattern_of_two_or_four_pixels_stands_out_of_noise_at_its_own_frequency():
    noise = pictures(60, 1, 48, 64)
    flat = stride_peaks(power_spectrum(noise))
    assert flat.shape == (15,)
    assert (flat - 1).abs().max() < 0.3
    row, column = torch.arange(48)[:, None], torch.arange(64)
    for pattern, places in (
        ((row + column) % 2, {(2, 2)}),
        ((column % 2).expand(48, 64), {(0, 2)}),
        ((row % 4 == 0).expand(48, 64), {(1, 0), (2, 0), (3, 0)}),
    ):
        peaks = stride_peaks(power_spectrum(noise + 0.2 * pattern))
        assert {divmod(int(place) + 1, 4) for place in (peaks > 3).nonzero()} == places
    torch.testing.assert_close(stride_peaks(power_spectrum(1 - noise)), flat)


def test_spectra_add_up_and_flat_pictures_add_nothing():
    a = pictures(5)
    pieces = power_spectrum(a[:2]) + power_spectrum(a[2:])
    torch.testing.assert_close(power_spectrum(a), pieces)
    assert float(power_spectrum(a).sum()) == pytest.approx(5)
    torch.testing.assert_close(power_spectrum(torch.cat([a, torch.full_like(a, 0.1)])), pieces)
    assert stride_peaks(power_spectrum(torch.zeros(1, 1, 16, 16))).isnan().all()
    assert stride_peaks(power_spectrum(pictures(1, 1, 8, 8))).isnan().all(), "nothing lies between the frequencies"
