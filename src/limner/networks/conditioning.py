"""How a class label enters a network."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ProjectionHead(nn.Module):
    """Features [N, D] -> logit [N]: a linear score, plus the features' product with the label's embedding.

    Projection discriminator, arXiv:1802.05637, equation 3. Without classes it is the linear score alone.
    """

    def __init__(self, features: int, classes: int, *, offset: bool = True) -> None:
        """Without `offset` the score has no bias: a relativistic loss could never train it."""
        super().__init__()
        self.score = nn.Linear(features, 1, bias=offset)
        self.embedding = nn.Embedding(classes, features) if classes else None
        if self.embedding is not None:
            # The product sums D terms: this keeps it at the size of the linear score at the start.
            nn.init.normal_(self.embedding.weight, std=features**-0.5)

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Logits [N], computed in float32: bfloat16 would round away the differences that the losses live on."""
        features = features.float()
        with torch.autocast(features.device.type, enabled=False):
            logit: Tensor = self.score(features).squeeze(1)
            if self.embedding is None or labels is None:
                return logit
            projection: Tensor = (features * self.embedding(labels)).sum(1)
            return logit + projection


class LabelledLatent(nn.Module):
    """Latent [N, Z] and labels [N] -> one vector [N, Z + E]: the latent beside an embedding of the label."""

    def __init__(self, latent: int, classes: int, embedding: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, embedding) if classes else None
        self.size = latent + (embedding if classes else 0)

    def forward(self, latent: Tensor, labels: Tensor | None) -> Tensor:
        """The generator's first input."""
        if self.embedding is None or labels is None:
            return latent
        return torch.cat([latent, self.embedding(labels)], dim=1)
