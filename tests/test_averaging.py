"""The moving average against its definition, and the statistics that micro-batches share."""

import pytest
import torch
from torch import nn

from limner.averaging import Average, one_set_of_statistics
from limner.schedules import Ramp


def product(value: float) -> nn.Module:
    network = nn.Linear(2, 2, bias=False)
    nn.init.constant_(network.weight, value)
    return network


def test_an_old_weight_counts_half_after_the_half_life():
    average = Average(product(1.0), half_life_kimg=6.4, ramp=1.0, total_images=10**10)
    for step in range(100):
        average.update(product(0.0), batch=64, images_seen=10**9 + step * 64)
    assert average.network.weight.mean().item() == pytest.approx(0.5, rel=1e-4)


def test_without_a_half_life_the_average_is_the_product_itself():
    average = Average(product(1.0), half_life_kimg=0, ramp=1.0, total_images=1000)
    average.update(product(7.0), batch=64, images_seen=64)
    assert (average.network.weight == 7.0).all()


def test_early_on_the_ramp_limits_the_memory():
    average = Average(product(1.0), half_life_kimg=10, ramp=0.05, total_images=10**9)
    assert average.decay(batch=64, images_seen=64) < 1e-5
    assert average.decay(batch=64, images_seen=10**9) == pytest.approx(0.5 ** (64 / 10_000))


def test_batch_statistics_are_copied_not_averaged():
    network = nn.BatchNorm1d(3)
    average = Average(network, half_life_kimg=10**6, ramp=1.0, total_images=10**9)
    network.running_mean.fill_(5.0)
    average.update(network, batch=64, images_seen=10**9)
    assert (average.network.running_mean == 5.0).all()


def test_the_average_never_trains_and_never_changes_the_product():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    before = network[0].weight.clone()
    average = Average(network, half_life_kimg=0.1, ramp=1.0, total_images=1000)
    average.update(network, batch=64, images_seen=64)
    assert not average.network.training
    assert not any(p.requires_grad for p in average.network.parameters())
    assert torch.equal(network[0].weight, before)
    assert network.training


def test_the_half_life_can_follow_a_schedule_of_the_progress():
    ramp = Ramp(start=0.0, end=10.0, shape="linear")
    average = Average(product(1.0), half_life_kimg=ramp, ramp=1.0, total_images=100_000)
    assert average.decay(batch=64, images_seen=0) == 0
    assert average.decay(batch=64, images_seen=50_000) == pytest.approx(0.5 ** (64 / 5_000))
    assert average.decay(batch=64, images_seen=100_000) == pytest.approx(0.5 ** (64 / 10_000))


# -- statistics of several micro-batches ------------------------------------------------------------------------------

PARTS = [torch.randn(4, 3, generator=torch.Generator().manual_seed(seed)) + seed for seed in range(3)]


def used_on(parts):
    network = nn.BatchNorm1d(3)
    network.running_mean.fill_(1.0)
    for part in one_set_of_statistics(network, parts):
        network(part)
    return network


def test_statistics_after_a_batch_are_the_mean_over_its_parts():
    network = used_on(PARTS)
    means = torch.stack([0.9 * 1.0 + 0.1 * part.mean(0) for part in PARTS]).mean(0)
    variances = torch.stack([0.9 + 0.1 * part.var(0) for part in PARTS]).mean(0)
    torch.testing.assert_close(network.running_mean, means)
    torch.testing.assert_close(network.running_var, variances)


def test_the_order_of_the_parts_does_not_matter():
    one, other = used_on(PARTS), used_on(PARTS[::-1])
    torch.testing.assert_close(one.running_mean, other.running_mean)
    torch.testing.assert_close(one.running_var, other.running_var)


def test_each_part_begins_with_the_statistics_of_before_the_batch():
    network = nn.BatchNorm1d(3)
    for part in one_set_of_statistics(network, PARTS):
        assert torch.equal(network.running_mean, torch.zeros(3))
        network(part)


def test_one_part_is_as_if_there_were_none_of_this():
    network = nn.BatchNorm1d(3)
    network.running_mean.fill_(1.0)
    network(PARTS[1])
    assert torch.equal(used_on(PARTS[1:2]).running_mean, network.running_mean)


def test_a_network_without_statistics_sees_every_part_too():
    assert list(one_set_of_statistics(nn.Linear(3, 3), PARTS)) == PARTS
