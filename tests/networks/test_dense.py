"""The fully connected discriminator."""

import torch

from limner.networks import dense
from limner.tasks import PictureShape


def test_it_takes_pictures_of_any_shape():
    shape = PictureShape(3, 20, 12, classes=4)
    judge = dense.Discriminator(shape, widths=[16, 8])
    logits = judge(torch.randn(5, 3, 20, 12), torch.tensor([0, 1, 2, 3, 0]))
    assert logits.shape == (5,)


def test_it_has_no_convolution():
    judge = dense.Discriminator(PictureShape(1, 16, 16, classes=0), widths=[16])
    assert not [m for m in judge.modules() if "Conv" in type(m).__name__]
