"""Features -> numbers: how far a set of pictures is from a set of real ones. And how one picture differs from another.

Everything here is pure. What compares features computes in float64, because the differences of nearly equal moments are
what is measured; what compares pictures takes float images [N, C, H, W] in [0, 1] and gives one float64 a picture.
Shapes in names: N, M pictures; C channels; H, W sides; D features; K neighbours.
"""

# ruff: noqa: N803, N806 (shapes in names)

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError

_DISTANCES_AT_ONCE = 2**24
"""Entries of the distance matrix that are held in memory at one time (128 MiB)."""
SSIM_WINDOW, SSIM_SIGMA = 11, 1.5
HIGHEST_PSNR = 100.0
"""Decibels; what equal pictures get, whose ratio is infinite."""
PEAK_RADIUS = 1 / 32 + 1e-9
"""Cycles per pixel round a frequency that still count as its own; three times that is what lies round it."""


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of a stream of features, in one pass. The pieces may come in any order and any sizes."""

    count: int
    mean: Tensor
    """[D]"""
    scatter: Tensor
    """[D, D], the sum of (x - mean)(x - mean)^T: not yet divided by a count, so that merging loses nothing."""

    @classmethod
    def of(cls, features_ND: Tensor) -> Moments:
        """The moments of one piece of the stream, float [N, D]."""
        if features_ND.ndim != 2 or not len(features_ND):
            raise LimnerError(f"Moments need features of shape [N, D] with N > 0, not {list(features_ND.shape)}.")
        features = features_ND.double()
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def update(self, features_ND: Tensor) -> Moments:
        """These moments with one more piece of the stream."""
        return self.merge(Moments.of(features_ND))

    def merge(self, other: Moments) -> Moments:
        """The moments of both streams together. Pairwise update of Chan, Golub & LeVeque 1983."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        between = torch.outer(shift, shift) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    def covariance(self) -> Tensor:
        """The unbiased covariance [D, D] (divided by N - 1). Raises LimnerError for fewer than two pictures."""
        if self.count < 2:
            raise LimnerError("A covariance needs at least two pictures.", fix="Give more pictures.")
        return self.scatter / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)); >= 0, 0 for equal ones.

    Heusel et al. 2017, arXiv:1706.08500, equation (6); unbiased covariances. S1 S2 has the eigenvalues of the symmetric
    S1^(1/2) S2 S1^(1/2), which `eigvalsh` finds without the complex numbers of a general matrix root.
    """
    covariance_a, covariance_b = a.covariance(), b.covariance()
    values, vectors = torch.linalg.eigh(covariance_a)
    root_a = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # rounding makes zero eigenvalues slightly negative
    product = root_a @ covariance_b @ root_a
    cross = torch.linalg.eigvalsh((product + product.T) / 2).clamp(min=0).sqrt().sum()
    shift = (a.mean - b.mean).square().sum()
    return max(0.0, float(shift + covariance_a.trace() + covariance_b.trace() - 2 * cross))


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


# -- a picture against a picture --------------------------------------------------------------------------------------


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


def _chunks(rows_ND: Tensor, columns: int) -> tuple[Tensor, ...]:
    return torch.split(rows_ND, max(1, _DISTANCES_AT_ONCE // max(1, columns)))


def _distances(a_ND: Tensor, b_MD: Tensor) -> Tensor:
    # The matrix-product form is many times faster; in float64 it costs about 1e-7 of the features' norm. Named here
    # because the default changes its form, and so its rounding, with the number of rows.
    return torch.cdist(a_ND.double(), b_MD.double(), compute_mode="use_mm_for_euclid_dist")
