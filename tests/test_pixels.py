"""Pixels: bytes to networks and back, and sheets of many pictures."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from limner.pixels import bands, encode_png, grid, to_signed, to_uint8


@given(arrays(np.uint8, array_shapes(max_dims=4, max_side=6)))
def test_to_uint8_undoes_to_signed(pixels):
    assert torch.equal(to_uint8(to_signed(torch.from_numpy(pixels))), torch.from_numpy(pixels))


def test_black_and_white_are_minus_one_and_one():
    signed = to_signed(torch.tensor([0, 255], dtype=torch.uint8))
    assert signed.tolist() == [-1.0, 1.0]
    assert signed.dtype == torch.float32


@given(st.floats(-1, 1, width=32))
def test_to_uint8_takes_the_nearest_value(value):
    assert abs(to_uint8(torch.tensor(value)).item() - (value + 1) * 127.5) <= 0.5 + 1e-4


def test_to_uint8_clamps_what_lies_outside_and_takes_half_precision():
    assert to_uint8(torch.tensor([-9.0, -1.001, 1.001, 9.0])).tolist() == [0, 0, 255, 255]
    assert to_uint8(torch.tensor([-1.0, 1.0], dtype=torch.bfloat16)).tolist() == [0, 255]


def test_to_signed_refuses_pixels_that_are_not_bytes():
    with pytest.raises(TypeError, match=r"uint8, not torch\.float32"):
        to_signed(torch.zeros(1))


def test_a_grid_goes_row_by_row_and_free_places_are_black():
    images = torch.arange(1, 6, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 4)
    sheet = grid(images, columns=3)
    assert sheet.shape == (4, 12, 3)
    assert sheet[::2, ::4, 0].tolist() == [[1, 2, 3], [4, 5, 0]]


def test_a_grid_keeps_rows_and_columns_of_a_picture():
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4)
    assert np.array_equal(grid(image, columns=5)[:, :, 0], image[0, 0].numpy())  # no wider than there are pictures


def test_a_grid_needs_a_picture_and_a_column():
    with pytest.raises(ValueError, match="0 images in 3 columns"):
        grid(torch.zeros(0, 1, 2, 2, dtype=torch.uint8), columns=3)
    with pytest.raises(ValueError, match="1 images in 0 columns"):
        grid(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), columns=0)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_a_png_holds_the_pixels_it_was_made_of(channels, mode):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), dtype=np.uint8)
    picture = Image.open(io.BytesIO(encode_png(pixels)))
    assert picture.mode == mode
    assert np.array_equal(np.asarray(picture).reshape(pixels.shape), pixels)


def test_bands_are_rows_that_belong_together_with_a_gap_between():
    one = torch.arange(1, 4, dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    sheet = bands([one, 10 * one], columns=2)
    assert sheet.shape == (4 * 4 + 2, 8, 1)
    assert sheet[[0, 4, 10, 14], 0, 0].tolist() == [1, 10, 3, 30], "a row of the first, below it of the second"
    assert sheet[[0, 4], 7, 0].tolist() == [2, 20]
    assert sheet[8:10].min() == sheet[8:10].max() == 128, "the gap"
    assert sheet[[10, 14], 7, 0].tolist() == [0, 0], "free places"


def test_bands_of_one_layer_are_a_grid():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1)
    np.testing.assert_array_equal(bands([images], columns=2), grid(images, columns=2))
