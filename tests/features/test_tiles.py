"""Tiles: every part of a picture once, in the eyes of another extractor."""

import torch

from limner.features.pixels import Pixels
from limner.features.tiles import SMALLEST, Tiles


def test_the_tiles_of_a_picture_follow_each_other_row_by_row():
    picture = torch.arange(3 * 16 * 24, dtype=torch.int64).remainder(251).byte().view(1, 3, 16, 24)
    pixels = Pixels(side=SMALLEST)
    found = Tiles(pixels)(torch.cat([picture, picture + 1]))
    corners = [(row, column) for row in (0, 4, 8) for column in (0, 4, 8, 12, 16)]
    assert len(found) == 2 * len(corners)
    for feature, (row, column) in zip(found, corners, strict=False):
        assert torch.equal(feature, pixels(picture[:, :, row : row + 8, column : column + 8])[0])


def test_a_name_of_their_own_keeps_their_figures_apart():
    assert Tiles(Pixels()).name == "pixels-tiles"
    assert Tiles(Pixels()).identity != Pixels().identity
