"""Every adversarial loss against its formula, computed by hand in numpy."""

import numpy as np
import pytest
import torch

from limner.losses import ADVERSARIAL

REAL = np.array([1.5, -0.3, 2.0, 0.0])
FAKE = np.array([-1.0, 0.4, 0.7, -3.0])


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def relu(x):
    return np.maximum(0, x)


DISCRIMINATOR = {
    # -E log D(x) - E log(1 - D(G(z))), with D the sigmoid of the logit
    "bce": -log_sigmoid(REAL).mean() - log_sigmoid(-FAKE).mean(),
    "bce-saturating": -log_sigmoid(REAL).mean() - log_sigmoid(-FAKE).mean(),
    "lsgan": 0.5 * ((REAL - 1) ** 2).mean() + 0.5 * (FAKE**2).mean(),
    "hinge": relu(1 - REAL).mean() + relu(1 + FAKE).mean(),
    "rpgan": -log_sigmoid(REAL - FAKE).mean(),
}
GENERATOR = {
    "bce": -log_sigmoid(FAKE).mean(),
    "bce-saturating": log_sigmoid(-FAKE).mean(),  # E log(1 - D(G(z)))
    "lsgan": 0.5 * ((FAKE - 1) ** 2).mean(),
    "hinge": -FAKE.mean(),
    "rpgan": -log_sigmoid(FAKE - REAL).mean(),
}


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_loss_equals_its_formula(name):
    real, fake = torch.from_numpy(REAL), torch.from_numpy(FAKE)
    assert ADVERSARIAL[name].discriminator(real, fake).item() == pytest.approx(DISCRIMINATOR[name], rel=1e-12)
    assert ADVERSARIAL[name].generator(real, fake).item() == pytest.approx(GENERATOR[name], rel=1e-12)


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_each_player_is_pushed_the_right_way(name):
    real = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    fake = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    real_slope, fake_slope = torch.autograd.grad(ADVERSARIAL[name].discriminator(real, fake), (real, fake))
    assert (real_slope < 0).all(), "descending has to raise the logits of real pictures"
    assert (fake_slope >= 0).all(), "and must not raise those of fake ones"
    (generator_slope,) = torch.autograd.grad(ADVERSARIAL[name].generator(real, fake), fake)
    assert (generator_slope < 0).all(), "the generator raises the logits of its fakes"


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_only_a_loss_that_says_so_looks_at_real_logits_in_the_generators_turn(name):
    loss, fake = ADVERSARIAL[name], torch.from_numpy(FAKE)
    changed = loss.generator(torch.from_numpy(REAL), fake) != loss.generator(torch.from_numpy(REAL) + 1, fake)
    assert bool(changed) == loss.relativistic


def test_saturating_loss_hardly_moves_a_generator_that_is_far_off():
    fake = torch.tensor([-10.0], requires_grad=True)
    (saturating,) = torch.autograd.grad(ADVERSARIAL["bce-saturating"].generator(fake, fake), fake)
    (non_saturating,) = torch.autograd.grad(ADVERSARIAL["bce"].generator(fake, fake), fake)
    assert saturating.abs() < 1e-4 < 0.99 < non_saturating.abs()


@pytest.mark.parametrize("name", ["bce", "bce-saturating", "rpgan"])
def test_huge_logits_give_a_finite_loss(name):
    huge = torch.tensor([1e4, -1e4])
    assert torch.isfinite(ADVERSARIAL[name].discriminator(huge, huge))
    assert torch.isfinite(ADVERSARIAL[name].generator(huge, huge))
