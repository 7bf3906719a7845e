"""Halving and doubling against their filters written out, and padding against numpy's."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limner.networks.resampling import BlurDouble, BlurHalve, Reflect, pad_to_multiple, reflect_by_parts


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (2, 3)])
def test_halving_is_the_filter_1_2_1_and_every_second_pixel(size):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    weight = torch.outer(line, line).expand(3, 1, 3, 3)
    expected = F.conv2d(F.pad(x, [1] * 4, mode="reflect"), weight, stride=2, groups=3)
    torch.testing.assert_close(BlurHalve()(x), expected)


def test_doubling_is_zeros_in_between_and_the_filter_1_3_3_1():
    x = torch.randn(2, 1, 5, 4, dtype=torch.float64)
    padded = F.pad(x, [1] * 4, mode="replicate")
    spread = torch.zeros(2, 1, 14, 12, dtype=torch.float64)
    spread[..., ::2, ::2] = padded
    line = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 4  # a gain of 2 for the zeros
    expected = F.conv2d(spread, torch.outer(line, line)[None, None])
    torch.testing.assert_close(BlurDouble()(x), expected[..., :10, :8])


@pytest.mark.parametrize("multiple", [1, 4, 16, 64])
@pytest.mark.parametrize("size", [(16, 16), (17, 30), (20, 3), (1, 5)])
def test_padding_reflects_at_the_bottom_and_the_right_as_often_as_it_takes(multiple, size):
    x = torch.randn(2, 3, *size)
    below, right = (-side % multiple for side in size)
    expected = np.pad(x.numpy(), [(0, 0), (0, 0), (0, below), (0, right)], mode="reflect")
    assert np.array_equal(pad_to_multiple(x, multiple).numpy(), expected)


def test_nothing_is_copied_where_nothing_is_padded():
    x = torch.randn(1, 1, 16, 8)
    assert pad_to_multiple(x, 8) is x


@pytest.mark.parametrize("edge", [1, 3])
def test_reflection_is_the_same_in_one_and_by_parts_with_its_gradient(edge):
    ours, theirs = (torch.randn(2, 3, 5, 4, dtype=torch.float64).requires_grad_() for _ in range(2))
    theirs.data.copy_(ours.data)
    weights = torch.randn(2, 3, 5 + 2 * edge, 4 + 2 * edge, dtype=torch.float64)
    outs = reflect_by_parts(ours, edge), Reflect(edge)(theirs)
    assert torch.equal(*outs)
    for out in outs:
        (out * weights).sum().backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
