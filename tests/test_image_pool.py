"""The pool of generated images: what it returns, how old that is, and that its state is all there is."""

import pytest
import torch

from limner.image_pool import ImagePool
from limner.randomness import generator


def numbered(first, count):
    """Images [count, 1, 2, 2], each of one number."""
    return torch.arange(first, first + count, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()


def numbers(images):
    assert (images == images[:, :, :1, :1]).all(), "an image is kept whole"
    return images[:, 0, 0, 0].long().tolist()


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_until_it_is_full_a_pool_returns_what_it_is_given(batch):
    pool, rng = ImagePool(12, 1, 2, 2), generator(0)
    for first in range(0, 12, batch):
        assert torch.equal(pool.exchange(numbered(first, batch), rng), numbered(first, batch))
    assert pool.filled == 12
    assert sorted(numbers(pool.images)) == list(range(12))


@pytest.mark.parametrize("batch", [1, 8])
def test_a_full_pool_returns_a_stored_image_half_of_the_time(batch):
    pool, rng = ImagePool(50, 1, 2, 2), generator(0)
    old, ages = 0, []
    for first in range(0, 8000, batch):
        given = range(first, first + batch)
        returned = numbers(pool.exchange(numbered(first, batch), rng))
        if first >= 400:
            old += sum(one != other for one, other in zip(returned, given, strict=True))
            ages += [one - other for one, other in zip(given, returned, strict=True) if one != other]
    total = 8000 - 400
    assert old / total == pytest.approx(0.5, abs=0.025), "4 standard deviations"
    # A stored image leaves with a probability of 1/2 * 1/50 at every image: it is 100 images old on the average.
    assert sum(ages) / len(ages) == pytest.approx(100, rel=0.1)


def test_every_image_is_returned_or_kept_and_none_twice():
    pool, rng, seen = ImagePool(7, 1, 2, 2), generator(0), []
    for first in range(0, 200, 5):
        seen += numbers(pool.exchange(numbered(first, 5), rng))
    stored = numbers(pool.images)
    assert len(set(stored)) == 7
    # The first seven were shown when they were stored, so they may be shown again; all others leave or stay once.
    later = [each for each in seen if each >= 7]
    assert len(later) == len(set(later))
    assert set(seen) | set(stored) == set(range(200))
    assert not set(later) & set(stored)


def test_a_batch_that_overfills_the_pool_is_treated_image_by_image():
    pool, rng = ImagePool(3, 1, 2, 2), generator(0)
    returned = numbers(pool.exchange(numbered(0, 8), rng))
    assert returned[:3] == [0, 1, 2]
    assert pool.filled == 3
    assert set(returned) | set(numbers(pool.images)) == set(range(8))


def test_a_partly_filled_pool_never_returns_an_empty_place():
    for seed in range(50):
        pool, rng = ImagePool(5, 1, 2, 2), generator(seed)
        assert all(number > 0 for first in (1, 5, 9) for number in numbers(pool.exchange(numbered(first, 4), rng)))


def test_the_same_state_gives_the_same_result():
    pool = ImagePool(4, 1, 2, 2)
    for first in range(0, 12, 3):
        pool.exchange(numbered(first, 3), generator(first))
    again = ImagePool(4, 1, 2, 2)
    again.load_state_dict(pool.state_dict())
    for first in range(12, 30, 3):
        ours, theirs = (each.exchange(numbered(first, 3), generator(first)) for each in (pool, again))
        assert torch.equal(ours, theirs)
    assert set(pool.state_dict()) == {"images", "labels", "filled"}


def test_labels_go_with_their_images():
    pool, rng = ImagePool(4, 1, 2, 2), generator(0)
    for first in range(0, 60, 3):
        images, labels = pool.exchange_labelled(numbered(first, 3), torch.arange(first, first + 3), rng)
        assert numbers(images) == labels.tolist()
    assert numbers(pool.images) == pool.labels.tolist()


def test_images_are_returned_without_gradients_and_what_was_given_is_left_alone():
    pool, images = ImagePool(2, 1, 2, 2), numbered(0, 2).requires_grad_()
    assert not pool.exchange(images, generator(0)).requires_grad
    given = numbered(5, 6)
    before = given.clone()
    shown = pool.exchange(given, generator(1))
    assert torch.equal(given, before)
    shown.zero_()
    assert pool.images.abs().sum() > 0, "what is returned is no view of what is stored"


def test_a_pool_of_no_size_is_no_pool():
    pool = ImagePool(0, 1, 2, 2)
    assert torch.equal(pool.exchange(numbered(3, 4), generator(0)), numbered(3, 4))
    images, labels = pool.exchange_labelled(numbered(3, 4), torch.arange(4), generator(0))
    assert torch.equal(labels, torch.arange(4))
    assert torch.equal(images, numbered(3, 4))
