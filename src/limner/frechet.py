"""How far two sets of pictures are from each other as two Gaussians of their features: the Frechet distance.

Pure, and in float64, because the differences of nearly equal moments are what is measured. Shapes in names: N pictures;
D features.
"""

# ruff: noqa: N803 (shapes in names)

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from limner.errors import LimnerError

_SHORT = 0.75
"""Rows per feature up to which the singular values of two factors are found sooner than eigenvalues [D, D]; measured
at D = 2,048, where 0.5 takes a quarter of their time, 0.75 as much, and 1 two and a half times as much."""
_TOLERANCE = 1e-5
"""What rounding to float32 may do to a covariance, as a share of its size: more is no covariance."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and scatter of a stream of features, in one pass. The pieces may come in any order and any sizes.

    Never holds more than [D, D] numbers. Few pictures are held themselves: their scatter would not have a full rank,
    and rounding could not be told from its missing directions.
    """

    count: int
    mean: Tensor
    """[D]"""
    held: Tensor
    """The features [N, D] while N <= D, else the scatter [D, D]."""

    @classmethod
    def of(cls, features_ND: Tensor) -> Moments:
        """The moments of one piece of the stream, float [N, D]."""
        if features_ND.ndim != 2 or not features_ND.numel():
            raise LimnerError(f"Moments need features of shape [N, D] with N, D > 0, not {list(features_ND.shape)}.")
        features = features_ND.double()
        mean, (count, dims) = features.mean(0), features.shape
        return cls(count, mean, features if count <= dims else _scatter(features, mean))

    @property
    def rows(self) -> Tensor | None:
        """The features [N, D] while N <= D."""
        return self.held if self.count <= len(self.mean) else None

    @property
    def scatter(self) -> Tensor:
        """[D, D], the sum of (x - mean)(x - mean)^T: not yet divided by a count, so that merging loses nothing."""
        return self.held if self.rows is None else _scatter(self.rows, self.mean)

    def update(self, features_ND: Tensor) -> Moments:
        """These moments with one more piece of the stream."""
        return self.merge(Moments.of(features_ND))

    def merge(self, other: Moments) -> Moments:
        """The moments of both streams together. Pairwise update of Chan, Golub & LeVeque 1983."""
        count = self.count + other.count
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        if count <= len(mean):
            return Moments(count, mean, torch.cat([self.held, other.held]))
        between = self.count * other.count / count
        return Moments(count, mean, torch.addr(self.scatter + other.scatter, shift, shift, alpha=between))

    def covariance(self, *, correction: int = 1) -> Tensor:
        """[D, D], divided by N - correction: 1 unbiased, 0 biased. Raises LimnerError for fewer than two pictures."""
        return self.scatter / self._divisor(correction)

    def gaussian(self, *, correction: int = 1) -> Gaussian:
        """The Gaussian with these moments; `correction` as in `covariance`. Raises LimnerError for features of NaN."""
        divisor = self._divisor(correction)
        if not self.mean.isfinite().all():
            raise LimnerError("The features of the pictures hold numbers that are not finite.")
        if self.rows is None:
            return Gaussian(self.mean, None, self.scatter / divisor)
        return Gaussian(self.mean, (self.rows - self.mean) / math.sqrt(divisor))

    def _divisor(self, correction: int) -> int:
        if self.count < 2:
            raise LimnerError("A covariance needs at least two pictures.", fix="Give more pictures.")
        return self.count - correction


def _scatter(features_ND: Tensor, mean: Tensor) -> Tensor:
    centred = features_ND - mean
    return centred.T @ centred


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A mean [D] and a covariance [D, D], with what is slow to find of them found once."""

    mean: Tensor
    rows: Tensor | None
    """F [N, D] with F^T F the covariance, where there are so few pictures that it has no full rank."""
    _covariance: Tensor | None = field(default=None, repr=False)
    _root: Tensor | None = field(default=None, repr=False)

    def with_root(self, root: Tensor) -> Gaussian:
        """The same with its root [D, D], found at another time."""
        return replace(self, _root=root)

    @classmethod
    def of_statistics(cls, mean: Tensor, covariance: Tensor) -> Gaussian:
        """From numbers that somebody else made. Raises LimnerError where they cannot be a mean and a covariance."""
        mean, covariance = (torch.as_tensor(part, dtype=torch.float64) for part in (mean, covariance))
        if mean.ndim != 1 or not len(mean) or covariance.shape != (len(mean), len(mean)):
            raise LimnerError(
                "Statistics are a mean [D] and a covariance [D, D], "
                f"not {list(mean.shape)} and {list(covariance.shape)}."
            )
        if not (mean.isfinite().all() and covariance.isfinite().all()):
            raise LimnerError("The statistics hold numbers that are not finite.")
        if (covariance - covariance.T).abs().max() > _TOLERANCE * covariance.abs().max():
            raise LimnerError("The statistics' covariance is not symmetric.")
        covariance = (covariance + covariance.T) / 2
        # A Cholesky factor exists as long as no eigenvalue is below minus what was added; it is the fastest to find.
        allowed = _TOLERANCE * covariance.trace().clamp(min=0) + torch.finfo(torch.float64).tiny
        if torch.linalg.cholesky_ex(covariance + allowed * torch.eye(len(mean)).to(covariance)).info:
            raise LimnerError("The statistics' covariance has negative eigenvalues, so it is none.")
        return cls(mean, None, covariance)

    @cached_property
    def covariance(self) -> Tensor:
        """F^T F, [D, D]."""
        if self._covariance is not None:
            return self._covariance
        assert self.rows is not None
        return self.rows.T @ self.rows

    @cached_property
    def root(self) -> Tensor:
        """The symmetric root R [D, D] of the covariance: R R is the covariance. Slower than all the rest together."""
        if self._root is not None:
            return self._root
        values, vectors = torch.linalg.eigh(self.covariance)
        root: Tensor = (vectors * values.clamp(min=0).sqrt()) @ vectors.T  # rounding makes zeros slightly negative
        return root

    @cached_property
    def total_variance(self) -> Tensor:
        """The trace of the covariance, a scalar."""
        return self.covariance.trace() if self.rows is None else self.rows.square().sum()


def frechet_distance(reference: Gaussian, judged: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians: |m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2)); >= 0, 0 for equal ones.

    Heusel et al. 2017, arXiv:1706.08500, equation (6). It is the same from either side, but `reference` keeps what is
    slow to find. Raises LimnerError for different numbers of features, and for numbers too large to reckon with.
    """
    if reference.mean.shape != judged.mean.shape:
        raise LimnerError(
            f"Sets of {len(reference.mean)} and of {len(judged.mean)} features have no distance.",
            fix="Take both from the same extractor.",
        )
    shift = (reference.mean - judged.mean).square().sum()
    traces = reference.total_variance + judged.total_variance
    try:
        distance = float(shift + traces - 2 * _trace_of_root(reference, judged))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of a matrix that holds infinity
        distance = math.nan
    if not math.isfinite(distance):
        raise LimnerError("The features or statistics are too large for a Frechet distance.")
    return max(0.0, distance)


def _trace_of_root(a: Gaussian, b: Gaussian) -> Tensor:
    """Tr (S1 S2)^(1/2), without the complex numbers of a general matrix root.

    With S1 = F^T F, S1 S2 has the eigenvalues of the symmetric F S2 F^T, beside zeros; with S2 = G^T G as well, they
    are the squares of the singular values of F G^T, which are found without squaring the rounding.
    """
    if a.rows is not None and b.rows is not None and min(len(a.rows), len(b.rows)) <= _SHORT * len(a.mean):
        singular_values: Tensor = torch.linalg.svdvals(a.rows @ b.rows.T)
        return singular_values.sum()
    if b.rows is not None and (a.rows is None or len(b.rows) < len(a.rows)):
        a, b = b, a
    factor = a.root if a.rows is None else a.rows
    # Only the lower triangle is read, so that rounding cannot make it unsymmetric.
    squares: Tensor = torch.linalg.eigvalsh(factor @ b.covariance @ factor.T)
    return squares.clamp(min=0).sqrt().sum()


@dataclass(frozen=True)
class FrechetEstimate:
    """A Frechet distance, and what the number of pictures does to it."""

    value: float
    standard_error: float
    """Of the choice of the pictures, with the reference as given. In trials it was right to 1.5 times too large."""
    at_infinity: float
    """Where the distance would go with more and more pictures. May fall below 0, most of all with fewer than D."""


def estimate_frechet(groups: Sequence[Moments], reference: Gaussian, *, correction: int = 1) -> FrechetEstimate:
    """The distance of all groups' pictures together from the reference, its standard error, and its extrapolation.

    Every picture has to be in its group by chance; the groups may differ in size. The standard error is that of a
    jackknife over the groups to first order: from how much the distance changes as each group counts for more, which
    takes one decomposition and not a distance for each. The extrapolation is linear in 1 / N (Chong & Forsyth 2020,
    arXiv:1911.07023) from N pictures and the mean of two halves of them: 2 FID_N - FID_{N/2} where those are equal.
    """
    counts = [group.count for group in groups]
    total = sum(counts)
    # The split that leaves the halves most alike.
    middle = min(range(1, len(groups)), key=lambda k: abs(2 * sum(counts[:k]) - total), default=0)
    fewest = min(sum(counts[:middle]), sum(counts[middle:]), total - max(counts, default=0))
    if fewest < 2:
        raise LimnerError(
            "The error of a Frechet distance needs at least 4 pictures, in groups of which none holds nearly all; "
            f"not {total} in {len(groups)}.",
            fix="Give more pictures, or ask for the distance alone.",
        )
    halves = [reduce(Moments.merge, some) for some in (groups[:middle], groups[middle:])]
    whole = halves[0].merge(halves[1])
    judged = whole.gaussian(correction=correction)
    value = frechet_distance(reference, judged)
    distances = [frechet_distance(reference, half.gaussian(correction=correction)) for half in halves]
    slope = (sum(distances) / 2 - value) / (sum(1 / half.count for half in halves) / 2 - 1 / total)
    changes = _changes(groups, whole.mean, judged, reference)
    sizes = changes.new_tensor(counts)
    deviations = changes - sizes @ changes / total
    variance = sizes @ deviations.square() / (len(groups) - 1) / total
    error = float(f"{math.sqrt(float(variance)):.6g}")  # further digits hang on where in memory a matrix lies
    return FrechetEstimate(value, error, value - slope / total)


def _changes(groups: Sequence[Moments], mean: Tensor, judged: Gaussian, reference: Gaussian) -> Tensor:
    """The mean over each group of what a picture adds to the distance by counting for more, [groups].

    That is 2 (m2 - m1) . y + |y|^2 - y^T T y of a picture y from its mean m2, but for a constant. T is the optimal
    transport from S2 to S1, F^T (F S2 F^T)^(-1/2) F with S1 = F^T F: the gradient of Tr (S1 S2)^(1/2) is T / 2.
    """
    factor = reference.root if reference.rows is None else reference.rows
    squares, directions = torch.linalg.eigh(factor @ judged.covariance @ factor.T)
    # The pictures have nothing along the others, but for rounding.
    found = squares > len(squares) * torch.finfo(squares.dtype).eps * squares[-1]
    transport_root = factor.T @ (directions[:, found] / squares[found] ** 0.25)
    shift = 2 * (judged.mean - reference.mean)

    def change(group: Moments) -> float:
        if group.rows is None:
            covariance, away = group.scatter / group.count, group.mean - mean
            within = covariance.trace() - (transport_root * (covariance @ transport_root)).sum()
            return float(within + shift @ away + away @ away - (away @ transport_root).square().sum())
        rows = group.rows - mean
        spread = rows.square().sum() - (rows @ transport_root).square().sum()
        return float(shift @ rows.mean(0) + spread / group.count)

    return mean.new_tensor([change(group) for group in groups])
