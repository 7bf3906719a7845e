"""Printed digits and real handwriting as arrays, for tests that translate the one into the other."""

import functools

import numpy as np
import torch

from limner.sources.mnist5k import open_mnist5k
from limner.sources.printed_digits import open_printed_digits

CLASSES = tuple("0123456789")


def _arrays(source, *, step=1):
    pictures = list(source.pictures)[::step]
    pixels = np.stack([np.pad(picture.fetch(), 2) for picture in pictures])[..., None]
    return pixels, np.array([picture.label for picture in pictures])


@functools.cache
def printed(count, *, seed=0, font=None):
    """uint8 [N, 32, 32, 1] and classes [N]. Of one seed digit i is the same in every font."""
    return _arrays(open_printed_digits(count=count, seed=seed, fonts=(font,) if font else ()))


@functools.cache
def handwritten():
    """The 5,000 digits of mnist5k in another order."""
    pixels, labels = _arrays(open_mnist5k())
    order = np.random.default_rng(0).permutation(len(pixels))
    return pixels[order], labels[order]


def nchw(pixels):
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
