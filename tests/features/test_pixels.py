"""Small pictures as features."""

import pytest
import torch

from limner.features.pixels import Pixels, thumbnails


def test_every_small_pixel_is_the_mean_of_those_it_covers():
    image = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    small = thumbnails(image, side=2).reshape(2, 2) * 255
    expected = image[0, 0].double().reshape(2, 4, 2, 4).mean((1, 3))
    torch.testing.assert_close(small.double(), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "features"), [((1, 4, 4), 16), ((3, 64, 64), 3 * 64), ((3, 16, 64), 3 * 2 * 8), ((4, 1, 100), 4 * 8)]
)
def test_the_longer_side_is_at_most_eight_and_the_aspect_stays(shape, features):
    assert Pixels()(torch.zeros(2, *shape, dtype=torch.uint8)).shape == (2, features)


def test_black_is_zero_and_white_is_one():
    images = torch.tensor([0, 255], dtype=torch.uint8).reshape(2, 1, 1, 1).expand(2, 3, 32, 32)
    assert Pixels()(images).unique(dim=1).tolist() == [[0], [1]]
