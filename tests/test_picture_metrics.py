"""A picture against a picture: against formulas written out, other implementations, and what has to hold for any."""

import itertools

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.errors import LimnerError
from limner.picture_metrics import (
    HIGHEST_PSNR,
    MULTI_SCALE_WEIGHTS,
    SMALLEST_MULTI_SCALE_SIDE,
    colour_correlation,
    feature_differences,
    mean_absolute_difference,
    multi_scale_structural_similarity,
    peak_signal_to_noise,
    perceptual_difference,
    power_spectrum,
    ssim_window,
    stride_peaks,
    structural_similarity,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


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


def similarities(p, q):
    """Brightness, and contrast with structure, round every place of two channels, with scipy's Gaussian filter."""

    def mean(image):  # radius 5: a window of 11; where it does not fit is cut off
        return scipy.ndimage.gaussian_filter(image, 1.5, truncate=3.5)[5:-5, 5:-5]

    mp, mq = mean(p), mean(q)
    vp, vq, vpq = mean(p * p) - mp**2, mean(q * q) - mq**2, mean(p * q) - mp * mq
    return (2 * mp * mq + 0.01**2) / (mp**2 + mq**2 + 0.01**2), (2 * vpq + 0.03**2) / (vp + vq + 0.03**2)


def test_ssim_equals_its_formula_with_scipys_gaussian_filter():
    a, b = pictures(seed=1), pictures(seed=2) * 0.5 + pictures(seed=1) * 0.5
    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        channels = [similarities(p, q) for p, q in zip(x, y, strict=True)]
        expected.append(np.mean([brightness * structure for brightness, structure in channels]))
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


# Rough and smooth pictures of an odd shape; the second differs from the first in its noise.
def alike_pictures(noise, *, channels=3, height=177, width=193):
    smooth = torch.nn.functional.interpolate(pictures(2, channels, 9, 11), size=(height, width), mode="bicubic")
    return (smooth + noise * (pictures(2, channels, height, width, 1) - 0.5)).clamp(0, 1)


def halved(image):
    channels, height, width = image.shape
    even = image[:, : height // 2 * 2, : width // 2 * 2]
    return even.reshape(channels, height // 2, 2, width // 2, 2).mean((2, 4))


def test_multi_scale_similarity_equals_its_formula_with_scipys_gaussian_filter():
    a, b = alike_pictures(0), alike_pictures(0.5) * 0.8
    expected = []
    for x, y in zip(a.numpy(), b.numpy(), strict=True):
        product = 1.0
        for scale, weight in enumerate([0.0448, 0.2856, 0.3001, 0.2363, 0.1333]):
            if scale:
                x, y = halved(x), halved(y)  # noqa: PLW2901
            found = [similarities(p, q) for p, q in zip(x, y, strict=True)]
            product *= np.mean([c * l if scale == 4 else c for l, c in found]) ** weight  # noqa: E741
        expected.append(product)
    np.testing.assert_allclose(multi_scale_structural_similarity(a, b).numpy(), expected, rtol=1e-9)


@pytest.mark.parametrize("noise", [0.05, 0.5])
def test_multi_scale_similarity_is_nearly_that_of_torchmetrics(noise):
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = alike_pictures(0), alike_pictures(noise) * 0.8
    expected = functional.multiscale_structural_similarity_index_measure(a, b, data_range=1.0, reduction="none")
    # Not quite: at the coarsest scale it takes in the border, where the window sees mirrored pixels.
    torch.testing.assert_close(multi_scale_structural_similarity(a, b), expected.double(), rtol=1e-3, atol=0)


def test_multi_scale_similarity_is_one_for_the_same_picture_and_falls_with_noise():
    assert sum(MULTI_SCALE_WEIGHTS) == pytest.approx(1, abs=2e-4)  # as published
    a = alike_pictures(0)
    torch.testing.assert_close(multi_scale_structural_similarity(a, a), torch.ones(2, dtype=torch.float64))
    little, much = alike_pictures(0.1), alike_pictures(0.6)
    torch.testing.assert_close(
        multi_scale_structural_similarity(a, little), multi_scale_structural_similarity(little, a)
    )
    values = [multi_scale_structural_similarity(a, b) for b in (a, little, much, pictures(2, 3, 177, 193, 5))]
    for nearer, further in itertools.pairwise(values):
        assert (nearer > further).all()
    # Fine noise is gone at the coarse scales, so that it matters less than at one scale.
    assert (values[2] > structural_similarity(a, much)).all()


def test_multi_scale_similarity_of_flat_pictures_is_that_of_their_brightness_at_one_scale():
    a, b = torch.full((1, 3, 176, 180), 0.2), torch.full((1, 3, 176, 180), 0.8)
    brightness = (2 * 0.2 * 0.8 + 1e-4) / (0.2**2 + 0.8**2 + 1e-4)
    assert float(multi_scale_structural_similarity(a, b)) == pytest.approx(brightness**0.1333, rel=1e-6)


def test_multi_scale_similarity_of_a_negative_is_zero_and_no_nan():
    a = alike_pictures(0.3)
    assert multi_scale_structural_similarity(a, 1 - a).tolist() == [0, 0]


@pytest.mark.parametrize(("height", "width"), [(175, 300), (300, 175), (32, 32)])
def test_pictures_too_small_for_five_scales_are_refused_with_the_smallest_side(height, width):
    assert SMALLEST_MULTI_SCALE_SIDE == 176
    a = torch.zeros(1, 1, height, width)
    with pytest.raises(LimnerError, match=f"at least 176 pixels a side, not {height} x {width}"):
        multi_scale_structural_similarity(a, a)


def test_perceptual_difference_equals_its_sums_written_out():
    a = [pictures(2, 4, 3, 5), pictures(2, 6, 2, 2, 1)]
    b = [pictures(2, 4, 3, 5, 2), pictures(2, 6, 2, 2, 3)]
    expected = np.zeros(2)
    for x, y in zip(a, b, strict=True):
        for picture in range(2):
            places = [
                ((p / np.linalg.norm(p) - q / np.linalg.norm(q)) ** 2).sum()
                for p, q in zip(x[picture].flatten(1).T.numpy(), y[picture].flatten(1).T.numpy(), strict=True)
            ]
            expected[picture] += np.mean(places) / 2
    np.testing.assert_allclose(perceptual_difference(a, b), expected, rtol=1e-12)


def test_perceptual_difference_sees_directions_and_no_lengths():
    a, away = pictures(2, 4, 3, 3) + 0.1, torch.zeros(2, 4, 3, 3)
    a[:, 2:], away[:, 2] = 0, 1
    assert perceptual_difference([a], [9 * a]).tolist() == pytest.approx([0, 0], abs=1e-12)
    assert perceptual_difference([a], [away]).tolist() == pytest.approx([2, 2])
    assert perceptual_difference([a], [-a]).tolist() == pytest.approx([4, 4])
    assert perceptual_difference([a], [torch.zeros_like(a)]).tolist() == pytest.approx([1, 1]), "a dead place is no NaN"
    mixed = perceptual_difference([a, a.float()], [a, away.float()])
    assert mixed.tolist() == pytest.approx([1, 1]), "the mean over the stages"


def test_stages_that_do_not_belong_together_are_refused():
    a = pictures(2, 4, 3, 3)
    for other in ([], [a, a], [a[:1]], [a[..., :2]]):
        with pytest.raises(LimnerError, match="same stages of both pictures"):
            perceptual_difference([a], other)
    with pytest.raises(LimnerError, match="same stages"):
        perceptual_difference([], [])


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
