"""A folder as a list of picture files: nothing hangs, runs in circles or goes missing without a word."""

import io
import os
import socket

import pytest

from limner.errors import LimnerError
from limner.sources import Refused
from limner.sources.tree import read_whole, scan_folder

PIPE_WAITS = pytest.mark.timeout(20)


def scan(folder, *, largest_file=1000):
    return scan_folder(folder, largest_file=largest_file)


def write(path, content=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def names(tree):
    return ["/".join(parts) for parts in tree.pictures]


def set_aside(tree):
    return {entry.name: (entry.reason, entry.count) for entry in tree.set_aside}


def test_pictures_are_found_by_suffix_at_any_depth_and_sorted_by_path(tmp_path):
    for name in ("b.PNG", "a/z.jpeg", "a/b/c.tif", "a.webp"):
        write(tmp_path / name, name.encode())
    tree = scan(tmp_path)
    assert names(tree) == ["a/b/c.tif", "a/z.jpeg", "a.webp", "b.PNG"]
    assert [fetch() for _, fetch in tree.walk()] == [name.encode() for name in names(tree)]
    assert tree.set_aside == ()


def test_other_files_are_counted_by_suffix_with_an_example(tmp_path):
    for name in ("a.txt", "b/c.TXT", "d.npz", "README", ".DS_Store", "b/.DS_Store", "__MACOSX/._x.png", "x.png"):
        write(tmp_path / name)
    tree = scan(tmp_path)
    assert names(tree) == ["x.png"]
    assert set_aside(tree) == {
        "*.txt": ("other file type", 2),
        "*.npz": ("other file type", 1),
        "no suffix": ("other file type", 1),
        ".*": ("hidden", 3),
    }
    assert {entry.name: entry.detail for entry in tree.set_aside}["*.txt"] == "such as a.txt"


def test_hidden_folders_are_not_entered(tmp_path):
    write(tmp_path / ".thumbnails" / "x.png")
    assert set_aside(scan(tmp_path)) == {".thumbnails": ("hidden", 1)}


def test_empty_folders_are_named(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert set_aside(scan(tmp_path)) == {"a/b": ("empty folder", 1)}


def test_names_may_be_in_any_script_or_in_none(tmp_path):
    write(tmp_path / "Bär" / "画像 1.png")
    write(tmp_path / "caf\udce9.png", b"")  # an é in Latin-1, which is not UTF-8
    write(tmp_path / "x.\udce9")
    tree = scan(tmp_path)
    assert sorted(names(tree)) == ["Bär/画像 1.png", "caf\udce9.png"]
    assert [fetch() for _, fetch in tree.walk()] == [b"x", b""]
    assert set_aside(tree) == {"*.\\udce9": ("other file type", 1)}


def test_a_link_to_a_picture_or_a_folder_elsewhere_is_followed(tmp_path):
    write(tmp_path / "elsewhere" / "deep" / "x.png", b"far")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "one.png").symlink_to(tmp_path / "elsewhere" / "deep" / "x.png")
    tree = scan(tmp_path / "root")
    assert names(tree) == ["folder/deep/x.png", "one.png"]
    assert [fetch() for _, fetch in tree.walk()] == [b"far", b"far"]


@pytest.mark.parametrize("target", [".", "..", "../..", "../../.."])
def test_a_link_upwards_is_a_loop(tmp_path, target):
    write(tmp_path / "root" / "a" / "x.png")
    (tmp_path / "root" / "a" / "loop").symlink_to(target, target_is_directory=True)
    tree = scan(tmp_path / "root")
    assert names(tree) == ["a/x.png"]
    assert set_aside(tree) == {"a/loop": ("link loop", 1)}


def test_links_in_a_circle_are_a_loop(tmp_path):
    write(tmp_path / "a" / "x.png")
    write(tmp_path / "b" / "y.png")
    (tmp_path / "a" / "b").symlink_to("../b")
    (tmp_path / "b" / "a").symlink_to("../a")
    (tmp_path / "self.png").symlink_to("self.png")
    tree = scan(tmp_path)
    assert names(tree) == ["a/x.png", "b/y.png"]
    assert set_aside(tree) == {"a/b": ("link loop", 1), "b/a": ("link loop", 1), "self.png": ("link loop", 1)}


def test_a_folder_is_read_under_its_own_name_and_not_that_of_a_link(tmp_path):
    write(tmp_path / "zebra" / "x.png")
    (tmp_path / "alias").symlink_to("zebra")
    tree = scan(tmp_path)
    assert names(tree) == ["zebra/x.png"]
    assert set_aside(tree) == {"alias": ("link loop", 1)}


def test_a_broken_link_is_named(tmp_path):
    (tmp_path / "x.png").symlink_to("nowhere.png")
    assert set_aside(scan(tmp_path)) == {"x.png": ("broken link", 1)}


@PIPE_WAITS
def test_pipes_sockets_and_devices_are_named_and_never_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path may be no longer than a hundred bytes
    os.mkfifo("pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
        tree = scan(tmp_path)
    assert set_aside(tree) == {f"{kind}.png": ("not a regular file", 1) for kind in ("pipe", "device", "socket")}


def test_a_folder_named_like_a_picture_is_named(tmp_path):
    write(tmp_path / "x.png" / "y.png")
    assert set_aside(scan(tmp_path)) == {"x.png": ("not a regular file", 1)}


def test_a_file_that_cannot_be_read_is_refused_with_the_reason(tmp_path):
    (tmp_path / "x.png").symlink_to("/proc/self/mem")  # a regular file whose first byte nobody can read, not even root
    [(_, fetch)] = scan(tmp_path).walk()
    with pytest.raises(Refused, match="'unreadable', 'Input/output error'"):
        fetch()


def test_a_file_that_is_gone_when_it_is_read_is_refused(tmp_path):
    write(tmp_path / "x.png")
    [(_, fetch)] = scan(tmp_path).walk()
    (tmp_path / "x.png").unlink()
    with pytest.raises(Refused, match="'unreadable', 'No such file or directory'"):
        fetch()


@pytest.mark.skipif(os.geteuid() == 0, reason="no permission stops root")
def test_without_permission_files_and_folders_are_unreadable(tmp_path):
    write(tmp_path / "x.png")
    write(tmp_path / "closed" / "y.png")
    (tmp_path / "x.png").chmod(0)
    (tmp_path / "closed").chmod(0)
    try:
        tree = scan(tmp_path)
        assert set_aside(tree) == {"closed": ("unreadable", 1)}
        with pytest.raises(Refused, match="'unreadable', 'Permission denied'"):
            next(iter(tree.walk()))[1]()
        with pytest.raises(LimnerError, match=r"(?s)folder .*closed cannot be read\..*Permission denied"):
            scan(tmp_path / "closed")
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_of_a_file_that_is_too_large_nothing_is_read():
    file = io.BytesIO(b"x" * 10_000)
    with pytest.raises(Refused, match=r"too large.*10000 bytes"):
        read_whole(file, size=10_000, largest_file=1000)
    assert file.tell() == 0


def test_a_file_larger_than_any_allowed_picture_is_not_read_whole(tmp_path):
    write(tmp_path / "exact.png", b"x" * 1000)
    write(tmp_path / "more.png", b"x" * 1001)
    fetches = {parts[0]: fetch for parts, fetch in scan(tmp_path, largest_file=1000).walk()}
    assert len(fetches["exact.png"]()) == 1000
    with pytest.raises(Refused, match="too large"):
        fetches["more.png"]()
