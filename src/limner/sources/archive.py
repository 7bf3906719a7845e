"""A .tar, .tar.gz (.bz2, .xz) or .zip as a list of picture files, read in place: nothing is ever extracted."""

from __future__ import annotations

import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from limner.errors import LimnerError
from limner.sources import Refused, SetAside
from limner.sources.tree import Parts, Tree, other_kind, read_whole, shown, sort_out


def scan_archive(path: Path, *, largest_file: int) -> Tree:
    """All picture files of an archive, in the archive's order. Raises LimnerError where it is damaged, or none."""
    if zipfile.is_zipfile(path):
        return _scan_zip(path, largest_file=largest_file)
    return _scan_tar(path, largest_file=largest_file)


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """A tar archive, compressed or not. Raises LimnerError for all that is wrong with it, while it is open too."""
    with _damage(path), tarfile.open(path, "r:*") as tar:
        yield tar


def tar_members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The members one by one, and tarfile.ReadError where the archive does not end as it should.

    `tarfile` itself takes a spoilt or cut header for the end, and would silently leave out all that follows.
    """
    yield from tar
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    end = tar.fileobj.read(tarfile.BLOCKSIZE)
    if len(end) < tarfile.BLOCKSIZE or any(end):
        raise tarfile.ReadError(f"no end mark at byte {tar.offset}")
    while tar.fileobj.read(2**20):  # to the end, where a compressed stream has its checksum
        pass


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except LimnerError:
        raise
    except tarfile.ReadError as error:
        known = path.name.lower().endswith((".tar", ".gz", ".tgz", ".bz2", ".xz", ".zip"))
        what = "is damaged or incomplete" if known else "is neither a folder nor an archive that Limner reads"
        fix = "Copy or download it again." if known else "Give a folder, a .tar, a .tar.gz or a .zip."
        raise LimnerError(f"{path} {what}.", why=str(error), fix=fix) from error
    except (
        Exception
    ) as error:  # on damaged input the libraries raise nearly anything: zlib.error, UnicodeDecodeError, ...
        raise LimnerError(
            f"{path} is damaged or incomplete.", why=str(error), fix="Copy or download it again."
        ) from error


def _scan_tar(path: Path, *, largest_file: int) -> Tree:
    files: list[Parts] = []
    set_aside: list[SetAside] = []
    with open_tar(path) as tar:
        for member in tar_members(tar):
            parts = _parts(member.name)
            if member.isreg():
                files.append(parts)
            elif member.issym() or member.islnk():
                set_aside.append(SetAside(shown(parts), "link inside an archive"))
            elif not member.isdir():
                set_aside.append(SetAside(shown(parts), "not a regular file", "a pipe or a device"))
    pictures, others = sort_out(files)

    def walk() -> Iterator[tuple[Parts, Callable[[], bytes]]]:
        with open_tar(path) as tar:
            for member in tar:
                parts = _parts(member.name)
                file = tar.extractfile(member) if member.isreg() and other_kind(parts) is None else None
                if file is not None:
                    yield parts, _fetched(partial(read_whole, file, size=member.size, largest_file=largest_file))

    return Tree(pictures, (*set_aside, *others), walk)


def _scan_zip(path: Path, *, largest_file: int) -> Tree:
    usable: list[zipfile.ZipInfo] = []
    set_aside: list[SetAside] = []
    with _damage(path), zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = shown(_parts(info.filename))
            if info.is_dir():
                continue
            if stat.S_ISLNK(info.external_attr >> 16):
                set_aside.append(SetAside(name, "link inside an archive"))
            elif info.flag_bits & 1:
                set_aside.append(SetAside(name, "encrypted"))
            else:
                usable.append(info)
    pictures, others = sort_out(_parts(info.filename) for info in usable)

    def walk() -> Iterator[tuple[Parts, Callable[[], bytes]]]:
        with _damage(path), zipfile.ZipFile(path) as archive:
            for info in usable:
                parts = _parts(info.filename)
                if other_kind(parts) is None:
                    yield parts, _fetched(partial(_read_member, archive, info, largest_file=largest_file))

    return Tree(pictures, (*set_aside, *others), walk)


def _parts(name: str) -> Parts:
    return tuple(part for part in PurePosixPath(name).parts if part != "/") or (name,)


def _read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, *, largest_file: int) -> bytes:
    try:
        with archive.open(info) as file:
            return read_whole(file, size=info.file_size, largest_file=largest_file)
    except (Refused, MemoryError):
        raise
    except OSError as error:
        raise Refused("unreadable" if error.errno else "damaged", str(error)) from None
    except Exception as error:  # noqa: BLE001 - as above, but one member only: a zip has a directory to go on with
        raise Refused("damaged", str(error)) from None


def _fetched(read: Callable[[], bytes]) -> Callable[[], bytes]:
    """Reads now, where the archive stands at this member, and hands the result to whoever decodes it later."""
    try:
        content = read()
    except Refused as refusal:
        return partial(_refuse, refusal)
    return lambda: content


def _refuse(refusal: Refused) -> bytes:
    raise refusal
