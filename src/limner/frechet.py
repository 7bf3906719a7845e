"""How far two sets of pictures are from each other as two Gaussians of their features: the Frechet distance.

Pure, and in float64, because the differences of nearly equal moments are what is measured. Shapes in names: N pictures;
D features.
"""

# ruff: noqa: N803 (shapes in names)

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limner.errors import LimnerError


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
