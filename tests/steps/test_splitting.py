"""Which picture is held out: decided by its content, with the exceptions that keep small sets usable."""

import hashlib

import pytest

from limner.steps.splitting import Splitter


def digest(share):
    """A digest of which the first 64 bits are this share of all values."""
    return int(share * 2**64).to_bytes(8, "big") + hashlib.sha256(str(share).encode()).digest()[8:]


def split(*items, validation=0.5):
    """What each split is given of items (share, label)."""
    found = {"train": [], "validation": []}
    splitter = Splitter(validation, lambda split, share: found[split].append(share))
    for share, label in items:
        splitter.add_by_hash(share, digest=digest(share), label=label)
    splitter.finish()
    assert {name: len(shares) for name, shares in found.items() if shares} == dict(splitter.counts)
    return found["train"], found["validation"]


def test_what_lies_below_the_share_is_held_out():
    train, validation = split(*((share / 10, None) for share in (9, 1, 7, 3, 6, 4)))
    assert (sorted(train), validation) == ([0.6, 0.7, 0.9], [0.1, 0.3, 0.4])


def test_the_first_of_each_class_is_trained_on():
    train, validation = split((0.1, 0), (0.2, 1), (0.3, 0), (0.4, 1))
    assert (sorted(train), validation) == ([0.1, 0.2], [0.3, 0.4])


def test_where_nobody_would_be_held_out_the_lowest_that_is_no_first_of_its_class_is():
    train, validation = split((0.6, 0), (0.9, 0), (0.8, 0), (0.7, 1))
    assert (sorted(train), validation) == ([0.6, 0.7, 0.9], [0.8])


def test_where_all_are_the_first_of_their_class_the_lowest_is_held_out():
    train, validation = split((0.9, 0), (0.2, 1), (0.3, 2))
    assert (sorted(train), validation) == ([0.3, 0.9], [0.2])


@pytest.mark.parametrize("validation", [0, 0.5])
def test_one_alone_is_trained_on(validation):
    assert split((0.1, None), validation=validation) == ([0.1], [])


def test_without_a_share_nothing_is_held_out():
    assert split((0.0, None), (0.0, None), validation=0) == ([0.0, 0.0], [])


def test_the_publisher_decides_where_he_does():
    found = []
    splitter = Splitter(0.1, lambda split, item: found.append((split, item)))
    splitter.add_as_published("a", held_out=True, label=0)
    splitter.add_as_published("b", held_out=False, label=0)
    splitter.finish()
    assert found == [("validation", "a"), ("train", "b")]
