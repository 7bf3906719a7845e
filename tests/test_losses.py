"""Every adversarial loss, and LeCam regularisation, against its formula, computed by hand in numpy."""

import numpy as np
import pytest
import torch

from limner.losses import ADVERSARIAL, LogitAnchors, lecam_penalty

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
    "wgan": FAKE.mean() - REAL.mean(),
    "rpgan": -log_sigmoid(REAL - FAKE).mean(),
}
GENERATOR = {
    "bce": -log_sigmoid(FAKE).mean(),
    "bce-saturating": log_sigmoid(-FAKE).mean(),  # E log(1 - D(G(z)))
    "lsgan": 0.5 * ((FAKE - 1) ** 2).mean(),
    "hinge": -FAKE.mean(),
    "wgan": -FAKE.mean(),
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


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_an_offset_of_all_logits_changes_nothing_only_for_a_loss_that_says_so(name):
    loss, real, fake = ADVERSARIAL[name], torch.from_numpy(REAL), torch.from_numpy(FAKE)
    change = loss.discriminator(real + 10, fake + 10) - loss.discriminator(real, fake)
    assert (abs(change.item()) < 1e-12) == loss.offset_free


def test_saturating_loss_hardly_moves_a_generator_that_is_far_off():
    fake = torch.tensor([-10.0], requires_grad=True)
    (saturating,) = torch.autograd.grad(ADVERSARIAL["bce-saturating"].generator(fake, fake), fake)
    (non_saturating,) = torch.autograd.grad(ADVERSARIAL["bce"].generator(fake, fake), fake)
    assert saturating.abs() < 1e-4 < 0.99 < non_saturating.abs()


@pytest.mark.parametrize("name", ["bce", "bce-saturating", "wgan", "rpgan"])
def test_huge_logits_give_a_finite_loss(name):
    huge = torch.tensor([1e4, -1e4])
    assert torch.isfinite(ADVERSARIAL[name].discriminator(huge, huge))
    assert torch.isfinite(ADVERSARIAL[name].generator(huge, huge))


# -- LeCam ------------------------------------------------------------------------------------------------------------


def test_lecam_penalty_equals_its_formula():
    penalty = lecam_penalty(torch.from_numpy(REAL), torch.from_numpy(FAKE), torch.tensor(0.5), torch.tensor(-0.2))
    # by hand: real - (-0.2) = 1.7, (-0.1), 2.2, 0.2;   0.5 - fake = 1.5, 0.1, (-0.2), 3.5
    expected = (1.7**2 + 2.2**2 + 0.2**2) / 4 + (1.5**2 + 0.1**2 + 3.5**2) / 4
    assert penalty.item() == pytest.approx(expected, rel=1e-6)


def test_lecam_penalty_pulls_both_sides_together_and_leaves_the_wrong_side_alone():
    real = torch.tensor([2.0, -2.0], requires_grad=True)
    fake = torch.tensor([-2.0, 2.0], requires_grad=True)
    slopes = torch.autograd.grad(lecam_penalty(real, fake, torch.tensor(1.0), torch.tensor(-1.0)), (real, fake))
    assert slopes[0].tolist() == [3.0, 0.0]  # 2 (2 - -1) / 2: descending lowers what is sure to be real
    assert slopes[1].tolist() == [-3.0, 0.0]


def test_anchors_are_weighted_means_of_all_batches():
    anchors, batches, decay = LogitAnchors(), np.random.default_rng(0).normal(size=(5, 2, 4)), 0.7
    for real, fake in torch.from_numpy(batches):
        anchors.update(real, fake, decay=decay)
    weights = decay ** np.arange(5)[::-1]
    expected = (weights[:, None] * batches.mean(2)).sum(0) / weights.sum()
    assert anchors.real.item() == pytest.approx(expected[0], rel=1e-5)
    assert anchors.fake.item() == pytest.approx(expected[1], rel=1e-5)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("side", [0, 1])
def test_a_batch_that_is_not_finite_leaves_the_anchors_as_they_were(wrong, side):
    anchors = LogitAnchors()
    anchors.update(torch.tensor([1.0, 3.0]), torch.tensor([-1.0]), decay=0.9)
    before = {name: value.clone() for name, value in anchors.state_dict().items()}
    logits = [torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0])]
    logits[side][1] = wrong
    anchors.update(*logits, decay=0.9)
    assert anchors.state_dict() == before
    assert before["real"] == 2.0


def test_anchors_are_saved_and_never_part_of_the_graph():
    anchors = LogitAnchors()
    anchors.update(torch.tensor([1.0], requires_grad=True), torch.tensor([-1.0], requires_grad=True), decay=0.9)
    assert not anchors.real.requires_grad
    again = LogitAnchors()
    again.load_state_dict(anchors.state_dict())
    for each in (anchors, again):
        each.update(torch.tensor([5.0]), torch.tensor([0.0]), decay=0.9)
    assert again.real == anchors.real
    assert anchors.real.item() == pytest.approx((0.9 * 1 + 5) / 1.9)
