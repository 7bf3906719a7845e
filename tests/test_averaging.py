"""The moving average against its definition."""

import pytest
import torch
from torch import nn

from limner.averaging import Average


def product(value: float) -> nn.Module:
    network = nn.Linear(2, 2, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_an_old_weight_counts_half_after_the_half_life():
    average = Average(product(1.0), half_life_images=6400, ramp=1.0)
    for step in range(100):
        average.update(product(0.0), batch=64, images_seen=10**9 + step * 64)
    assert average.network.weight.mean().item() == pytest.approx(0.5, rel=1e-4)


def test_without_a_half_life_the_average_is_the_product_itself():
    average = Average(product(1.0), half_life_images=0, ramp=1.0)
    average.update(product(7.0), batch=64, images_seen=64)
    assert (average.network.weight == 7.0).all()


def test_early_on_the_ramp_limits_the_memory():
    average = Average(product(1.0), half_life_images=10_000, ramp=0.05)
    assert average.decay(batch=64, images_seen=64) < 1e-5
    assert average.decay(batch=64, images_seen=10**9) == pytest.approx(0.5 ** (64 / 10_000))


def test_batch_statistics_are_copied_not_averaged():
    network = nn.BatchNorm1d(3)
    average = Average(network, half_life_images=10**9, ramp=1.0)
    network.running_mean.fill_(5.0)
    average.update(network, batch=64, images_seen=10**9)
    assert (average.network.running_mean == 5.0).all()


def test_the_average_never_trains_and_never_changes_the_product():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    before = network[0].weight.clone()
    average = Average(network, half_life_images=100, ramp=1.0)
    average.update(network, batch=64, images_seen=64)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert torch.equal(network[0].weight, before)
    assert network.training
