"""A picture file as its parts: what it may cost is known before anything is decoded."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from limner.picture_files import count_pixels, for_network, read_picture
from limner.sources import Refused


def content(width: int, height: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("use", [read_picture, count_pixels])
def test_scaling_does_not_get_around_the_most_megapixels(use):
    strip = content(4000, 4)
    with pytest.raises(Refused, match="200000x200") as refused:
        use(strip, max_megapixels=30, short_side=200)
    assert refused.value.reason == "too large"
    use(strip, max_megapixels=30, short_side=10)


def test_what_a_picture_takes_is_the_larger_of_read_and_scaled():
    assert count_pixels(content(40, 30), max_megapixels=1) == 1200
    assert count_pixels(content(40, 30), max_megapixels=1, short_side=60) == 4800
    assert count_pixels(content(40, 30), max_megapixels=1, short_side=3) == 1200


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_and_alpha_are_scaled_together(mode):
    picture = read_picture(content(40, 30, mode), max_megapixels=1, short_side=15)
    assert picture.colours.shape[:2] == (15, 20)
    assert (picture.alpha is not None and picture.alpha.shape) == ((15, 20) if "A" in mode else False)


def test_a_network_with_alpha_gets_an_opaque_one_where_there_is_none():
    pixels = for_network(read_picture(content(4, 3), max_megapixels=1), 4)
    assert pixels.shape == (3, 4, 4)
    assert np.all(pixels[..., 3] == 255)
