"""Gradient penalties on the discriminator C. All are zero or more, and can be differentiated for its weights.

`discriminator` is a callable, images [N, C, H, W] -> logits [N]: where there are labels, it knows them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.utils import parametrize


def zero_centred_gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean of `squared_gradient_norms`: R1 at real images, R2 at generated ones."""
    return squared_gradient_norms(logits, images).mean()


def squared_gradient_norms(logits: Tensor, images: Tensor) -> Tensor:
    """Squared norm [N] of the gradient of each logit [N] at the image [N, C, H, W] it was computed from.

    Its mean is R1 at real images and R2 at generated ones (arXiv:1801.04406, equations 9 and 10, there with a factor
    of half gamma). `images` must require gradients; the result can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1)


def interpolated_gradient_penalty(
    discriminator: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, rng: Generator
) -> Tensor:
    """E (||grad C||_2 - 1)^2 at points drawn evenly from the lines between real and fake images [N, C, H, W].

    WGAN-GP, arXiv:1704.00028, equation 3, there with a factor of lambda = 10. Image n is paired with image n.
    """
    share = torch.rand(len(real), 1, 1, 1, generator=rng, device=real.device, dtype=real.dtype)
    images = torch.lerp(fake.detach(), real.detach(), share).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(images).sum(), images, create_graph=True)
    norm: Tensor = torch.linalg.vector_norm(gradient.float().flatten(1), dim=1)
    return (norm - 1).square().mean()


def finite_difference_penalty(
    discriminator: Callable[[Tensor], Tensor],
    images: Tensor,
    rng: Generator,
    *,
    sigma: float = 0.01,
    logits: Tensor | None = None,
) -> Tensor:
    """Mean of `squared_gradient_norm_estimates`: R1 or R2 without a second derivative."""
    return squared_gradient_norm_estimates(discriminator, images, rng, sigma=sigma, logits=logits).mean()


def squared_gradient_norm_estimates(
    discriminator: Callable[[Tensor], Tensor],
    images: Tensor,
    rng: Generator,
    *,
    sigma: float = 0.01,
    logits: Tensor | None = None,
) -> Tensor:
    """((C(x + sigma n) - C(x)) / sigma)^2 [N] at images x [N, C, H, W], with n standard normal.

    The approximated R1 of APT (arXiv:2501.08316), divided by sigma^2, which makes its expectation that of
    `squared_gradient_norms` up to O(sigma^2). It needs no second derivative, so it can be compiled; the price is noise:
    one image's value has a relative standard deviation of sqrt(2).

    Under autocast the discriminator runs in float32: bfloat16 rounds a logit by as much as it differs here. It must
    be the same function both times: no dropout, no batch normalisation. `logits`, if C(x) is at hand, has to be of
    the same weights and in float32 as well; under autocast it is not used but computed afresh.
    """
    images = images.detach()
    noise = torch.randn(images.shape, generator=rng, device=images.device, dtype=images.dtype)
    autocast = torch.is_autocast_enabled(images.device.type)
    # `cached` holds the weights that a parametrisation computes: spectral norm refines its estimate at every use.
    with torch.autocast(images.device.type, enabled=False), parametrize.cached():
        if logits is None or autocast:
            logits = discriminator(images)
        return ((discriminator(images + sigma * noise) - logits) / sigma).square()
