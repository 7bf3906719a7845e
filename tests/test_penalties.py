"""Gradient penalties against closed forms."""

import pytest
import torch

from limner.penalties import zero_centred_gradient_penalty


def test_penalty_of_a_linear_function_is_its_squared_weights():
    weights = torch.randn(3, 4, 4, dtype=torch.float64)
    images = torch.randn(5, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    logits = (images * weights).sum((1, 2, 3))
    assert zero_centred_gradient_penalty(logits, images).item() == pytest.approx(
        weights.square().sum().item(), rel=1e-6
    )


def test_penalty_of_a_quadratic_is_the_mean_squared_image():
    images = torch.randn(5, 1, 4, 4, requires_grad=True)
    logits = 0.5 * images.square().sum((1, 2, 3))
    expected = images.detach().square().sum((1, 2, 3)).mean()
    assert zero_centred_gradient_penalty(logits, images).item() == pytest.approx(expected.item(), rel=1e-5)


def test_penalty_can_be_differentiated_again():
    scale = torch.tensor(3.0, requires_grad=True)
    images = torch.randn(2, 1, 2, 2, requires_grad=True)
    penalty = zero_centred_gradient_penalty((scale * images).sum((1, 2, 3)), images)  # scale^2 * 4
    (slope,) = torch.autograd.grad(penalty, scale)
    assert penalty.item() == pytest.approx(36.0)
    assert slope.item() == pytest.approx(24.0)
