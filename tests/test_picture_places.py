"""Where pictures come from and results go: sources are never replaced, results are whole, no word is passed over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from limner.errors import LimnerError
from limner.picture_places import (
    RECORD,
    FolderDestination,
    SingleObject,
    StoreDestination,
    find_pictures,
    format_record,
    name_results,
    refuse_overwriting,
    refuse_overwriting_in_store,
    results_of_record,
)
from limner.sources import Refused


class Shelf:
    """An object store in a dictionary; `broken` keys cannot be read, and `down` says that it does not answer."""

    def __init__(self, *keys: str) -> None:
        self.objects = dict.fromkeys(keys, b"content")
        self.broken: set[str] = set()
        self.down = False

    def sizes(self, prefix):
        if self.down:
            raise LimnerError("The store does not answer.")
        return {key: len(content) for key, content in self.objects.items() if key.startswith(prefix)}

    def get(self, key, path):
        if self.down or key in self.broken or key not in self.objects:
            raise LimnerError("The store does not do what it is asked.", why="AccessDenied")
        path.write_bytes(self.objects[key])

    def put(self, key, path):
        self.objects[key] = path.read_bytes()

    def delete(self, keys):
        for key in keys:
            del self.objects[key]


def find(*words: str | Path, earlier_results=(), **stores):
    return find_pictures(
        map(str, words), max_megapixels=1, stores=stores.get("stores", {}), earlier_results=earlier_results
    )


def put(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"content")


# -- writing ----------------------------------------------------------------------------------------------------------


def test_a_result_has_all_its_bytes_when_it_takes_its_place(tmp_path, monkeypatch):
    sizes, replace = [], Path.replace

    def watched(self, target):
        sizes.append(self.stat().st_size)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    FolderDestination(tmp_path).write("sea/a.png", b"some bytes")
    assert sizes == [10]
    assert (tmp_path / "sea" / "a.png").read_bytes() == b"some bytes"


def test_results_have_the_rights_that_the_user_wants_files_to_have(tmp_path):
    before = os.umask(0o027)
    try:
        FolderDestination(tmp_path).write("a.png", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == 0o640


def test_a_full_disk_leaves_what_was_there_and_nothing_else(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    put(tmp_path, "a.png")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(LimnerError, match="cannot be written"):
        FolderDestination(tmp_path).write("a.png", b"more than before")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.png": b"content"}


# -- finding ----------------------------------------------------------------------------------------------------------


def test_every_word_has_to_find_something(tmp_path):
    put(tmp_path, "a.png", "notes/text.txt")
    (tmp_path / "nothing").mkdir()
    for word in (f"{tmp_path}/nothing", f"{tmp_path}/notes", f"{tmp_path}/notes/*", "s3://b/typo"):
        with pytest.raises(LimnerError, match=r"no picture to stylize in .*(nothing|notes|typo)"):
            find(tmp_path / "a.png", word, stores={"s3://b/typo": Shelf()})


def test_an_object_is_called_what_it_is(tmp_path):
    word = "s3://b/photos/a.png"
    (found,) = find(word, stores={word: SingleObject(Shelf("a.png", "a.png.bak"), "a.png")}).pictures
    assert (found.name, found.relative, found.address) == (word, "a.png", word)
    (found,) = find("s3://b/photos/", stores={"s3://b/photos/": Shelf("sea/a.png")}).pictures
    assert (found.name, found.relative) == ("s3://b/photos/sea/a.png", "sea/a.png")


def test_no_key_leads_out_of_the_folder_of_the_results():
    shelf = Shelf("/etc/a.png", "../b.png", "sea/../../c.png", "./d//e.png")
    search = find("s3://b/photos", stores={"s3://b/photos": shelf})
    assert sorted(name_results(search, None)) == ["d/e.png", "etc/a.png"]
    assert "2 other files, such as ../b.png" in search.left_aside[0]


def test_an_object_that_cannot_be_read_is_its_own_problem_but_a_silent_store_is_everybodys():
    shelf = Shelf("a.png", "b.png", "gone.png")
    first, second, third = find("s3://b", stores={"s3://b": shelf}).pictures
    shelf.broken = {"a.png"}
    del shelf.objects["gone.png"]
    for found in (first, third):
        with pytest.raises(Refused, match="unreadable"):
            found.fetch()
    assert second.fetch() == b"content"
    shelf.down = True
    with pytest.raises(LimnerError, match="does not answer"):
        second.fetch()


def test_a_result_in_a_store_that_cannot_be_read_is_there_all_the_same():
    shelf = Shelf("a.png")
    shelf.broken = {"a.png"}
    destination = StoreDestination(shelf)
    assert (destination.digest("a.png"), destination.digest("b.png")) == ("?", "")


def test_a_glob_does_not_take_earlier_results_for_sources(tmp_path):
    put(tmp_path, "photos/a.jpg", "photos/out/a.jpg", "photos/out/mine.jpg")
    out = tmp_path / "photos" / "out"
    (out / RECORD).write_bytes(format_record({"a.jpg": {}}))
    search = find(f"{tmp_path}/photos/**/*.jpg", earlier_results=results_of_record(out))
    assert [found.relative for found in search.pictures] == ["a.jpg", "out/mine.jpg"]
    assert search.left_aside == [f"{tmp_path}/photos/**/*.jpg: 1 matches that are results of an earlier call"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_record_that_may_not_be_read_is_told(tmp_path):
    (tmp_path / RECORD).touch(mode=0o000)
    with pytest.raises(LimnerError, match="cannot be read"):
        FolderDestination(tmp_path).read_record()


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "file_format", "result"),
    [
        *(("a.JPG", None, "a.JPG"), ("a.jfif", None, "a.jfif"), ("a.gif", None, "a.png"), ("a.apng", None, "a.apng")),
        *(("a.jpeg", "jpeg", "a.jpeg"), ("a.jpeg", "png", "a.png"), ("a.tif", "png", "a.png")),
        *(("a.b.webp", "jpeg", "a.b.jpg"), ("sea.side/a.bmp", "webp", "sea.side/a.webp")),
    ],
)
def test_a_result_has_the_suffix_of_its_format(source, file_format, result):
    search = find("s3://b", stores={"s3://b": Shelf(source)})
    assert name_results(search, file_format) == [result]


# -- sources stay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "keys", "out", "message"),
    [
        ("s3://b/photos/a.png", ["a.png"], "s3://b/photos", "s3://b/photos/a.png is a source"),
        ("s3://b/photos", ["a.png"], "s3://b//photos", "whose pictures are the sources"),
        ("s3://b/photos", ["a.png"], "S3://b/photos", "whose pictures are the sources"),
        ("s3://b/photos", ["a.png"], "s3://b/photos/styled/", "whose pictures are the sources"),
        ("s3://b//photos/", ["a.png"], "s3://b/photos", "whose pictures are the sources"),
        ("s3://b/photos/x", ["a.png", "x/a.png"], "s3://b/photos", "s3://b/photos/x/a.png is a source"),
        ("s3://b/photos/x", ["x/a.png"], "s3://b/photos", "whose pictures are the sources"),
        ("s3://b", ["a.png"], "s3://b/out", "whose pictures are the sources"),
        ("s3://b/photos", ["a.png"], "s3://b", ""),
        ("s3://b/photos", ["a.png"], "s3://b/photos2", ""),
        ("s3://b/photos", ["a.png"], "s3://c/photos", ""),
        ("s3://b/photos/a.png", ["a.png"], "s3://b/photos/out", ""),
    ],
)
def test_no_object_that_is_a_source_is_replaced(word, keys, out, message):
    store = SingleObject(Shelf(*keys), "a.png") if word.endswith(".png") else Shelf(*keys)
    search = find(word, stores={word: store})
    names = name_results(search, None)
    if message:
        with pytest.raises(LimnerError, match=message):
            refuse_overwriting_in_store(out, names, search)
    else:
        refuse_overwriting_in_store(out, names, search)


def test_no_result_lands_among_the_sources(tmp_path):
    put(tmp_path, "photos/x/x/a.png")
    search = find(tmp_path / "photos" / "x")
    with pytest.raises(LimnerError, match="whose pictures are the sources"):
        refuse_overwriting(tmp_path / "photos", name_results(search, None), search)
