"""Archives read in place: the same as the folder they were made of, and refused where they are damaged."""

import io
import struct
import tarfile
import zipfile
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limner.errors import LimnerError
from limner.sources import Refused
from limner.sources.archive import scan_archive
from limner.sources.tree import scan_folder

FILES = {
    "top/a/1.png": b"one" * 500,
    "top/a/2.jpg": b"two",
    "top/ü/3.PNG": b"",
    "top/notes.txt": b"-",
    ".DS_Store": b"",
}


@pytest.fixture
def unpacked(tmp_path):
    for name, content in FILES.items():
        (tmp_path / "unpacked" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "unpacked" / name).write_bytes(content)
    return tmp_path / "unpacked"


def pack(folder, archive):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
            for file in files:
                packed.write(file, file.relative_to(folder))
    else:
        mode = {".tar": "w", ".gz": "w:gz", ".tgz": "w:gz", ".bz2": "w:bz2", ".xz": "w:xz"}[archive.suffix]
        with tarfile.open(archive, mode) as packed:
            packed.add(folder, ".")
    return archive


def scan(path, *, largest_file=10_000):
    return scan_archive(path, largest_file=largest_file)


def contents(tree):
    return {"/".join(parts): fetch() for parts, fetch in tree.walk()}


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tgz", "x.tar.bz2", "x.tar.xz", "x.zip"])
def test_an_archive_holds_what_its_folder_holds(unpacked, tmp_path, name):
    tree, folder = scan(pack(unpacked, tmp_path / name)), scan_folder(unpacked, largest_file=10_000)
    assert contents(tree) == contents(folder) == {k: v for k, v in FILES.items() if k.lower().endswith(("png", "jpg"))}
    assert sorted(tree.pictures) == sorted(folder.pictures)
    assert set(tree.set_aside) == set(folder.set_aside)
    assert [parts for parts, _ in tree.walk()] == list(tree.pictures)


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.zip"])
def test_what_was_read_stays_readable_when_the_archive_is_closed(unpacked, tmp_path, name):
    fetches = [fetch for _, fetch in scan(pack(unpacked, tmp_path / name)).walk()]
    assert sorted(fetch() for fetch in fetches) == [b"", b"one" * 500, b"two"]


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_a_member_larger_than_any_allowed_picture_is_refused(unpacked, tmp_path, name):
    fetches = {parts[-1]: fetch for parts, fetch in scan(pack(unpacked, tmp_path / name), largest_file=100).walk()}
    assert fetches["2.jpg"]() == b"two"
    with pytest.raises(Refused, match="too large"):
        fetches["1.png"]()


@pytest.mark.parametrize("name", ["x.tar", "x.tar.gz", "x.tar.bz2", "x.tar.xz", "x.zip"])
def test_a_cut_archive_is_refused_wherever_it_is_cut(unpacked, tmp_path, name):
    whole = pack(unpacked, tmp_path / name).read_bytes()
    padding = len(whole) - len(whole.rstrip(b"\0")) if name == "x.tar" else 0  # the end mark, and filler behind it
    last = len(whole) - padding
    for size in sorted({0, 1, 100, *range(512, last, 512), last // 2, last - 1, last}):
        if size == len(whole):
            continue
        (tmp_path / name).write_bytes(whole[:size])
        with pytest.raises(LimnerError, match=f"(?s){name} is damaged or incomplete.*again"):
            list(scan(tmp_path / name).walk())


def test_a_spoilt_header_inside_a_tar_is_not_taken_for_its_end(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.png")
            info.size = 3
            archive.addfile(info, io.BytesIO(b"abc"))
    content = bytearray((tmp_path / "x.tar").read_bytes())
    content[1024] ^= 0xFF  # the first byte of the second header
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(LimnerError, match=r"x\.tar is damaged or incomplete\.\nno end mark at byte 1024"):
        scan(tmp_path / "x.tar")


SEEDS = {}
for _format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
    _buffer = io.BytesIO()
    with tarfile.open(fileobj=_buffer, mode="w", format=_format) as _archive:
        for _name in ("ü" * 120 + ".png", "b.png"):
            _info = tarfile.TarInfo(_name)
            _info.size, _info.mtime = 300, 1.5
            _archive.addfile(_info, io.BytesIO(b"q" * 300))
    SEEDS[f"{_format}.tar"] = _buffer.getvalue()
_buffer = io.BytesIO()
with zipfile.ZipFile(_buffer, "w", zipfile.ZIP_DEFLATED) as _archive:
    _archive.writestr("ü.png", b"q" * 300)
SEEDS["x.zip"] = _buffer.getvalue()


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), name=st.sampled_from(sorted(SEEDS)))
def test_damage_of_any_kind_gives_contents_or_an_error_of_ours(data, name, tmp_path_factory):
    content = bytearray(SEEDS[name])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, min(len(content), 4096) - 1))] = data.draw(st.integers(0, 255))
    for start in range(0, len(content), 512):  # let the damage pass the checksum of a tar's header
        header = content[start : start + 512]
        if header[257:262] == b"ustar":
            header[148:156] = b"%06o\0 " % (sum(header[:148]) + 8 * 32 + sum(header[156:]))
            content[start : start + 512] = header
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    with suppress(LimnerError):
        for _, fetch in scan(path).walk():
            with suppress(Refused):
                assert len(fetch()) <= 10_000


def test_links_and_devices_inside_a_tar_are_named_and_not_followed(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (("s.png", tarfile.SYMTYPE), ("h.png", tarfile.LNKTYPE), ("p.png", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    tree = scan(tmp_path / "x.tar")
    assert contents(tree) == {}
    reasons = {entry.name: entry.reason for entry in tree.set_aside}
    assert reasons == {
        "s.png": "link inside an archive",
        "h.png": "link inside an archive",
        "p.png": "not a regular file",
    }


def test_a_link_inside_a_zip_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        info = zipfile.ZipInfo("s.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    assert [(entry.name, entry.reason) for entry in scan(tmp_path / "x.zip").set_aside] == [
        ("s.png", "link inside an archive")
    ]


def test_an_encrypted_member_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("open.png", b"abc")
        archive.writestr("locked.png", b"abc")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    content[entry + 8] |= 1
    (tmp_path / "x.zip").write_bytes(content)
    tree = scan(tmp_path / "x.zip")
    assert contents(tree) == {"open.png": b"abc"}
    assert [(entry.name, entry.reason) for entry in tree.set_aside] == [("locked.png", "encrypted")]


@pytest.mark.parametrize("damage", ["content", "method"])
def test_a_damaged_member_of_a_zip_is_refused_and_the_others_are_read(tmp_path, damage):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("bad.png", b"<<bad>>")
        archive.writestr("good.png", b"good")
    content = bytearray((tmp_path / "x.zip").read_bytes())
    if damage == "content":
        content[content.index(b"<<bad>>")] ^= 1
    else:  # a way of compression that nobody knows
        struct.pack_into("<H", content, content.index(b"PK\x01\x02") + 10, 77)
    (tmp_path / "x.zip").write_bytes(content)
    fetches = {parts[0]: fetch for parts, fetch in scan(tmp_path / "x.zip").walk()}
    assert fetches["good.png"]() == b"good"
    with pytest.raises(Refused, match="damaged"):
        fetches["bad.png"]()


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.png").write_bytes(b"\x89PNG")
    with pytest.raises(LimnerError, match=r"(?s)x\.png is neither a folder nor an archive.*\.tar\.gz or a \.zip"):
        scan(tmp_path / "x.png")


def test_names_that_point_outside_are_only_names(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name in ("/abs/a.png", "../up/b.png", "./c.png"):
            archive.addfile(tarfile.TarInfo(name))
    tree = scan(tmp_path / "x.tar")
    assert contents(tree) == {"abs/a.png": b"", "c.png": b""}
    assert [(entry.name, entry.reason) for entry in tree.set_aside] == [(".*", "hidden")]
