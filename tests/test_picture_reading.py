"""Pictures are read as the reference tools read them, and whatever is wrong with one comes back as words."""

import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from limner import picture_reading
from limner.picture_reading import (
    ALPHA,
    DEEP,
    FRAMES,
    INKS,
    ORIENTED,
    TRAITS,
    in_colour,
    in_order,
    may_pass,
    read,
    read_header,
)
from limner.sources import Refused
from tests.picture_folders import draw


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def looked(content):
    return read_header(0, lambda: content)[1]


def pixels_of(content):
    return read(0, lambda: content, looked(content).digest)[1]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_pixels_are_those_of_convert_rgb(mode):
    content = encoded(draw(1, mode=mode), "TIFF" if mode == "CMYK" else "PNG")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert pixels_of(content).shape == (12, 16, 3)
    np.testing.assert_array_equal(pixels_of(content), expected)


def test_what_differs_from_what_a_person_sees_is_named():
    exif = Image.Exif()
    exif[0x0112] = 6
    cases = {
        encoded(draw(1)): (),
        encoded(draw(1, mode="RGBA")): (ALPHA,),
        encoded(draw(1), "JPEG", exif=exif): (ORIENTED,),
        encoded(draw(1), "PNG", exif=exif): (ORIENTED,),
        encoded(draw(1), "GIF", save_all=True, append_images=[draw(2)]): (FRAMES,),
        encoded(Image.fromarray(np.full((4, 4), 40_000, np.uint16))): (DEEP,),
        encoded(draw(1, mode="CMYK"), "JPEG"): (INKS,),
    }
    assert [looked(content).traits for content in cases] == list(cases.values())


def test_an_orientation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(draw(1, (40, 20)), "PNG", exif=exif)
    assert looked(content).size == (40, 20)
    assert pixels_of(content).shape == (20, 40, 3)


def test_grey_of_16_bits_is_nearly_white_as_its_note_says():
    content = encoded(Image.fromarray(np.full((4, 4), 300, np.uint16)))
    assert (pixels_of(content) == 255).all(), "Pillow scales now: the note is wrong"
    assert "nearly white; save them with 8 bits" in TRAITS[DEEP]


@pytest.mark.parametrize(
    ("content", "words"), [(b"", "not a picture"), (b"GIF89a", "damaged|not a picture"), (b"<html>", "not a picture")]
)
def test_what_is_no_picture_comes_back_as_words(content, words):
    found = looked(content)
    assert isinstance(found, str)
    assert found.startswith(tuple(words.split("|")))


def test_a_cut_file_is_found_when_it_is_decoded():
    content = encoded(draw(1, (64, 64)))[:3000]
    assert looked(content).size == (64, 64)
    assert read(0, lambda: content, looked(content).digest)[1].startswith("damaged")


def test_a_file_that_has_changed_since_is_refused():
    first, second = encoded(draw(1)), encoded(draw(2))
    assert "changed" in read(0, lambda: second, looked(first).digest)[1]


def test_a_file_that_cannot_be_fetched_comes_back_as_words():
    def gone():
        raise Refused("unreadable", "Permission denied")

    assert read_header(3, gone) == (3, "unreadable: Permission denied")
    assert read(3, gone, b"") == (3, "unreadable: Permission denied")


def test_only_what_the_contents_are_to_blame_for_lasts():
    def broken():
        raise OSError(5, "Input/output error")

    cut = encoded(draw(1, (64, 64)))[:3000]
    assert may_pass(read_header(3, broken)[1])
    assert may_pass(read(0, lambda: encoded(draw(2)), looked(encoded(draw(1))).digest)[1])
    assert not may_pass(read(0, lambda: cut, looked(cut).digest)[1])
    assert not may_pass(looked(b"no picture"))


@pytest.mark.parametrize("function", [read_header, lambda number, fetch: read(number, fetch, b"")])
def test_too_little_memory_is_not_taken_for_damage(function):
    def large():
        raise MemoryError("too little")

    with pytest.raises(MemoryError, match="too little"):
        function(0, large)


def test_a_picture_that_claims_to_be_huge_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(picture_reading, "MOST_PIXELS", 100)
    assert looked(encoded(draw(1))) == "too large: 16x12"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_raw_pixels_become_colours(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, channels), dtype=np.uint8)
    assert in_colour(pixels).shape == (5, 4, 3)
    np.testing.assert_array_equal(in_colour(pixels)[..., 0], pixels[..., 0])
    np.testing.assert_array_equal(read(7, lambda: pixels, b"")[1], in_colour(pixels))


def test_results_come_in_order_and_few_are_under_way():
    waiting, most, lock = 0, [], threading.Lock()

    def job(number):
        nonlocal waiting
        time.sleep(0.001 * (number % 3))
        with lock:
            waiting += 1
        return number

    taken = []
    with ThreadPoolExecutor(4) as pool:
        for number in in_order(pool, (((lambda n=n: job(n)), 1) for n in range(60)), most=5):
            with lock:
                waiting -= 1
                most.append(waiting)
            taken.append(number)
            time.sleep(0.001)
    assert taken == list(range(60))
    assert max(most) <= 5


def test_what_is_decoded_ahead_is_bounded_by_bytes(monkeypatch):
    monkeypatch.setattr(picture_reading, "AHEAD_BYTES", 10)
    started = []
    with ThreadPoolExecutor(1) as pool:
        results = in_order(pool, (((lambda n=n: started.append(n) or n), 4) for n in range(9)), most=100)
        assert next(results) == 0
        time.sleep(0.05)
        assert len(started) <= 3
        assert list(results) == list(range(1, 9))
