"""Differentiable augmentation: what a discriminator sees instead of the images, real and fake alike.

Two pipelines. DiffAugment (arXiv:2006.10738) changes every picture. That of adaptive discriminator augmentation, ADA
(arXiv:2006.06676, section 2.2 and appendix B), does each operation with a probability: the strength, which a schedule
gives (R3GAN, arXiv:2501.05441) or a controller finds. Images are float tensors [N, C, H, W] in [-1, 1], H and W of any
size. Of 3 or 4 channels the first three are RGB; a fourth (alpha, a mask) goes along in space but keeps its values.

Randomness comes from `rng`, on the images' device, each picture with its own draws. Nothing waits for the device, and
the arithmetic is in single precision (double for double images) whatever autocast says. Gradients of any order flow to
the images, none to the strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from limner.distort import (
    Operations,
    changes_nothing,
    cut_out,
    jitter,
    recolour,
    sample_colour,
    sample_geometry,
    translate,
    warp,
)
from limner.schedules import Ramp, Within, value_at
from limner.strict import Settings

Policy = Literal["color", "translation", "cutout"]
StrengthSchedule = Annotated[float | Ramp, Within(ge=0, le=1)]


class DiffAugmentSettings(Settings):
    """DiffAugment: every picture is changed."""

    name: Literal["diffaugment"]
    policies: list[Policy] = Field(["color", "translation", "cutout"], min_length=1, description="done in this order")


class ScheduledAugmentSettings(Settings):
    """The pipeline of ADA at a strength that depends on the progress of the run only."""

    name: Literal["scheduled"]
    strength: StrengthSchedule = Field(Ramp(start=0.0, end=0.55), description="probability of an operation")
    operations: Operations = Operations()


class AdaptiveAugmentSettings(Settings):
    """ADA: strength rises while the discriminator overfits. Defaults: arXiv:2006.06676 (blit, geometry, colour)."""

    name: Literal["adaptive"]
    target: float = Field(0.6, gt=-1, lt=1, description="mean sign of real logits above which strength rises")
    ramp_kimg: float = Field(500.0, gt=0, description="real images in which strength can go from 0 to 1, thousands")
    interval: int = Field(4, ge=1, description="strength moves every so many batches")
    operations: Operations = Operations(color=1.0, cutout=0.0)


AugmentSettings = Annotated[
    DiffAugmentSettings | ScheduledAugmentSettings | AdaptiveAugmentSettings, Field(discriminator="name")
]


# -- what a method holds ----------------------------------------------------------------------------------------------


class Augmentation(nn.Module):
    """Shows images as they are. What the others do differently is said in their own words.

    It belongs in a method's `networks`: what an augmentation has learnt is in its buffers. It has no parameters.
    """

    _one: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("_one", torch.ones(()), persistent=False)  # knows the device

    def forward(self, images: Tensor, rng: Generator, progress: float) -> Tensor:
        """Images as the discriminator shall see them: same shape, dtype and memory format. Progress is in [0, 1]."""
        del rng, progress
        return images

    def observe(self, real_score_signs: Tensor) -> None:
        """Take in the signs [N] of the discriminator's logits C(x) of real images, of all ranks.

        Where only differences of logits count (a relativistic loss), they are those of C(x) - C(G(z)).
        """

    def strength(self, progress: float) -> Tensor:
        """Probability of an operation, for the journal: a scalar on the module's device."""
        del progress
        return self._one * 0


class DiffAugmentation(Augmentation):
    """DiffAugment (arXiv:2006.10738), the same all the time."""

    def __init__(self, settings: DiffAugmentSettings) -> None:
        super().__init__()
        self._policies = settings.policies

    def forward(self, images: Tensor, rng: Generator, progress: float) -> Tensor:
        """See `diff_augment`."""
        del progress
        return diff_augment(images, self._policies, rng)

    def strength(self, progress: float) -> Tensor:
        """Always 1."""
        del progress
        return self._one.clone()


class ScheduledAugmentation(Augmentation):
    """The pipeline of ADA, with a strength that the progress gives."""

    def __init__(self, settings: ScheduledAugmentSettings) -> None:
        super().__init__()
        self._settings = settings

    def forward(self, images: Tensor, rng: Generator, progress: float) -> Tensor:
        """See `ada_augment`."""
        return ada_augment(images, value_at(self._settings.strength, progress), self._settings.operations, rng=rng)

    def strength(self, progress: float) -> Tensor:
        """The schedule's value."""
        return self._one * value_at(self._settings.strength, progress)


class AdaptiveAugmentation(Augmentation):
    """The pipeline of ADA with its controller (arXiv:2006.06676, section 3), which never waits for the device.

    Every `interval` batches of n real images in all, strength moves by sign(r - target) n / ramp and stays in [0, 1].
    r is the mean sign of their logits, the paper's r_t (equation 1): near 1, the discriminator knows the real images.
    """

    probability: Tensor
    sign_sum: Tensor
    images: Tensor
    batches: Tensor

    def __init__(self, settings: AdaptiveAugmentSettings) -> None:
        super().__init__()
        self._settings = settings
        for name in ("probability", "sign_sum", "images", "batches"):
            self.register_buffer(name, torch.zeros(()))

    def forward(self, images: Tensor, rng: Generator, progress: float) -> Tensor:
        """See `ada_augment`."""
        del progress
        return ada_augment(images, self.probability, self._settings.operations, rng=rng)

    @torch.no_grad()
    def observe(self, real_score_signs: Tensor) -> None:
        """Count a batch, and move if it is time. A sign that is not finite tells nothing and is left out."""
        signs = real_score_signs.float()
        known = signs.isfinite()
        self.sign_sum += signs.where(known, 0).sum()
        self.images += known.sum()
        self.batches += 1
        due = self.batches >= self._settings.interval
        direction = torch.sign(self.sign_sum - self._settings.target * self.images)
        move = direction * self.images / (1000 * self._settings.ramp_kimg)
        self.probability.add_(move * due).clamp_(0, 1)
        for tally in (self.sign_sum, self.images, self.batches):
            tally.mul_(~due)

    def strength(self, progress: float) -> Tensor:
        """Where the controller is."""
        del progress
        return self.probability.clone()


def build_augmentation(settings: AugmentSettings | None) -> Augmentation:
    """The augmentation that the settings ask for; None: images are shown as they are."""
    match settings:
        case DiffAugmentSettings():
            return DiffAugmentation(settings)
        case ScheduledAugmentSettings():
            return ScheduledAugmentation(settings)
        case AdaptiveAugmentSettings():
            return AdaptiveAugmentation(settings)
    return Augmentation()


# -- the two pipelines ------------------------------------------------------------------------------------------------


def diff_augment(images: Tensor, policies: Sequence[Policy], rng: Generator) -> Tensor:
    """Images [N, C, H, W] changed by each policy in turn (`limner.distort`): DiffAugment, arXiv:2006.10738."""
    with torch.autocast(images.device.type, enabled=False):
        result = _precise(images)
        for policy in policies:
            if policy == "color":
                result = jitter(result, rng=rng)
            elif policy == "translation":
                result = translate(result, rng=rng)
            else:
                result = cut_out(result, 1.0, rng=rng)
        return _in_form_of(images, result)


def ada_augment(images: Tensor, strength: Tensor | float, operations: Operations, *, rng: Generator) -> Tensor:
    """Images [N, C, H, W], each operation done with probability strength x its share: ADA, arXiv:2006.06676.

    `strength`, a number or a scalar tensor, is in [0, 1]; at 0 the images come back bit for bit. Flips, turns, zooms
    and moves are one affine map, sampled once, bilinearly, from the picture mirrored at its edges; colours are one
    matrix. Left out of the paper's pipeline: the wavelet filters round the warp (ours softens a little, and aliases
    where it shrinks), the image-space filters and the noise.
    """
    with torch.autocast(images.device.type, enabled=False):
        result = _precise(images)
        if operations.geometric:
            linear, offset = sample_geometry(images, strength, operations, rng=rng)
            warped = warp(result, linear, offset, mode="bilinear", padding="reflection")
            result = torch.where(changes_nothing(linear, offset), result, warped)  # interpolation would round
        if operations.color:
            linear, offset = sample_colour(images, strength * operations.color, rng=rng)
            result = recolour(result, linear, offset)
        if operations.cutout:
            result = cut_out(result, strength * operations.cutout, rng=rng)
        return _in_form_of(images, result)


def _precise(images: Tensor) -> Tensor:
    return images.to(torch.promote_types(images.dtype, torch.float32))


def _in_form_of(images: Tensor, result: Tensor) -> Tensor:
    result = result.to(images.dtype)
    if images.is_contiguous(memory_format=torch.channels_last):
        return result.contiguous(memory_format=torch.channels_last)
    return result.contiguous()
