"""Plain folders and class folders, unpacked or in archives, one or several."""

import os
import tarfile

import pytest

from limner.errors import LimnerError
from limner.sources import Picture
from limner.sources.folder import open_class_folders, open_folder


def write(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def pack(folder, archive, *, below=""):
    with tarfile.open(archive, "w") as packed:
        packed.add(folder, below)
    return str(archive)


def labelled(source):
    return {item.name: source.classes[item.label] for item in source.pictures if isinstance(item, Picture)}


def plain(path):
    return list(open_folder(path, largest_file=1000).pictures)


def classes(path):
    return open_class_folders(path, largest_file=1000)


# -- plain folders ----------------------------------------------------------------------------------------------------


def test_a_plain_folder_has_no_labels_and_its_subfolders_do_not_matter(tmp_path):
    items = plain(str(write(tmp_path, "b.png", "a/c.png", "x.txt")))
    pictures = [item for item in items if isinstance(item, Picture)]
    assert [(picture.name, picture.label) for picture in pictures] == [("a/c.png", None), ("b.png", None)]
    assert pictures[0].fetch() == b"a/c.png"
    assert [(item.name, item.reason) for item in items if item not in pictures] == [("*.txt", "other file type")]
    assert open_folder(str(tmp_path), largest_file=1000).classes == ()


def test_several_folders_and_archives_are_one_set_with_names_that_differ(tmp_path):
    one, two = write(tmp_path / "one", "x.png", "y.txt"), write(tmp_path / "two", "x.png")
    items = plain([str(one), pack(two, tmp_path / "two.tar")])
    assert [item.name for item in items] == ["one/*.txt", "one/x.png", "two.tar/x.png"]


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "pictures", "x.png")
    assert len(plain("~/pictures")) == 1


@pytest.mark.parametrize("content", [[], ["notes.txt", ".DS_Store"]])
def test_a_folder_without_a_picture_is_an_error_that_says_what_there_is(tmp_path, content):
    write(tmp_path, *content)
    what = r"1 hidden \(\.\*\); 1 other file type \(\*\.txt\)" if content else "nothing at all"
    with pytest.raises(LimnerError, match=f"(?s)There is no picture in {tmp_path}.*{what}.*path"):
        plain(str(tmp_path))


def test_no_path_at_all_is_an_error():
    with pytest.raises(LimnerError, match="an empty list of paths"):
        plain([])


def test_a_missing_folder_is_an_error_with_the_nearest_name(tmp_path):
    write(tmp_path / "photos", "train/x.png")
    with pytest.raises(
        LimnerError, match=f"no folder or archive {tmp_path}/photoz/train.*\nDid you mean {tmp_path}/photos?"
    ):
        plain(str(tmp_path / "photoz" / "train"))


def test_a_missing_folder_that_resembles_nothing_says_where_paths_begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LimnerError, match=f"no folder or archive qqq.*\nPaths are relative to {tmp_path}"):
        plain("qqq")
    with pytest.raises(LimnerError, match="Check the path"):
        plain(str(tmp_path / "qqq"))


def test_a_path_below_a_file_is_missing(tmp_path):
    write(tmp_path, "x.png")
    with pytest.raises(LimnerError, match="no folder or archive"):
        plain(str(tmp_path / "x.png" / "y"))


def test_a_path_that_cannot_be_looked_at_or_is_neither_is_an_error(tmp_path):
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(LimnerError, match=r"loop cannot be read\.\nToo many levels"):
        plain(str(tmp_path / "loop"))
    with pytest.raises(LimnerError, match=r"pipe is neither a folder nor an archive\.\nIt is a pipe"):
        plain(str(tmp_path / "pipe"))


# -- class folders ----------------------------------------------------------------------------------------------------


def test_the_first_folder_is_the_class_and_classes_are_sorted(tmp_path):
    source = classes(str(write(tmp_path, "zebra/1.png", "ant/deep/down/2.png", "Bär/3.png")))
    assert source.classes == ("Bär", "ant", "zebra")
    assert labelled(source) == {"zebra/1.png": "zebra", "ant/deep/down/2.png": "ant", "Bär/3.png": "Bär"}


def test_a_picture_beside_the_class_folders_is_set_aside(tmp_path):
    source = classes(str(write(tmp_path, "a/1.png", "stray.png")))
    assert source.classes == ("a",)
    [entry] = [item for item in source.pictures if not isinstance(item, Picture)]
    assert (entry.name, entry.reason) == ("stray.png", "outside the classes")


def test_a_folder_with_no_picture_is_no_class(tmp_path):
    write(tmp_path, "a/1.png", "logs/x.txt")
    (tmp_path / "empty").mkdir()
    source = classes(str(tmp_path))
    assert source.classes == ("a",)
    reasons = {item.name: item.reason for item in source.pictures if not isinstance(item, Picture)}
    assert reasons == {"empty": "empty folder", "*.txt": "other file type"}


def test_no_class_folder_at_all_is_an_error_that_names_the_other_kind(tmp_path):
    with pytest.raises(LimnerError, match=r"(?s)no subfolder with pictures.*write kind: folder"):
        classes(str(write(tmp_path, "1.png")))


@pytest.mark.parametrize("below", ["", "train", "data/animals/train"])
def test_the_top_folders_that_an_archive_shares_are_not_classes(tmp_path, below):
    folder = write(tmp_path / "unpacked", "cat/1.png", "dog/2.png", "dog/small/3.png")
    source = classes(pack(folder, tmp_path / "x.tar", below=below))
    assert source.classes == ("cat", "dog")
    top = f"{below}/" if below else ""
    assert labelled(source) == {f"{top}cat/1.png": "cat", f"{top}dog/2.png": "dog", f"{top}dog/small/3.png": "dog"}


def test_a_picture_in_the_top_folder_of_an_archive_is_outside_the_classes(tmp_path):
    folder = write(tmp_path / "unpacked", "cat/1.png", "dog/2.png", "stray.png")
    source = classes(pack(folder, tmp_path / "x.tar", below="train"))
    assert source.classes == ("cat", "dog")
    [entry] = [item for item in source.pictures if not isinstance(item, Picture)]
    assert (entry.name, entry.reason) == ("train/stray.png", "outside the classes")


def test_of_an_archive_with_one_folder_of_pictures_that_folder_is_the_class(tmp_path):
    folder = write(tmp_path / "unpacked", "cat/1.png", "cat/2.png")
    assert classes(pack(folder, tmp_path / "x.tar", below="train")).classes == ("cat",)


def test_several_archives_with_the_same_classes_are_put_together(tmp_path):
    one = pack(write(tmp_path / "one", "cat/1.png", "dog/2.png"), tmp_path / "one.tar", below="train")
    two = pack(write(tmp_path / "two", "dog/1.png", "fox/2.png"), tmp_path / "two.tar", below="train")
    source = classes([one, two])
    assert source.classes == ("cat", "dog", "fox")
    assert labelled(source) == {
        "one.tar/train/cat/1.png": "cat",
        "one.tar/train/dog/2.png": "dog",
        "two.tar/train/dog/1.png": "dog",
        "two.tar/train/fox/2.png": "fox",
    }


# -- what partners have in common -------------------------------------------------------------------------------------


def keys(source):
    return [item.key for item in source.pictures if isinstance(item, Picture)]


def test_a_key_is_the_path_without_the_extension_and_keeps_its_case(tmp_path):
    write(tmp_path / "raw", "A.png", "a.b.jpg", "deep/x.PNG")
    assert keys(open_folder(str(tmp_path / "raw"), largest_file=1000)) == ["A", "a.b", "deep/x"]


def test_what_all_pictures_of_an_archive_have_in_common_is_no_part_of_the_key(tmp_path):
    raw = write(tmp_path / "raw", "cat/x.png", "dog/x.png")
    for below in ("", "photos/train"):
        archive = pack(raw, tmp_path / "raw.tar", below=below)
        assert sorted(keys(open_folder(archive, largest_file=1000))) == ["cat/x", "dog/x"]
        assert sorted(keys(classes(archive))) == ["cat/x", "dog/x"]
    one = pack(write(tmp_path / "one", "x.png"), tmp_path / "one.tar", below="drawings")
    assert keys(open_folder(one, largest_file=1000)) == ["x"]


def test_keys_of_several_roots_count_them(tmp_path):
    roots = [str(write(tmp_path / name, "x.png")) for name in ("trainA", "valA")]
    assert keys(open_folder(roots, largest_file=1000)) == ["0/x", "1/x"]
