"""Seeds are a pure function of what they are for."""

import torch

from limner.randomness import derive_seed, generator


def test_a_seed_is_the_same_everywhere_and_for_ever():
    assert derive_seed(0, "step", 120) == 459136472507365346


def test_purposes_do_not_run_into_each_other():
    seeds = {
        derive_seed(0, "step", 12),
        derive_seed(0, "step1", 2),
        derive_seed(1, "step", 2),
        derive_seed(0, "order", 12),
    }
    assert len(seeds) == 4


def test_a_generator_repeats_itself():
    assert torch.equal(torch.randn(3, generator=generator(1, "a")), torch.randn(3, generator=generator(1, "a")))
    assert not torch.equal(torch.randn(3, generator=generator(1, "a")), torch.randn(3, generator=generator(1, "b")))
