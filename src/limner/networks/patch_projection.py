"""The projection of PatchNCE: places of feature maps -> unit vectors to compare (arXiv:2007.15651, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.networks.initial_weights import begin_steady

SHORTEST = 0.01
"""A vector shorter than this keeps a length below 1: of a mid-grey pixel, whose direction says nothing."""


class PatchProjection(nn.Module):
    """For each feature layer two linear layers with a ReLU between, to vectors of length 1.

    All are made here, from the layers' channels: before any batch, so that they are in every optimiser and checkpoint.
    """

    def __init__(self, channels: Sequence[int], *, width: int = 256) -> None:
        """`channels` of each layer, see `Translator.feature_channels`; `width` of the vectors.

        The authors' code begins with 0.02 of Glorot's weights. Vectors are so short then that to bring them to length 1
        makes gradients of ten thousands, and Adam's steps after such a one are as large as the weights.
        """
        super().__init__()
        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(count, width), nn.ReLU(), nn.Linear(width, width)) for count in channels
        )
        begin_steady(self)

    def sample(
        self, features: Sequence[Tensor], count: int, rng: Generator, *, places: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features [N, C, H, W] of each layer -> vectors [N, P, width] at P places of each, and the places [P].

        P is `count`, or all H * W places where there are fewer, in a random order drawn on the features' device; all
        images of a batch share them. Given the `places` of another call, those are used: of the same places the
        vectors of two pictures are query and key, and nothing is drawn.
        """
        if places is None:
            places = [_draw(layer, count, rng) for layer in features]
        vectors = []
        for head, layer, chosen in zip(self.heads, features, places, strict=True):
            # As a network in channels_last makes them, the map is such a list of places already: nothing is copied.
            patches = layer.permute(0, 2, 3, 1).flatten(1, 2).index_select(1, chosen)
            vectors.append(F.normalize(head(patches).float(), dim=2, eps=SHORTEST))
        return vectors, list(places)


def _draw(layer: Tensor, count: int, rng: Generator) -> Tensor:
    there = layer.shape[2] * layer.shape[3]
    return torch.rand(there, generator=rng, device=layer.device).topk(min(count, there)).indices
