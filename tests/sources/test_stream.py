"""Decoding by several threads: in order, few at a time, and nothing left behind."""

import os
import time

import numpy as np

from limner.settings import ImageSettings
from limner.sources import Picture, Refused, SetAside
from limner.sources.stream import WORKERS, decoded

IMAGE = ImageSettings(size=8, channels=1)


def picture(index):
    def fetch():
        time.sleep(0.002 * (7 * index % 5))  # later ones overtake earlier ones
        return np.full((8, 8), index % 256, dtype=np.uint8)

    return Picture(str(index), fetch)


def test_entries_come_in_the_order_of_the_items():
    entries = list(decoded((picture(index) for index in range(60)), IMAGE))
    assert [entry.picture.name for entry in entries] == [str(index) for index in range(60)]
    assert [int(entry.result.pixels[0, 0, 0]) for entry in entries] == list(range(60))


def test_only_a_window_of_pictures_is_in_memory():
    taken = []

    def items():
        for index in range(300):
            taken.append(index)
            yield picture(index)

    stream = decoded(items(), IMAGE)
    next(stream)
    assert len(taken) <= 4 * WORKERS + 1
    stream.close()


def test_leaving_early_drops_what_was_not_begun():
    begun = []

    def fetch():
        begun.append(1)
        time.sleep(0.05)
        return np.zeros((8, 8), dtype=np.uint8)

    stream = decoded((Picture(str(index), fetch) for index in range(300)), IMAGE)
    next(stream)
    stream.close()
    workers = min(WORKERS, os.cpu_count())
    assert len(begun) <= 2 * workers + 1


def test_a_refusal_takes_the_place_of_its_picture():
    def refuse():
        raise Refused("unreadable", "Input/output error")

    items = [Picture("a", refuse), SetAside("b", "link loop"), picture(3)]
    a, b, c = decoded(iter(items), IMAGE)
    assert a.result == SetAside("a", "unreadable", "Input/output error")
    assert b.result == SetAside("b", "link loop")
    assert c.result.pixels.shape == (8, 8, 1)


def test_the_fingerprint_follows_name_and_content():
    def print_of(name, content):
        [entry] = decoded(iter([Picture(name, lambda: content)]), IMAGE)
        return entry.fingerprint

    black, white = np.zeros((8, 8), np.uint8), np.full((8, 8), 255, np.uint8)
    assert print_of("a", black) == print_of("a", black.copy())
    assert len({print_of("a", black), print_of("b", black), print_of("a", white)}) == 3
