"""Cheap signs of a training run's health: do the pictures still differ, are the training pictures known by heart?"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from limner.data import crop as cut
from limner.data import showcase_batch
from limner.guard import DIVERSITY, MEMORISED
from limner.methods import TrainingMethod
from limner.packing import PackedDataset, SplitName
from limner.randomness import generator
from limner.tasks import Batch, Pictures

PICTURES, FEWEST = 32, 8
PIXELS = 2**19
"""Pixels of them all: of large pictures fewer are looked at, or looking would take longer than learning."""
TINY = 1e-8


class HealthCheck:
    """Looks at few pictures, always the same real ones with always the same noise."""

    def __init__(
        self, method: TrainingMethod, packed: PackedDataset, *, seed: int, crop: int = 0, device: torch.device
    ) -> None:
        """`crop` is the side of the squares that the networks see in training; 0: whole pictures."""
        self._method = method
        self._seed = seed
        self._device = device
        shape = packed.shape()
        count = min(PICTURES, max(FEWEST, PIXELS // (crop**2 or shape.height * shape.width)))

        def look(split: SplitName) -> Batch:
            batch = showcase_batch(packed, task=method.task, split=split, count=count, device=device)
            return _squares(batch, side=crop, seed=seed) if crop else batch

        self._train = look("train")
        held_out = all(packed.split("validation", domain).count for domain in packed.domains)
        self._held_out = look("validation") if held_out else None
        real, self._labels = self._train.real, self._train.asked
        if real.labels is None or self._labels is None:  # both by class, or neither
            real, self._labels = Pictures(real.images), None
        self._spread = spread(real.images, real.labels)

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
        signs = {DIVERSITY: spread(results, self._labels) / (self._spread + TINY)}
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


def _squares(batch: Batch, *, side: int, seed: int) -> Batch:
    """A square cut out of each of the batch's pictures; more, where they are few: there may be one a side."""
    if isinstance(batch, Pictures):
        device = batch.images.device
        chosen = torch.arange(max(len(batch.images), FEWEST), device=device) % len(batch.images)
        rng = generator(seed, "squares", device=device)
        images = cut(batch.images.permute(0, 2, 3, 1), chosen, side=side, rng=rng).permute(0, 3, 1, 2)
        return Pictures(images, None if batch.labels is None else batch.labels[chosen])
    # The same places on both sides, so that pairs stay pairs.
    source, target = (_squares(each, side=side, seed=seed) for each in (batch.source, batch.target))
    assert isinstance(source, Pictures)
    assert isinstance(target, Pictures)
    return replace(batch, source=source, target=target)


def spread(images: Tensor, labels: Tensor | None) -> Tensor:
    """Standard deviation of a pixel over images [N, C, H, W] of the same class, root mean square over pixels.

    Not a number for a single image.
    """
    if len(images) == 1:
        return images.new_full((), float("nan"))
    labels = torch.zeros(len(images), dtype=torch.int64) if labels is None else labels.cpu()
    same = [images[(labels == label).to(images.device)] for label in torch.unique(labels)]
    variances = [group.float().var(0, unbiased=True).mean() for group in same if len(group) > 1]
    if not variances:  # a picture a class: then of all of them
        variances = [images.float().var(0, unbiased=True).mean()]
    return torch.stack(variances).mean().sqrt()
