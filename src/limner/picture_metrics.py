"""How one picture differs from another, and what its spectrum says of it.

Everything here is pure: float images [N, C, H, W] in [0, 1] in, one float64 a picture out. Shapes in names: N pictures;
C channels; H, W sides; D features.
"""

# ruff: noqa: N803 (shapes in names)

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError

SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
MULTI_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the scales of multi-scale structural similarity, the finest first."""
SMALLEST_MULTI_SCALE_SIDE = SSIM_WINDOW * 2 ** (len(MULTI_SCALE_WEIGHTS) - 1)
"""Pixels; below it the window does not fit the coarsest scale."""
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
    brightness, structure = _similarities(a_NCHW.double(), b_NCHW.double())
    return (brightness * structure).flatten(1).mean(1)


def multi_scale_structural_similarity(a_NCHW: Tensor, b_NCHW: Tensor) -> Tensor:
    """Structural similarity of two pictures at five scales together [N], in [0, 1]: 1 for equal ones.

    Wang et al. 2003, doi:10.1109/ACSSC.2003.1292216, equation (7) with the weights of its section 3.2: contrast and
    structure at every scale, brightness at the coarsest only, each scale the mean of the one before over 2 x 2 pixels.
    A scale whose pictures are negatives of each other counts as 0, since a negative number has no such root. Raises
    LimnerError for a side below SMALLEST_MULTI_SCALE_SIDE, where the window does not fit the coarsest scale: with fewer
    scales or a smaller window it would be another measure by the same name.
    """
    if min(a_NCHW.shape[2:]) < SMALLEST_MULTI_SCALE_SIDE:
        raise LimnerError(
            f"Multi-scale structural similarity needs pictures of at least {SMALLEST_MULTI_SCALE_SIDE} pixels a side, "
            f"not {a_NCHW.shape[2]} x {a_NCHW.shape[3]}.",
            fix="Use structural similarity, which is for pictures of any size.",
        )
    a, b = a_NCHW.double(), b_NCHW.double()
    product = a.new_ones(len(a))
    for scale, weight in enumerate(MULTI_SCALE_WEIGHTS):
        if scale:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
        brightness, structure = _similarities(a, b)
        at_scale = brightness * structure if scale == len(MULTI_SCALE_WEIGHTS) - 1 else structure
        product *= at_scale.flatten(1).mean(1).clamp(min=0) ** weight
    return product


def _similarities(a_NCHW: Tensor, b_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """How alike two pictures are round every place: in brightness, and in contrast and structure together."""
    channels, height, width = a_NCHW.shape[1:]
    side = ssim_window(height, width)
    offsets = torch.arange(side, dtype=torch.float64, device=a_NCHW.device) - side // 2
    gaussian = torch.exp(-offsets.square() / (2 * SSIM_SIGMA**2))
    weights = (gaussian / gaussian.sum()).expand(channels, 1, 1, side)

    def local_mean(images: Tensor) -> Tensor:
        across: Tensor = F.conv2d(images, weights, groups=channels)
        return F.conv2d(across, weights.transpose(2, 3), groups=channels)

    mean_a, mean_b = local_mean(a_NCHW), local_mean(b_NCHW)
    variances = local_mean(a_NCHW.square()) - mean_a.square() + local_mean(b_NCHW.square()) - mean_b.square()
    covariance = local_mean(a_NCHW * b_NCHW) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    brightness = (2 * mean_a * mean_b + c1) / (mean_a.square() + mean_b.square() + c1)
    return brightness, (2 * covariance + c2) / (variances + c2)


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


def perceptual_difference(stages_a: Sequence[Tensor], stages_b: Sequence[Tensor]) -> Tensor:
    """How differently a network sees two pictures [N], in [0, 4]: 0 for equal ones, 2 where nothing is in common.

    Each stage's features [N, C, H, W] are brought to length 1 over the channels at each place; squared differences are
    summed over channels, then the mean over places and over stages. The form of Zhang et al. 2018, arXiv:1801.03924,
    equation (1), without its learnt weights, so the values are not those of LPIPS. Raises LimnerError where the two
    sides' stages are not of the same shapes.
    """
    shapes = [[list(stage.shape) for stage in stages] for stages in (stages_a, stages_b)]
    if not shapes[0] or shapes[0] != shapes[1]:
        raise LimnerError(f"A perceptual difference needs the same stages of both pictures, not {shapes}.")
    each = [
        (F.normalize(a.double(), dim=1) - F.normalize(b.double(), dim=1)).square().sum(1).flatten(1).mean(1)
        for a, b in zip(stages_a, stages_b, strict=True)
    ]
    return torch.stack(each).mean(0)


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
