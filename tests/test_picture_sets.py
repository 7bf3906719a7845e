"""A set of pictures: folders, archives and packed datasets alike; nothing is trusted, nothing dropped in silence."""

import os
import tarfile
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limner import picture_sets
from limner.errors import LimnerError
from limner.picture_sets import MOST_NAMED, Reader, ReadOptions, open_pictures, refuse_damaged
from tests.packed import pack
from tests.picture_folders import draw, fill, spoil

MIXED = ReadOptions(mixed_sizes=True)


def read_all(path, options=None):
    """Pixels by number, and what was damaged."""
    options = options or ReadOptions(threads=2)
    pictures = open_pictures(path, options)
    reader = Reader(pictures, options)
    found = {int(n): p for batch in reader for n, p in zip(batch.numbers, batch.pixels, strict=True)}
    return pictures, found, reader.damaged


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / "pictures", 7)
    return fill(tmp_path / "pictures" / "below", 4, seed=1).parent


def test_a_folder_is_read_with_all_below_it(folder):
    pictures, found, damaged = read_all(folder)
    assert (pictures.kind, pictures.count, dict(pictures.sizes), damaged) == ("folder", 11, {(16, 12): 11}, {})
    assert list(found) == list(range(11))
    for number, name in enumerate(pictures.names):
        np.testing.assert_array_equal(found[number], np.asarray(Image.open(folder / name)))


def test_archives_hold_the_same_pictures(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive, tarfile.open(tmp_path / "set.tar.gz", "w:gz") as tar:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
            tar.add(path, path.relative_to(folder))
    whole, found, _ = read_all(folder)
    for name in ("set.zip", "set.tar.gz"):
        pictures, same, _ = read_all(tmp_path / name)
        assert (pictures.kind, pictures.digest) == ("archive", whole.digest)
        assert all(np.array_equal(found[number], same[number]) for number in found)
        part, some, _ = read_all(tmp_path / name, ReadOptions(count=4))
        assert sorted(some) == list(range(4))
        assert all(np.array_equal(some[n], np.asarray(Image.open(folder / part.names[n]))) for n in some)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_packed_dataset_is_a_set_of_pictures(tmp_path, channels):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 6, 5, channels), dtype=np.uint8)
    pack(tmp_path / "packed", {"pictures": {"train": (pixels, None), "validation": (pixels[:3], None)}})
    pictures, found, _ = read_all(tmp_path / "packed")
    assert (pictures.count, dict(pictures.sizes)) == (9, {(5, 6): 9})
    assert all(found[n].shape == (6, 5, 3) and np.array_equal(found[n][..., 0], pixels[n, ..., 0]) for n in range(9))
    assert any("9 pictures with transparency" in note for note in pictures.notes) == (channels == 4)
    held_out, few, _ = read_all(tmp_path / "packed", ReadOptions(split="validation"))
    assert len(few) == 3
    assert held_out.digest != pictures.digest


def test_a_dataset_of_two_domains_asks_which(tmp_path):
    pixels = np.zeros((4, 6, 5, 3), np.uint8)
    pack(tmp_path / "two", {"source": {"train": (pixels, None)}, "target": {"train": (pixels[:2], None)}})
    with pytest.raises(LimnerError, match=r"has the domains source and target.\n.*\n.*--domain"):
        open_pictures(tmp_path / "two", ReadOptions())
    with pytest.raises(LimnerError, match=r"no domain 'targte'.\nDid you mean 'target'"):
        open_pictures(tmp_path / "two", ReadOptions(domain="targte"))
    assert open_pictures(tmp_path / "two", ReadOptions(domain="target")).count == 2
    with pytest.raises(LimnerError, match=r"split 'validation' of .* is empty"):
        open_pictures(tmp_path / "two", ReadOptions(domain="target", split="validation"))


def test_a_damaged_packed_dataset_is_refused(tmp_path):
    pixels = np.zeros((4, 6, 5, 3), np.uint8)
    pack(tmp_path / "packed", {"pictures": {"train": (pixels, None)}})
    (shard,) = (tmp_path / "packed").rglob("*.raw")
    shard.write_bytes(b"\1" + shard.read_bytes()[1:])
    with pytest.raises(LimnerError, match="the SHA-256 differs"):
        open_pictures(tmp_path / "packed", ReadOptions())


def test_the_digest_is_of_the_contents_in_order(folder, tmp_path):
    first = open_pictures(folder, ReadOptions())
    (folder / "0000.png").rename(folder / "0000a.png")
    assert open_pictures(folder, ReadOptions()).digest == first.digest
    draw(99).save(folder / "0000a.png")
    assert open_pictures(folder, ReadOptions()).digest != first.digest


def test_damaged_pictures_stop_the_batches_and_all_of_them_are_found(folder):
    for name in ("0001.png", "0005.png"):
        spoil(folder / name)
    (folder / "below" / "0002.png").write_bytes(b"no picture")
    pictures, found, damaged = read_all(folder)
    assert found == {}, "the header of one is bad, so nothing needs the network"
    assert sorted(pictures.names[number] for number in damaged) == ["0001.png", "0005.png", "below/0002.png"]
    with pytest.raises(LimnerError, match=r"3 of 11 pictures in .*\n0001.png \(damaged.*0005.png.*\n.*--skip-damaged"):
        refuse_damaged(pictures, damaged)
    _, found, damaged = read_all(folder, ReadOptions(skip_damaged=True))
    assert (len(found), len(damaged)) == (8, 3)


def test_at_most_twenty_damaged_pictures_are_named(tmp_path):
    folder = fill(tmp_path / "pictures", MOST_NAMED + 5)
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    pictures, _, damaged = read_all(folder)
    with pytest.raises(LimnerError, match=r"25 of 25 pictures .* cannot be read") as raised:
        refuse_damaged(pictures, damaged)
    assert raised.value.why.count("not a picture") == MOST_NAMED
    assert raised.value.why.endswith("; and 5 more")


def test_a_link_that_leads_nowhere_is_a_damaged_picture(folder):
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    pictures, found, damaged = read_all(folder)
    assert found == {}
    with pytest.raises(LimnerError, match=r"1 of 12 pictures .*\n.*gone.png \(broken link"):
        refuse_damaged(pictures, damaged)
    assert len(read_all(folder, ReadOptions(skip_damaged=True))[1]) == 11


def test_files_that_are_no_pictures_are_counted(folder):
    for name in ("notes.txt", "more.txt", ".hidden.png"):
        (folder / name).write_text("x")
    pictures, found, _ = read_all(folder)
    assert len(found) == 11
    assert "not pictures: 2 x *.txt (other file type, such as more.txt)" in pictures.notes
    assert any("hidden" in note for note in pictures.notes)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(LimnerError, match=r"There is no picture in .*\nIt is empty"):
        open_pictures(tmp_path, ReadOptions())
    (tmp_path / "notes.txt").touch()
    with pytest.raises(LimnerError, match=r"There is no picture in .*\n1 x \*.txt"):
        open_pictures(tmp_path, ReadOptions())


def test_what_is_not_there_is_told_with_the_nearest_name(folder):
    with pytest.raises(LimnerError, match=r"no folder or archive .*\n.*Did you mean .*pictures"):
        open_pictures(folder.parent / "picture", ReadOptions())
    (folder / "set.dat").write_bytes(b"neither")
    with pytest.raises(LimnerError, match="neither a folder nor an archive"):
        open_pictures(folder / "set.dat", ReadOptions())


def test_one_picture_and_weights_are_told_from_a_set(folder):
    with pytest.raises(LimnerError, match=r"0000.PNG is one picture.\n.*\nName its folder: .*pictures$"):
        open_pictures((folder / "0000.png").rename(folder / "0000.PNG"), ReadOptions())
    for name in ("inception.pth", "inception.pt", "inception.pkl"):
        (folder / name).touch()
        with pytest.raises(LimnerError, match=rf"{name} looks like weights, .*\n.*--weights"):
            open_pictures(folder / name, ReadOptions())


def test_looking_over_tells_how_far_it_is(folder):
    told = []
    open_pictures(folder, ReadOptions(count=9), lambda *counts: told.append(counts))
    assert told == [(number, 9) for number in range(1, 10)]


def test_different_sizes_are_named_and_counted(folder):
    fill(folder / "large", 3, size=(20, 30))
    with pytest.raises(LimnerError, match=r"2 different sizes.\n16x12 \(11\), 20x30 \(3\)\n.*--mixed-sizes"):
        open_pictures(folder, ReadOptions())
    _, found, _ = read_all(folder, MIXED)
    assert {pixels.shape for pixels in found.values()} == {(12, 16, 3), (30, 20, 3)}


@settings(max_examples=15, deadline=None)
@given(sizes=st.lists(st.integers(1, 3), min_size=1, max_size=25), batch=st.integers(1, 9), waiting=st.integers(1, 400))
def test_every_picture_comes_once_in_batches_of_one_size(sizes, batch, waiting, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mixed")
    for number, size in enumerate(sizes):
        draw(number, (size, size)).save(folder / f"{number:03}.png")
    options = ReadOptions(mixed_sizes=True, batch=batch, threads=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(picture_sets, "WAITING_BYTES", waiting)
        batches = list(Reader(open_pictures(folder, options), options))
    assert sorted(int(n) for one in batches for n in one.numbers) == list(range(len(sizes)))
    for one in batches:
        assert len(one.numbers) <= batch
        for number, pixels in zip(one.numbers, one.pixels, strict=True):
            np.testing.assert_array_equal(pixels, np.asarray(Image.open(folder / f"{number:03}.png")))


def test_pictures_that_wait_for_others_of_their_size_are_bounded_by_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_sets, "WAITING_BYTES", 4 * 8 * 8 * 3)
    for number in range(12):
        draw(number, (8, 8 - number % 2)).save(tmp_path / f"{number:02}.png")
    options = ReadOptions(mixed_sizes=True, batch=100)
    lengths = [len(batch.numbers) for batch in Reader(open_pictures(tmp_path, options), options)]
    assert sum(lengths) == 12
    assert max(lengths) <= 4


def test_large_pictures_make_small_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_sets, "BATCH_BYTES", 2 * 16 * 12 * 3)
    options = ReadOptions(batch=5)
    pictures = open_pictures(fill(tmp_path / "pictures", 5), options)
    assert [len(batch.numbers) for batch in Reader(pictures, options)] == [2, 2, 1]


def test_a_selection_is_drawn_and_is_the_same_again(tmp_path):
    folder = fill(tmp_path / "pictures", 40)
    chosen = open_pictures(folder, ReadOptions(count=10))
    assert chosen.count == 10
    assert chosen.names != tuple(f"{number:04}.png" for number in range(10)), "the first ones would be a trap"
    assert chosen.names == open_pictures(folder, ReadOptions(count=10)).names
    assert "10 of 40 pictures, drawn at random with a fixed seed" in chosen.notes
    with pytest.raises(LimnerError, match="--count 41 is more than the 40 pictures"):
        open_pictures(folder, ReadOptions(count=41))


@pytest.mark.parametrize(
    ("change", "words"), [({"count": 0}, "--count 0"), ({"batch": 0}, "--batch 0"), ({"threads": -1}, "--threads -1")]
)
def test_options_out_of_range_are_refused(change, words):
    with pytest.raises(LimnerError, match=words):
        ReadOptions(**change)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_a_damaged_picture(folder):
    (folder / "0000.png").chmod(0)
    pictures, _, damaged = read_all(folder)
    with pytest.raises(LimnerError, match=r"0000.png \(unreadable"):
        refuse_damaged(pictures, damaged)


def test_whoever_stops_early_leaves_no_thread_behind(folder):
    import threading

    options = ReadOptions(batch=1, threads=3)
    batches = iter(Reader(open_pictures(folder, options), options))
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if "ThreadPool" in thread.name]
