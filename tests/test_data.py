"""Batches: in an order that is a pure function of seed and step."""

import numpy as np
import pytest
import torch

from limner import data
from limner.data import Augmentation, PictureBatches, shift, showcase
from limner.errors import LimnerError

CPU = torch.device("cpu")


class Numbered:
    """A split whose picture i is filled with the number i."""

    def __init__(self, count, *, labels=None):
        self.count, self.nbytes = count, count * 8 * 8
        self.labels = None if labels is None else np.array(labels, dtype=np.int64)

    def pixels(self, indices):
        return np.broadcast_to(np.asarray(indices, dtype=np.uint8)[:, None, None, None], (len(indices), 8, 8, 1)).copy()


class Dotted(Numbered):
    """A split of one picture: a dot."""

    def pixels(self, indices):
        picture = np.zeros((len(indices), 8, 8, 1), dtype=np.uint8)
        picture[:, 3, 4] = 255
        return picture


def numbers(batch):
    return [round(value) for value in ((batch.images[:, 0, 0, 0] + 1) * 127.5).tolist()]


def test_an_epoch_shows_every_picture_once():
    batches = PictureBatches(Numbered(12), batch=4, seed=0, device=CPU)
    assert sorted(n for step in range(3) for n in numbers(batches.at(step))) == list(range(12))


def test_a_batch_may_span_epochs_and_a_set_may_be_smaller_than_a_batch():
    batches = PictureBatches(Numbered(5), batch=4, seed=0, device=CPU)
    shown = [n for step in range(5) for n in numbers(batches.at(step))]
    assert [sorted(shown[i : i + 5]) for i in range(0, 20, 5)] == [list(range(5))] * 4
    small = PictureBatches(Numbered(2), batch=8, seed=0, device=CPU)
    assert sorted(numbers(small.at(3))) == [0] * 4 + [1] * 4


def test_epochs_and_seeds_differ_in_their_order():
    def order(seed, epoch):
        return numbers(PictureBatches(Numbered(64), batch=64, seed=seed, device=CPU).at(epoch))

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


def test_any_step_can_be_asked_for_in_any_order():
    batches = PictureBatches(Numbered(10), batch=4, seed=3, device=CPU, augmentation=Augmentation(2, mirror=True))
    forward = [batches.at(step).images for step in range(8)]
    for step in (7, 0, 3):
        assert torch.equal(batches.at(step).images, forward[step])


def test_the_parts_of_a_batch_are_the_batch():
    batches = PictureBatches(Numbered(10, labels=np.arange(10) % 3), batch=4, seed=0, device=CPU)
    for step in range(6):
        whole, parts = batches.at(step), [batches.at(step, part=part, parts=2) for part in range(2)]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)


def test_a_part_is_the_same_whoever_computes_it_and_differs_from_the_others():
    def changed(part):
        augmentation = Augmentation(2, mirror=True)
        batches = PictureBatches(Dotted(1), batch=32, seed=3, device=CPU, augmentation=augmentation)
        return batches.at(5, part=part, parts=2).images

    assert torch.equal(changed(1), changed(1))
    assert not torch.equal(changed(0), changed(1)), "each part has randomness of its own"


def test_labels_follow_their_pictures():
    batches = PictureBatches(Numbered(10, labels=np.arange(10) % 3), batch=4, seed=0, device=CPU)
    batch = batches.at(1)
    assert batch.labels.tolist() == [n % 3 for n in numbers(batch)]


def test_a_set_that_does_not_fit_into_memory_gives_the_same_batches(monkeypatch):
    resident = PictureBatches(Numbered(10), batch=4, seed=0, device=CPU)
    monkeypatch.setattr(data, "RESIDENT_SHARE", 0)
    streamed = PictureBatches(Numbered(10), batch=4, seed=0, device=CPU)
    for step in range(6):
        assert torch.equal(resident.at(step).images, streamed.at(step).images)


def test_a_shift_moves_each_picture_by_itself_and_no_further_than_asked():
    images = torch.zeros(64, 1, 9, 9)
    images[:, 0, 4, 4] = 1
    moved = shift(images, most=2, rng=torch.Generator().manual_seed(0))
    places = moved.flatten(1).argmax(1)
    rows, columns = places // 9, places % 9
    assert moved.sum() == 64, "the dot is still there, once"
    assert {rows.min().item(), rows.max().item(), columns.min().item(), columns.max().item()} == {2, 6}
    assert len({(r.item(), c.item()) for r, c in zip(rows, columns, strict=True)}) > 10


def test_a_mirror_flips_about_half_of_the_pictures():
    class Ramp(Numbered):
        def pixels(self, indices):
            return np.broadcast_to(np.arange(8, dtype=np.uint8)[None, None, :, None], (len(indices), 8, 8, 1)).copy()

    batches = PictureBatches(Ramp(200), batch=200, seed=0, device=CPU, augmentation=Augmentation(mirror=True))
    flipped = (batches.at(0).images[:, 0, 0, 0] > -1).sum().item()
    assert 60 < flipped < 140


def test_an_empty_split_is_refused():
    with pytest.raises(LimnerError, match="no picture to train on"):
        PictureBatches(Numbered(0), batch=4, seed=0, device=CPU)


def test_a_showcase_takes_the_classes_in_turn():
    split = Numbered(9, labels=[0, 0, 0, 0, 1, 1, 1, 2, 2])
    assert showcase(split, count=6, device=CPU).labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert showcase(split, count=9, device=CPU).labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 0]
    assert numbers(showcase(split, count=3, device=CPU)) == [0, 4, 7]
    assert numbers(showcase(Numbered(4), count=3, device=CPU)) == [0, 1, 2]
