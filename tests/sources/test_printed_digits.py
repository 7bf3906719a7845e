"""Digits drawn with matplotlib's fonts."""

import numpy as np
import pytest

from limner.errors import LimnerError
from limner.sources import printed_digits
from limner.sources.printed_digits import WEIGHTS, open_printed_digits


def draw(*, count=200, seed=0, **fonts):
    return np.stack([picture.fetch() for picture in open_printed_digits(count=count, seed=seed, **fonts).pictures])


def geometry(picture):
    """Top, bottom, and how far the digit leans."""
    rows, columns = np.nonzero(picture > 64)
    return rows.min(), rows.max(), np.cov(rows, columns)[0, 1] / rows.var()


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


# -- chosen fonts -----------------------------------------------------------------------------------------------------


def test_the_fonts_choose_nothing_but_the_font():
    plain, oblique, mono = (
        draw(count=100, fonts=[font]) for font in ("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSansMono")
    )
    places = [np.array([geometry(picture) for picture in font]) for font in (plain, oblique, mono)]
    for other in places[1:]:
        assert np.abs(places[0][:, :2] - other[:, :2]).max() <= 2, "the same height at the same place"
    assert np.corrcoef(places[0][:, 2], places[2][:, 2])[0, 1] > 0.6, "leaning the same way"
    ink = [font.reshape(100, -1).mean(1) for font in (plain, mono)]
    assert np.corrcoef(*ink)[0, 1] > 0.6, "heavy where the other is heavy"
    assert not any(np.array_equal(a, b) for a, b in zip(plain, mono, strict=True))


def test_bold_fonts_are_heavy_where_the_others_are():
    plain, bold = (draw(count=100, fonts=[font]).reshape(100, -1).mean(1) for font in ("DejaVuSans", "DejaVuSans-Bold"))
    assert bold.mean() > plain.mean()
    assert all(list(weights) == sorted(weights) for weights in WEIGHTS.values()), (
        "the same draw is light in all of them"
    )


def test_which_font_it_is_says_nothing_of_the_weight():
    drawn = list(open_printed_digits(count=600, seed=0, fonts=["cmr10"], held_out_fonts=["cmtt10"]).pictures)
    ink = {font: [p.fetch().mean() for p in drawn if p.held_out == (font == "cmtt10")] for font in ("cmr10", "cmtt10")}
    for font, values in ink.items():
        alone = draw(count=600, fonts=[font]).reshape(600, -1).mean(1)
        assert abs(np.mean(values) / alone.mean() - 1) < 0.08


def test_a_font_draws_the_same_whatever_other_fonts_there_are():
    alone = {picture.tobytes() for picture in draw(count=60, fonts=["cmr10"])}
    mixed = draw(count=60, fonts=["cmr10", "cmtt10"])
    shared = sum(picture.tobytes() in alone for picture in mixed)
    assert 15 < shared < 45


def test_by_default_all_fonts_are_used_and_none_is_held_out():
    source = open_printed_digits(count=10, seed=0)
    assert not source.has_held_out
    assert not any(picture.held_out for picture in source.pictures)
    assert np.array_equal(draw(count=20), draw(count=20, fonts=sorted(WEIGHTS)))


def test_pictures_in_held_out_fonts_are_held_out_and_the_others_are_not():
    source = open_printed_digits(count=200, seed=0, fonts=["cmr10", "cmss10"], held_out_fonts=["cmtt10"])
    pictures = list(source.pictures)
    assert source.has_held_out
    assert 40 < sum(picture.held_out for picture in pictures) < 95, "each font as often"
    alone = {p.tobytes() for p in draw(count=200, fonts=["cmtt10"])}
    assert all((picture.fetch().tobytes() in alone) == picture.held_out for picture in pictures)


def test_without_fonts_all_but_the_held_out_ones_are_trained_on():
    held_out = sorted(WEIGHTS)[::2]
    source = open_printed_digits(count=400, seed=0, held_out_fonts=held_out)
    share = np.mean([picture.held_out for picture in source.pictures])
    assert abs(share - len(held_out) / len(WEIGHTS)) < 0.1
