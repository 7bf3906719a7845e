"""Cheap signs of a training run's health: do the pictures still differ, are the training pictures known by heart?"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from limner.data import showcase_batch
from limner.guard import DIVERSITY, MEMORISED
from limner.methods import TrainingMethod
from limner.packing import PackedDataset
from limner.randomness import generator

PICTURES = 32
TINY = 1e-8


class HealthCheck:
    """Looks at few pictures, always the same real ones with always the same noise."""

    def __init__(self, method: TrainingMethod, packed: PackedDataset, *, seed: int, device: torch.device) -> None:
        self._method = method
        self._seed = seed
        look = partial(showcase_batch, packed, task=method.task, count=PICTURES, device=device)
        self._train = look(split="train")
        held_out = all(packed.split("validation", domain).count for domain in packed.domains)
        self._held_out = look(split="validation") if held_out else None
        self._device = device
        self._spread = spread(self._train.real.images, self._train.real.labels)

    @torch.no_grad()
    def __call__(self, product: nn.Module) -> dict[str, float]:
        """Signs by name. `product` is in evaluation mode; so is the discriminator while it is asked.

        signal/diversity: how much pictures of one class differ from each other, relative to the real ones.
        overfitting/r_v: E[C(train) - C(held out)] over E[C(train) - C(generated)], 1 where to the discriminator
        held-out pictures are as good as generated ones. Equation 1 of arXiv:2006.06676. Left out while the
        discriminator hardly tells real from generated ones: the quotient is chance then.
        """
        rng = generator(self._seed, "health", device=self._device)
        results = product(**self._method.product_inputs(self._train, rng))
        signs = {DIVERSITY: spread(results, self._train.asked) / (self._spread + TINY)}
        if self._held_out is not None:
            networks = self._method.networks
            networks.eval()
            real, held_out = self._method.realness(self._train), self._method.realness(self._held_out)
            fake = self._method.realness(self._train, results)
            networks.train()
            signs["logit/held_out"] = held_out.mean()
            gap = real.mean() - fake.mean()
            if gap > 2 * ((real.var() + fake.var()) / len(real)).sqrt():  # else it divides by nothing but chance
                signs[MEMORISED] = (real.mean() - held_out.mean()) / gap
        # A figure that is not finite is no figure: the guard hears of it from the step itself.
        return {name: float(value) for name, value in signs.items() if torch.isfinite(value)}


def spread(images: Tensor, labels: Tensor | None) -> Tensor:
    """Standard deviation of a pixel over images [N, C, H, W] of the same class, root mean square over pixels."""
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels.cpu()
    same = [images[(labels == label).to(images.device)] for label in torch.unique(labels)]
    variances = [group.float().var(0, unbiased=True).mean() for group in same if len(group) > 1]
    if not variances:  # a picture a class: then of all of them
        variances = [images.float().var(0, unbiased=True).mean()]
    return torch.stack(variances).mean().sqrt()
