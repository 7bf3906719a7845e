"""Digits drawn with matplotlib's fonts."""

import numpy as np
import pytest

from limner.errors import LimnerError
from limner.sources import printed_digits
from limner.sources.printed_digits import WEIGHTS, open_printed_digits


def draw(*, count=200, seed=0):
    return np.stack([picture.fetch() for picture in open_printed_digits(count=count, seed=seed).pictures])


def test_the_ten_classes_come_in_turn():
    source = open_printed_digits(count=23, seed=0)
    assert [picture.label for picture in source.pictures] == [index % 10 for index in range(23)]
    assert source.classes == tuple("0123456789")


def test_the_same_seed_draws_the_same_digits_and_another_seed_others():
    assert np.array_equal(draw(count=20), draw(count=20))
    assert np.array_equal(draw(count=40)[:20], draw(count=20))
    assert not any(np.array_equal(a, b) for a, b in zip(draw(count=20), draw(count=20, seed=1), strict=True))


def test_digits_have_the_geometry_of_mnist():
    pixels = draw()
    assert (pixels.shape, pixels.dtype) == ((200, 28, 28), np.uint8)
    for picture in pixels:
        rows, columns = np.flatnonzero(picture.any(1)), np.flatnonzero(picture.any(0))
        assert 15 <= len(rows) <= 22
        assert len(columns) <= 22
        assert abs((rows[0] + rows[-1]) / 2 - 13.5) <= 2
        assert abs((columns[0] + columns[-1]) / 2 - 13.5) <= 2
        assert picture.max() > 150


def test_digits_vary_in_font_size_slant_and_weight():
    ones = draw(count=400)[1::10]
    ink = ones.reshape(len(ones), -1).mean(1)
    heights = [int(one.any(1).sum()) for one in ones]
    assert len({one.tobytes() for one in ones}) == len(ones)
    assert ink.max() > 2 * ink.min()
    assert max(heights) - min(heights) >= 4


@pytest.mark.parametrize("font", WEIGHTS)
def test_a_font_has_ten_digits_of_its_own(font, monkeypatch):
    monkeypatch.setattr(printed_digits, "WEIGHTS", {font: (0,)})
    digits = draw(count=10).astype(float)
    for one in range(10):
        for other in range(one):
            assert np.abs(digits[one] - digits[other]).mean() > 5


def test_a_missing_font_is_named(monkeypatch):
    monkeypatch.setattr(printed_digits, "WEIGHTS", {"Fraktur": (0,)})
    with pytest.raises(LimnerError, match=r"(?s)no font Fraktur.*requirements\.lock"):
        open_printed_digits(count=10, seed=0)
