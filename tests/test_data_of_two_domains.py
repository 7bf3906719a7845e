"""Batches of two domains: pairs stay pairs, unpaired sides know nothing of each other, crops have their own places."""

import numpy as np
import pytest
import torch

from limner import data
from limner.data import Augmentation, open_batches, refuse_other_task, showcase_batch
from limner.errors import LimnerError
from limner.tasks import Pairs, Pictures, UnpairedPictures
from tests.packed import pack

CPU = torch.device("cpu")


def numbered(count, *, first=0):
    """Pictures 8x8: picture i is first + i all over, but for its columns' and rows' numbers in the other channels."""
    pictures = np.zeros((count, 8, 8, 3), dtype=np.uint8)
    pictures[..., 0] = (first + np.arange(count))[:, None, None]
    pictures[..., 1], pictures[..., 2] = np.arange(8), np.arange(8)[:, None]
    return pictures


def two_domains(folder, *, task, counts=(20, 20), validation=(7, 7), labels=None):
    domains = {}
    for name, count, held_out in zip(("source", "target"), counts, validation, strict=True):
        label = (lambda n: None) if name not in (labels or ()) else (lambda n: np.arange(n) % 3)
        domains[name] = {
            "train": (numbered(count), label(count)),
            "validation": (numbered(held_out, first=100), label(held_out)),
        }
    return pack(folder, domains, classes=("a", "b", "c"), task=task)


def batches_of(dataset, *, task, batch=10, seed=0, **augmentation):
    return open_batches(
        dataset, task=task, batch=batch, seed=seed, device=CPU, augmentation=Augmentation(**augmentation)
    )


def numbers(side):
    return [round(value) for value in ((side.images[:, 0, 0, 0] + 1) * 127.5).tolist()]


def steps(batches, count=6):
    return [batches.at(step) for step in range(count)]


# -- training ---------------------------------------------------------------------------------------------------------


def test_pictures_come_as_they_always_did(tmp_path):
    dataset = pack(tmp_path / "x", {"pictures": {"train": (numbered(20), None)}})
    old = data.PictureBatches(dataset.split("train"), batch=8, seed=3, device=CPU, augmentation=Augmentation(2, True))
    new = batches_of(dataset, task="pictures", batch=8, seed=3, shift_pixels=2, mirror=True)
    for one, other in zip(steps(old), steps(new), strict=True):
        assert isinstance(other, Pictures)
        assert torch.equal(one.images, other.images)


@pytest.mark.parametrize(
    "augmentation", [{}, {"shift_pixels": 2, "mirror": True}, {"crop": 5}, {"crop": 5, "mirror": True}]
)
def test_pairs_stay_pairs_whatever_happens_to_them(tmp_path, augmentation, monkeypatch):
    dataset = two_domains(tmp_path / "x", task="paired", labels=("source", "target"))
    for share in (data.RESIDENT_SHARE, 0):
        monkeypatch.setattr(data, "RESIDENT_SHARE", share)
        for batch in steps(batches_of(dataset, task="paired", **augmentation)):
            assert isinstance(batch, Pairs)
            assert torch.equal(batch.source.images, batch.target.images), "both sides hold the same pictures"
            assert torch.equal(batch.source.labels, batch.target.labels)


def test_unpaired_sides_are_drawn_independently_even_of_a_paired_dataset(tmp_path):
    dataset = two_domains(tmp_path / "x", task="paired")
    shown = steps(batches_of(dataset, task="unpaired", batch=20))
    together = np.mean([np.equal(numbers(batch.source), numbers(batch.target)).mean() for batch in shown])
    assert all(isinstance(batch, UnpairedPictures) for batch in shown)
    assert all(sorted(numbers(side)) == list(range(20)) for batch in shown for side in (batch.source, batch.target))
    assert together < 0.2, "one in twenty meets its partner by chance"


def test_unpaired_sides_are_changed_independently(tmp_path):
    dataset = two_domains(tmp_path / "x", task="unpaired", counts=(1, 1))
    batch = batches_of(dataset, task="unpaired", batch=16, crop=4).at(0)
    assert not torch.equal(batch.source.images, batch.target.images)


def test_sets_of_different_sizes_each_show_all_they_have(tmp_path):
    dataset = two_domains(tmp_path / "x", task="unpaired", counts=(3, 20))
    batch = batches_of(dataset, task="unpaired", batch=20).at(0)
    assert set(numbers(batch.source)) == {0, 1, 2}
    assert sorted(numbers(batch.target)) == list(range(20))


def test_labels_follow_each_side(tmp_path):
    dataset = two_domains(tmp_path / "x", task="unpaired", labels=("target",))
    batch = batches_of(dataset, task="unpaired").at(2)
    assert batch.source.labels is None
    assert batch.target.labels.tolist() == [n % 3 for n in numbers(batch.target)]


@pytest.mark.parametrize("task", ["unpaired", "paired"])
def test_any_step_and_any_part_can_be_asked_for(tmp_path, task):
    dataset = two_domains(tmp_path / "x", task="paired")
    forward = steps(batches_of(dataset, task=task, crop=4, mirror=True))
    again = batches_of(dataset, task=task, crop=4, mirror=True)
    for step in (5, 0, 3):
        assert torch.equal(again.at(step).source.images, forward[step].source.images)
        assert torch.equal(again.at(step).target.images, forward[step].target.images)
    part = again.at(1, part=1, parts=2)
    assert len(part.source.images) == len(part.target.images) == 5
    assert set(numbers(part.source)) == set(numbers(forward[1].source)[5:])


# -- crops ------------------------------------------------------------------------------------------------------------


def test_a_crop_is_a_piece_of_the_picture_and_each_has_its_own_place(tmp_path):
    dataset = two_domains(tmp_path / "x", task="unpaired", counts=(1, 1))
    places = set()
    for batch in steps(batches_of(dataset, task="unpaired", batch=16, crop=5), 8):
        images = ((batch.source.images + 1) * 127.5).round()
        assert images.shape == (16, 3, 5, 5)
        for image in images:
            left, top = int(image[1, 0, 0]), int(image[2, 0, 0])
            assert torch.equal(image[1], (left + torch.arange(5.0)).expand(5, 5))
            assert torch.equal(image[2], (top + torch.arange(5.0))[:, None].expand(5, 5))
            places.add((top, left))
    assert places == {(top, left) for top in range(4) for left in range(4)}, "the borders are reached too"


def test_a_crop_as_large_as_the_picture_is_the_picture(tmp_path):
    dataset = two_domains(tmp_path / "x", task="paired")
    whole, cropped = (batches_of(dataset, task="paired", **crop).at(0) for crop in ({}, {"crop": 8}))
    assert torch.equal(whole.source.images, cropped.source.images)


def test_a_crop_larger_than_the_picture_is_refused(tmp_path):
    dataset = two_domains(tmp_path / "x", task="paired")
    with pytest.raises(LimnerError, match=r"crop of 9 pixels cannot be cut out of pictures of 8x8\.\nMake train.crop"):
        batches_of(dataset, task="paired", crop=9)


def test_a_crop_of_pictures_that_are_to_be_generated_is_refused(tmp_path):
    dataset = pack(tmp_path / "x", {"pictures": {"train": (numbered(20), None)}})
    with pytest.raises(LimnerError, match=r"crop is for translations only"):
        batches_of(dataset, task="pictures", crop=4)


# -- what fits together -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["pictures", "unpaired", "paired"])
def test_a_method_eats_its_own_kind_and_pairs_can_be_eaten_as_if_they_were_none(tmp_path, task):
    datasets = {
        "pictures": pack(tmp_path / "a", {"pictures": {"train": (numbered(4), None)}}),
        "unpaired": two_domains(tmp_path / "b", task="unpaired"),
        "paired": two_domains(tmp_path / "c", task="paired"),
    }
    for kind, dataset in datasets.items():
        if kind == task or (task, kind) == ("unpaired", "paired"):
            refuse_other_task(dataset, task=task)
        else:
            with pytest.raises(LimnerError, match=f"(?s)kind '{task}', but this one is '{kind}'.*Change the model's"):
                open_batches(dataset, task=task, batch=2, seed=0, device=CPU)


# -- showing ----------------------------------------------------------------------------------------------


def test_an_empty_split_cannot_be_shown(tmp_path):
    dataset = two_domains(tmp_path / "x", task="unpaired", validation=(0, 2))
    with pytest.raises(LimnerError, match=r"validation split of the dataset has no picture\.\nPrepare it again with"):
        showcase_batch(dataset, task="unpaired", split="validation", count=3, device=CPU)


def test_a_showcase_of_pairs_takes_the_classes_in_turn_and_keeps_the_partners(tmp_path):
    for labels in (("source",), ("target",)):
        dataset = pack(
            tmp_path / labels[0],
            {
                side: {"train": (numbered(6), np.array([1, 1, 1, 0, 0, 2]) if side in labels else None)}
                for side in ("source", "target")
            },
            classes="abc",
            task="paired",
        )
        batch = showcase_batch(dataset, task="unpaired", split="train", count=5, device=CPU)
        assert isinstance(batch, Pairs)
        assert numbers(batch.source) == numbers(batch.target) == [3, 0, 5, 4, 1]


def test_an_unpaired_showcase_has_as_many_targets_as_sources(tmp_path):
    dataset = two_domains(tmp_path / "x", task="unpaired", counts=(20, 2))
    batch = showcase_batch(dataset, task="unpaired", split="train", count=5, device=CPU)
    assert isinstance(batch, UnpairedPictures)
    assert (numbers(batch.source), numbers(batch.target)) == ([0, 1, 2, 3, 4], [0, 1, 0, 1, 0])


def test_a_showcase_of_pictures_is_what_it_was(tmp_path):
    dataset = pack(tmp_path / "x", {"pictures": {"train": (numbered(9), [0, 0, 0, 0, 1, 1, 1, 2, 2])}}, classes="abc")
    batch = showcase_batch(dataset, task="pictures", split="train", count=3, device=CPU)
    assert numbers(batch) == [0, 4, 7]
