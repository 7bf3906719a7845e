"""Gradient penalties on the discriminator."""

from __future__ import annotations

import torch
from torch import Tensor


def zero_centred_gradient_penalty(logits: Tensor, images: Tensor) -> Tensor:
    """Mean squared norm of the gradient of logits [N] at the images [N, C, H, W] they were computed from.

    At real images this is R1, at generated ones R2 (arXiv:1801.04406, equations 9 and 10, there with a factor of half
    gamma). `images` must require gradients; the result can be differentiated again.
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.float().square().flatten(1).sum(1).mean()
