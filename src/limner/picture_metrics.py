"""How one picture differs from another, and what its spectrum says of it.

Everything here is pure: float images [N, C, H, W] in [0, 1] in, one float64 a picture out. Shapes in names: N pictures;
C channels; H, W sides; D features.
"""

# ruff: noqa: N803 (shapes in names)

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
HIGHEST_PSNR = 100.0
"""Decibels; what equal pictures get, whose ratio is infinite."""
PEAK_RADIUS = 1 / 32 + 1e-9
"""Cycles per pixel round a frequency that still count as its own; three times that is what lies round it."""


def mean_absolute_difference(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """L1 distance of two pictures [N], a share of the grey scale in [0, 1]: 0 for equal ones."""
    return (a_NCHW.double() - b_NCHW.double()).abs().flatten(1).mean(1)


def peak_signal_to_noise(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """10 log10(1 / mean squared difference) of two pictures [N], decibels; higher is nearer, at most HIGHEST_PSNR."""
    error = (a_NCHW.double() - b_NCHW.double()).square().flatten(1).mean(1)
    return -10 * error.clamp(min=10 ** (-HIGHEST_PSNR / 10)).log10()


def ssim_window(height: int, width: int) -> int:
    """Side of the window of `structural_similarity`: 11, or the largest odd number of pixels that the picture has."""
    side = min(SSIM_WINDOW, height, width)
    return side - 1 + side % 2


def structural_similarity(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Mean structural similarity of two pictures [N], in [-1, 1]: 1 for equal ones, about 0 for unrelated ones.

    Wang et al. 2004, doi:10.1109/TIP.2003.819861, equation (13) with the Gaussian window (11 x 11, sigma 1.5) and the
    constants K1 = 0.01, K2 = 0.03 of section III.C, over all places where the window fits; the mean over the channels.
    """
    channels, height, width = a_NCHW.shape[1:]
    side = ssim_window(height, width)
    offsets = torch.arange(side, dtype=torch.float64, device=a_NCHW.device) - side // 2
    gaussian = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights = (gaussian / gaussian.sum()).expand(channels, 1, 1, side)

    def local_mean(images: Tensor) -> Tensor:
        across: Tensor = F.conv2d(images, weights, groups=channels)
        return F.conv2d(across, weights.transpose(2, 3), groups=channels)

    a, b = a_NCHW.double(), b_NCHW.double()
    mean_a, mean_b = local_mean(a), local_mean(b)
    variances = local_mean(a.square()) - mean_a.square() + local_mean(b.square()) - mean_b.square()
    covariance = local_mean(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return (luminance * (2 * covariance + c2) / (variances + c2)).flatten(1).mean(1)


def colour_correlation(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Pearson correlation of the pixels of two pictures [N], the mean over the channels, in [-1, 1]; -1 is a negative.

    A channel that is flat in one of the two has no correlation and is left out; where all are, the value is NaN.
    """
    a, b = a_NCHW.double().flatten(2), b_NCHW.double().flatten(2)
    a, b = a - a.mean(2, keepdim=True), b - b.mean(2, keepdim=True)
    spread = a.norm(dim=2) * b.norm(dim=2)
    # A flat channel's own rounding must not pass for a spread.
    known = (a.abs().amax(2) > 1e-6) & (b.abs().amax(2) > 1e-6)
    each = torch.where(known, (a * b).sum(2) / spread.clamp(min=1e-12), torch.nan)
    return each.nanmean(1)


def feature_differences(a_ND: Tensor, b_ND: Tensor) -> Tensor:
    """Squared distance of two pictures' features brought to length 1, [N] in [0, 4]: 0 for equal directions.

    One layer of the distance of Zhang et al. 2018, arXiv:1801.03924, equation (1), without its learnt weights.
    """
    return (F.normalize(a_ND.double(), dim=1) - F.normalize(b_ND.double(), dim=1)).square().sum(1)


def power_spectrum(images_NCHW: Tensor) -> Tensor:
    """Sum [H, W] of the pictures' power spectra, each brought to sum 1; a flat picture adds nothing.

    Of the channels together, in the order of `torch.fft.fft2`; a Hann window keeps the borders out.
    """
    height, width = images_NCHW.shape[2:]
    images = images_NCHW.double()
    windows = [torch.hann_window(side, dtype=torch.float64, device=images.device) for side in (height, width)]
    centred = (images - images.mean((2, 3), keepdim=True)) * windows[0][:, None] * windows[1]
    power: Tensor = torch.fft.fft2(centred).abs().square().sum(1)
    return (power / power.sum((1, 2), keepdim=True).clamp(min=1e-12)).sum(0)


def stride_peaks(spectrum_HW: Tensor) -> Tensor:
    """How far a spectrum stands out at the 15 frequencies of what repeats every 2 or 4 pixels, [15]: 1 is not at all.

    Upsampling by strides leaves such patterns ("checkerboards": Odena et al. 2016, doi:10.23915/distill.00003) at the
    multiples of a quarter of a cycle per pixel (Zhang et al. 2019, arXiv:1907.06515). Each value is the mean power
    there over the mean power round it, which sharpness, blur and noise change alike. NaN where the spectrum is nought
    or a side is so short that nothing lies between. Hold it against the peaks of real pictures.
    """
    height, width = spectrum_HW.shape
    peaks = []
    for place in range(1, 16):
        rows = _frequency_distance(height, place // 4, like=spectrum_HW)
        columns = _frequency_distance(width, place % 4, like=spectrum_HW)
        away = torch.maximum(rows[:, None], columns)
        at, near = away <= PEAK_RADIUS, (away > PEAK_RADIUS) & (away <= 3 * PEAK_RADIUS)
        peaks.append(spectrum_HW[at].mean() / spectrum_HW[near].mean())
    return torch.stack(peaks)


def _frequency_distance(side: int, quarters: int, *, like: Tensor) -> Tensor:
    """How far the frequencies of a side are from so many quarters of a cycle per pixel, on the circle."""
    away = (torch.fft.fftfreq(side, dtype=like.dtype, device=like.device) - quarters / 4) % 1
    return torch.minimum(away, 1 - away)
