"""Gradient penalties against closed forms."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from limner.penalties import (
    finite_difference_penalty,
    interpolated_gradient_penalty,
    squared_gradient_norm_estimates,
    squared_gradient_norms,
    zero_centred_gradient_penalty,
)


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


def test_each_image_has_a_penalty_of_its_own():
    images = torch.randn(5, 1, 4, 4, requires_grad=True)
    logits = 0.5 * images.square().sum((1, 2, 3))
    torch.testing.assert_close(squared_gradient_norms(logits, images), images.detach().square().sum((1, 2, 3)))


# -- WGAN-GP ----------------------------------------------------------------------------------------------------------


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def test_interpolated_penalty_of_a_linear_function_is_its_distance_from_slope_one():
    weights = torch.randn(3, 4, 4, dtype=torch.float64, generator=rng())
    real, fake = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64, generator=rng(1))
    penalty = interpolated_gradient_penalty(lambda images: (images * weights).sum((1, 2, 3)), real, fake, rng())
    assert penalty.item() == pytest.approx((weights.norm().item() - 1) ** 2, rel=1e-6)


def test_interpolated_penalty_is_taken_evenly_between_real_and_fake():
    # C = ||x||^2 / 2 has gradient x; with real = c and fake = 0 that is u c, u uniform: E (u |c| - 1)^2 in closed form
    count, norm = 20_000, 3.0
    real = torch.zeros(count, 1, 2, 2)
    real[:, 0, 0, 1] = norm
    penalty = interpolated_gradient_penalty(
        lambda images: images.square().sum((1, 2, 3)) / 2, real, torch.zeros_like(real), rng()
    )
    assert penalty.item() == pytest.approx(norm**2 / 3 - norm + 1, rel=0.02)


def test_interpolated_points_lie_on_the_lines_between_paired_images():
    real, fake = torch.randn(2, 64, 1, 2, 2, generator=rng())
    seen = []
    interpolated_gradient_penalty(lambda images: (seen.append(images), images.sum((1, 2, 3)))[1], real, fake, rng())
    shares = ((seen[0] - fake) / (real - fake)).flatten(1)
    torch.testing.assert_close(shares, shares[:, :1].expand_as(shares), rtol=1e-3, atol=1e-4)
    assert shares[:, 0].unique().numel() == 64, "every image has a point of its own"
    assert shares.min() > -1e-4
    assert shares.max() < 1 + 1e-4


def test_interpolated_penalty_trains_the_discriminator_and_nobody_else():
    scale = torch.tensor(3.0, requires_grad=True)
    real, fake = (torch.randn(4, 1, 2, 2, requires_grad=True) for _ in range(2))
    penalty = interpolated_gradient_penalty(lambda images: (scale * images).sum((1, 2, 3)), real, fake, rng())
    (slope,) = torch.autograd.grad(penalty, scale, retain_graph=True)
    assert penalty.item() == pytest.approx((2 * 3 - 1) ** 2)  # the norm is scale * sqrt(4)
    assert slope.item() == pytest.approx(2 * (2 * 3 - 1) * 2)
    curved = interpolated_gradient_penalty(lambda images: (scale * images**2).sum((1, 2, 3)), real, fake, rng())
    assert torch.autograd.grad(curved, (real, fake), allow_unused=True) == (None, None)


def test_interpolated_penalty_of_a_flat_discriminator_has_a_finite_gradient():
    scale = torch.tensor(0.0, requires_grad=True)
    real, fake = torch.randn(2, 4, 1, 2, 2)
    penalty = interpolated_gradient_penalty(lambda images: (scale * images).sum((1, 2, 3)), real, fake, rng())
    (slope,) = torch.autograd.grad(penalty, scale)
    assert penalty.item() == 1.0
    assert torch.isfinite(slope)


# -- finite differences -----------------------------------------------------------------------------------------------


def test_finite_difference_of_a_linear_function_is_its_squared_weights_in_expectation():
    weights = torch.randn(3, 2, 2, dtype=torch.float64, generator=rng())
    images = torch.randn(1, 3, 2, 2, dtype=torch.float64, generator=rng(1)).expand(200_000, -1, -1, -1)
    penalty = finite_difference_penalty(lambda images: (images * weights).sum((1, 2, 3)), images, rng(2))
    assert penalty.item() == pytest.approx(weights.square().sum().item(), rel=0.01)  # standard error: 0.3 %


def test_finite_difference_is_off_by_the_square_of_sigma():
    # C = ||x||^2 / 2 in D dimensions: E (x.n + sigma ||n||^2 / 2)^2 = ||x||^2 + sigma^2 (D^2 + 2 D) / 4
    images = torch.randn(1, 1, 2, 3, dtype=torch.float64, generator=rng()).expand(400_000, -1, -1, -1)
    exact = images[0].square().sum().item()
    for sigma in (0.01, 0.5):
        penalty = finite_difference_penalty(
            lambda images: images.square().sum((1, 2, 3)) / 2, images, rng(1), sigma=sigma
        )
        assert penalty.item() == pytest.approx(exact + sigma**2 * (6**2 + 2 * 6) / 4, rel=0.015)


def test_each_image_has_an_estimate_of_its_own():
    scale = torch.tensor([0.0, 1.0, 2.0]).view(3, 1, 1, 1)
    each = squared_gradient_norm_estimates(
        lambda images: (scale * images).sum((1, 2, 3)), torch.randn(3, 1, 2, 2), rng()
    )
    noise = torch.randn(3, 1, 2, 2, generator=rng())
    torch.testing.assert_close(each, (scale * noise).sum((1, 2, 3)).square(), rtol=1e-3, atol=1e-3)


def small_network(dtype):
    torch.manual_seed(0)
    layers = (nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(36, 4), nn.Softplus())
    return nn.Sequential(*layers, nn.Linear(4, 1)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_finite_difference_agrees_with_the_exact_penalty_and_so_do_the_gradients_of_the_weights(dtype):
    network = small_network(dtype)
    parameters = [p for p in network.parameters() if p is not network[-1].bias]
    pictures = torch.randn(50, 1, 6, 6, dtype=dtype, generator=rng())

    def judge(images):
        return network(images).squeeze(1)

    once = pictures.clone().requires_grad_()
    exact = zero_centred_gradient_penalty(judge(once), once)
    estimate = finite_difference_penalty(judge, pictures.repeat(4000, 1, 1, 1), rng(1))
    assert estimate.item() == pytest.approx(exact.item(), rel=0.02)  # standard error: about 0.4 %
    slopes = [
        torch.cat([slope.flatten() for slope in torch.autograd.grad(penalty, parameters)])
        for penalty in (exact, estimate)
    ]
    assert (slopes[1] - slopes[0]).norm() < 0.02 * slopes[0].norm()


def test_finite_difference_runs_in_float32_under_autocast():
    network, images, seen = small_network(torch.float32), torch.randn(64, 1, 6, 6, generator=rng()), []

    def judge(images):
        logits = network(images).squeeze(1)
        seen.append(logits.dtype)
        return logits

    plain = finite_difference_penalty(judge, images, rng(1))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = judge(images).float()
        assert seen.pop() is torch.bfloat16
        mixed = finite_difference_penalty(judge, images, rng(1))
        given = finite_difference_penalty(judge, images, rng(1), logits=rounded)
    assert set(seen) == {torch.float32}
    assert mixed.item() == given.item() == plain.item()
    naive = (
        (judge(images) - rounded).div(0.01).square().mean()
    )  # what rounding alone would add, with the images unmoved
    assert naive > 0.02 * plain


def test_finite_difference_takes_logits_that_are_at_hand_and_leaves_the_images_alone():
    images, calls = torch.randn(8, 1, 2, 2, generator=rng(), requires_grad=True), []

    def judge(images):
        calls.append(images)
        return images.square().sum((1, 2, 3))

    whole = finite_difference_penalty(judge, images, rng(1))
    assert len(calls) == 2
    with_logits = finite_difference_penalty(judge, images, rng(1), logits=judge(images).detach())
    assert len(calls) == 4
    assert with_logits.item() == whole.item()
    assert not any(each.requires_grad for each in calls[:2])


def test_finite_difference_sees_one_and_the_same_spectral_norm_twice():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), spectral_norm(nn.Linear(36, 30)), nn.Tanh(), spectral_norm(nn.Linear(30, 1)))
    images, layer = torch.randn(4, 1, 6, 6, generator=rng()), network[1].parametrizations.weight
    with torch.no_grad():
        layer.original.normal_()  # far from what the estimate of its norm was made of, as after a step

        def penalty():
            return finite_difference_penalty(lambda images: network(images).squeeze(1), images, rng(1)).item()

        training = penalty()
        network.eval()  # keeps the estimate that the call in training ended with
        assert training == pytest.approx(penalty(), rel=1e-3)
