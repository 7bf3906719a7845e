"""The baseline of `benchmarks.train`: R3GAN's training as a careful user writes it in plain PyTorch from the paper.

Nothing of Limner is in the loop but the two networks. No straw man: gradients are taken where they are needed and
nowhere else, the discriminator's weights are frozen while the generator moves, gradients are set to None, the averages
are updated in one foreach call, nothing waits for the device, and real and fake pictures go through the discriminator
in one pass. As in the paper's published code, both turns look at the same real batch and each makes fakes of its own.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torch.utils.data import DataLoader

from benchmarks.training_recipe import Recipe

Batch = tuple[Tensor, Tensor]


class PlainLoop:
    """Steps of plain PyTorch: eager and single precision, unless `autocast` names a type."""

    def __init__(
        self,
        networks: nn.ModuleDict,
        recipe: Recipe,
        batches: Iterator[Batch],
        *,
        tuned: bool = False,
        autocast: torch.dtype = torch.float32,
        noise: Callable[[int], Tensor] | None = None,
    ) -> None:
        """`networks` has a generator and a discriminator, on their device; `tuned`: see `switches`, and fused Adam.

        `noise` draws latents [N, Z]; by default they are standard normal.
        """
        self.generator, self.discriminator = networks["generator"], networks["discriminator"]
        self.average = copy.deepcopy(self.generator).eval().requires_grad_(False)
        self.images_seen = 0
        self._recipe, self._batches, self._tuned, self._autocast = recipe, batches, tuned, autocast
        self._device = next(networks.parameters()).device
        self._noise = noise or (lambda count: torch.randn(count, recipe.latent, device=self._device))
        how = {"fused": True} if tuned else {"foreach": True}
        options = {"lr": recipe.learning_rate, "betas": (recipe.beta1, recipe.beta2), **how}
        self.generator_optimizer = torch.optim.Adam(self.generator.parameters(), **options)
        self.discriminator_optimizer = torch.optim.Adam(self.discriminator.parameters(), **options)

    def step(self) -> None:
        """One move of each player."""
        real, labels = next(self._batches)
        layout = torch.channels_last if self._tuned else torch.preserve_format
        real = real.to(self._device, non_blocking=True, memory_format=layout)
        labels = labels.to(self._device, non_blocking=True)
        self._move_discriminator(real, labels)
        self._move_generator(real, labels)
        self.images_seen += len(real)
        self._update_average(len(real))

    def _move_discriminator(self, real: Tensor, labels: Tensor) -> None:
        self.discriminator.requires_grad_(True)
        with self._precision():
            with torch.no_grad():
                fake = self.generator(self._noise(len(real)), labels)
            images = torch.cat([real, fake]).requires_grad_()
            logits = self.discriminator(images, labels.repeat(2))
        (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
        r1, r2 = slope.float().square().sum([1, 2, 3]).chunk(2)
        real_logits, fake_logits = logits.chunk(2)
        loss = F.softplus(fake_logits - real_logits).mean() + self._recipe.gamma / 2 * (r1.mean() + r2.mean())
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward(inputs=list(self.discriminator.parameters()))
        self.discriminator_optimizer.step()

    def _move_generator(self, real: Tensor, labels: Tensor) -> None:
        self.discriminator.requires_grad_(False)
        with self._precision():
            with torch.no_grad():
                real_logits = self.discriminator(real, labels)
            fake_logits = self.discriminator(self.generator(self._noise(len(real)), labels), labels)
        loss = F.softplus(real_logits - fake_logits).mean()
        self.generator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_optimizer.step()

    @torch.no_grad()
    def _update_average(self, batch: int) -> None:
        half_life = min(1000 * self._recipe.average_half_life_kimg, self._recipe.average_ramp * self.images_seen)
        weight = 1 - 0.5 ** (batch / half_life)
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), weight)

    def _precision(self) -> AbstractContextManager[object]:
        if self._autocast is torch.float32:
            return nullcontext()
        return torch.autocast(self._device.type, self._autocast)


def endless(loader: DataLoader[Batch]) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


def open_loader(
    folder: Path, recipe: Recipe, *, workers: int | None, tuned: bool, device: torch.device
) -> DataLoader[Batch]:
    """Shuffled batches of the PNG files in `folder`, in [-1, 1]. `workers`: None for one a core, at most 4."""
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import Compose, Normalize, ToTensor

    if workers is None:
        workers = min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    return DataLoader(
        ImageFolder(str(folder), Compose([ToTensor(), Normalize(0.5, 0.5)])),
        batch_size=recipe.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=tuned and workers > 0,
    )


@contextmanager
def switches() -> Iterator[None]:
    """PyTorch's own switches for speed, which belong to the whole process; TF32 in convolutions is on by itself."""
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
