"""Keeping the class of a picture, where one side is labelled, or the other, or both."""

import pytest
import torch
from torch.nn import functional as F

from limner.content import Content, ContentSettings
from limner.errors import LimnerError
from limner.tasks import Pictures, PictureShape, UnpairedPictures

IMAGES = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
LABELS = torch.arange(6) % 3


def content(*, classes=0, source_classes=0, weight=2.0):
    torch.manual_seed(0)
    shape = PictureShape(1, 16, 16, classes=classes, source_classes=source_classes)
    return Content(ContentSettings(weight=weight, width=8), shape)


def batch(*, source_labels=None, target_labels=None):
    return UnpairedPictures(Pictures(IMAGES, source_labels), Pictures(-IMAGES, target_labels))


def test_it_is_the_sources_label_that_a_result_has_to_be_read_as():
    kept = content(source_classes=3)
    results = IMAGES.flip(2)
    expected = 2.0 * F.cross_entropy(kept.networks["recogniser"](results), LABELS)
    assert kept.loss(results, batch(source_labels=LABELS)).item() == pytest.approx(expected.item(), rel=1e-6)


def test_without_labels_of_the_source_it_is_what_the_recogniser_reads_in_it():
    kept = content(classes=3)
    read = kept.networks["recogniser"](IMAGES).softmax(1)
    results = IMAGES.flip(2).requires_grad_()
    expected = -2.0 * (read * kept.networks["recogniser"](results).log_softmax(1)).sum(1).mean()
    loss = kept.loss(results, batch(target_labels=LABELS))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert torch.autograd.grad(loss, results)[0].abs().sum() > 0


@pytest.mark.parametrize(("source", "target"), [(LABELS, None), (None, LABELS), (LABELS, LABELS)])
def test_the_recogniser_learns_from_every_side_that_is_labelled(source, target):
    kept = content(classes=3, source_classes=3)
    told = [kept.move([batch(source_labels=source, target_labels=target)]) for _ in range(60)]
    assert told[-1]["loss/recogniser"] < 0.5 * told[0]["loss/recogniser"]
    assert told[-1]["recogniser/right"] > 0.9


def test_a_weight_of_nothing_asks_for_nothing():
    kept = content(weight=0.0)
    assert (kept.networks, kept.optimizers, kept.move([batch()])) == ({}, {}, {})
    assert kept.loss(IMAGES, batch()) is None


def test_without_labels_it_is_refused():
    with pytest.raises(LimnerError, match=r"(?s)content.weight.*neither side.*class-folders"):
        content()
