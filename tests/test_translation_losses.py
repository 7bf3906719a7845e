"""The losses of translation against their formulas, patch by patch; and adversarial losses of patches."""

import math

import pytest
import torch
from torch.nn import functional as F

from limner.losses import (
    ADVERSARIAL,
    LogitAnchors,
    cycle_loss,
    feature_consistency_loss,
    flip_equivariance_loss,
    identity_loss,
    patch_nce_loss,
    prediction_consistency_loss,
    reconstruction_loss,
)


@pytest.fixture(autouse=True)
def _same_numbers():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def vectors(pictures=3, patches=5, width=8):
    """Query and key: unit vectors, related to each other."""
    key = torch.randn(pictures, patches, width, dtype=torch.float64)
    query = key + torch.randn_like(key)
    return F.normalize(query, dim=2), F.normalize(key, dim=2)


def nce(query, positive, negatives, temperature):
    """Equation 3 of arXiv:2007.15651, of one patch."""
    up = math.exp(float(query @ positive) / temperature)
    return -math.log(up / (up + sum(math.exp(float(query @ each) / temperature) for each in negatives)))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
@pytest.mark.parametrize("outside", [0, 4])
@pytest.mark.parametrize("negatives", ["image", "batch"])
def test_patch_nce_equals_a_loop_over_patches(temperature, outside, negatives):
    query, key = vectors()
    external = F.normalize(torch.randn(outside, 8, dtype=torch.float64), dim=1) if outside else None
    terms = []
    for n in range(3):
        for p in range(5):
            pictures = [n] if negatives == "image" else range(3)
            others = [key[m, q] for m in pictures for q in range(5) if (m, q) != (n, p)]
            others += [] if external is None else list(external)
            terms.append(nce(query[n, p], key[n, p], others, temperature))
    loss = patch_nce_loss(query, key, temperature=temperature, negatives=negatives, external=external)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), rel=1e-5)


def test_patch_nce_of_one_picture_does_not_see_another_in_its_batch():
    query, key = vectors(pictures=2)
    alone = [patch_nce_loss(query[n : n + 1], key[n : n + 1]) for n in range(2)]
    torch.testing.assert_close(patch_nce_loss(query, key), torch.stack(alone).mean())


def test_gradients_of_patch_nce_reach_the_query_and_external_negatives_but_never_the_key():
    query, key = (each.requires_grad_() for each in vectors())
    external = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    patch_nce_loss(query, key, external=external).backward()
    assert query.grad.abs().max() > 0
    assert external.grad.abs().max() > 0
    assert key.grad is None


def test_patch_nce_is_not_rounded_under_autocast():
    query, key = (each.float() for each in vectors(patches=32))
    with torch.autocast("cpu", torch.bfloat16):
        loss = patch_nce_loss(query, key)
    assert loss.dtype is torch.float32
    assert torch.equal(loss, patch_nce_loss(query, key))


def test_patch_nce_falls_where_patches_are_alike():
    query, key = vectors(patches=64)
    assert patch_nce_loss(key, key) < patch_nce_loss(query, key) < patch_nce_loss(key.flip(1), key)


@pytest.mark.parametrize("loss", [cycle_loss, identity_loss, reconstruction_loss])
def test_pixel_losses_are_mean_absolute_differences(loss):
    ours, theirs = torch.tensor([[[[1.0, -1.0], [0.5, 0.0]]]]), torch.tensor([[[[0.0, -1.0], [-0.5, 0.25]]]])
    assert loss(ours, theirs).item() == pytest.approx((1 + 0 + 1 + 0.25) / 4)


def test_flip_equivariance_is_zero_for_what_mirrors_and_the_difference_for_what_does_not():
    images = torch.randn(2, 3, 6, 5)

    def symmetric(x):
        return [x.square(), F.avg_pool2d(x, 3, stride=1)]

    assert flip_equivariance_loss(symmetric(images.flip(3)), symmetric(images)).item() == pytest.approx(0, abs=1e-7)
    flipped, plain = [torch.tensor([[[[1.0, 2.0, 3.0]]]])], [torch.tensor([[[[0.0, 2.0, 5.0]]]])]
    assert flip_equivariance_loss(flipped, plain).item() == pytest.approx((3 + 0 + 4) / 3)
    assert flip_equivariance_loss(flipped * 2, [plain[0], flipped[0].flip(3)]).item() == pytest.approx(7 / 3 / 2)


def test_feature_consistency_is_the_mean_square_of_each_layer_alike():
    new = [torch.tensor([[1.0, 2.0]], requires_grad=True), torch.tensor([[3.0]], requires_grad=True)]
    old = [torch.tensor([[0.0, 0.0]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)]
    loss = feature_consistency_loss(new, old)
    assert loss.item() == pytest.approx(((1 + 4) / 2 + 4) / 2)
    loss.backward()
    assert all(each.grad is not None for each in new)
    assert all(each.grad is None for each in old)


def test_prediction_consistency_takes_labels_or_probabilities():
    logits = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
    logs = logits - logits.exp().sum(1, keepdim=True).log()
    assert prediction_consistency_loss(logits, torch.tensor([0, 2])).item() == pytest.approx(
        -(logs[0, 0] + logs[1, 2]).item() / 2
    )
    soft = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]], requires_grad=True)
    loss = prediction_consistency_loss(logits.requires_grad_(), soft)
    assert loss.item() == pytest.approx(-(soft * logs).sum().item() / 2)
    loss.backward()
    assert soft.grad is None


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_losses_of_patches_are_means_over_pictures_and_patches(name):
    real, fake = torch.randn(4, 9), torch.randn(4, 9)
    for player in (ADVERSARIAL[name].discriminator, ADVERSARIAL[name].generator):
        torch.testing.assert_close(player(real, fake), player(real.flatten(), fake.flatten()))
        torch.testing.assert_close(
            player(real, fake), torch.stack([player(r, f) for r, f in zip(real, fake, strict=True)]).mean()
        )


def test_anchors_take_patches_too():
    anchors = LogitAnchors()
    anchors.update(torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, -1.0]]), decay=0.9)
    assert anchors.real.item() == pytest.approx(2.0)
    assert anchors.fake.item() == pytest.approx(-0.5)
