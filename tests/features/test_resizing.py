"""Resizes against the programs they are named for."""

import numpy as np
import pytest
import torch
from PIL import Image

from limner.features.resizing import bicubic, bilinear, bilinear_tf1, rgb
from tests.features.inception_stand import pictures

SIZES = [(32, 32), (16, 48), (300, 400), (299, 299), (61, 224), (1, 1), (700, 5)]


def noise(size):
    rng = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 3, *size), generator=rng, dtype=torch.uint8).float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("side", [299, 224])
def test_bicubic_is_pillows(size, side):
    image = noise(size)
    expected = [
        np.asarray(Image.fromarray(channel.numpy()).resize((side, side), Image.Resampling.BICUBIC))
        for channel in image[0]
    ]
    found = bicubic(image, side=side)
    np.testing.assert_allclose(found[0].numpy(), np.stack(expected).clip(0, 255), atol=1e-2)


def test_bicubic_stays_in_range_and_is_not_rounded():
    sharp = 255 * torch.eye(8)[None, None]
    found = bicubic(sharp, side=20)
    assert (found.min(), found.max()) == (0, 255)
    assert (found != found.round()).any()


@pytest.mark.parametrize("size", SIZES)
def test_tf1s_bilinear_is_torch_fidelitys(size):
    theirs = pytest.importorskip("torch_fidelity.interpolate_compat_tensorflow")
    image = noise(size)
    expected = theirs.interpolate_bilinear_2d_like_tensorflow1x(image, size=(299, 299), align_corners=False)
    torch.testing.assert_close(bilinear_tf1(image, side=299), expected, rtol=0, atol=1e-2)


def test_tf1s_grid_begins_at_the_first_pixel():
    row = torch.tensor([0.0, 10.0]).expand(1, 1, 2, 2)
    assert bilinear_tf1(row, side=4)[0, 0, 0].tolist() == [0, 5, 10, 10]
    assert bilinear(row, side=4)[0, 0, 0].tolist() == [0, 2.5, 7.5, 10]


def test_grey_is_repeated_and_alpha_lies_over_black():
    grey = pictures(1, 1)
    colour = grey.expand(-1, 3, -1, -1)
    assert torch.equal(rgb(grey), colour.float())
    assert torch.equal(rgb(torch.cat([colour, torch.full_like(grey, 255)], 1)), colour.float())
    assert (rgb(torch.cat([colour, torch.zeros_like(grey)], 1)) == 0).all()
