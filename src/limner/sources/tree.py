"""A folder as a list of picture files: what is one by its name, what is not; nothing hangs or runs in circles."""

from __future__ import annotations

import difflib
import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO

from limner.errors import LimnerError
from limner.sources import Reason, Refused, SetAside, displayable

Parts = tuple[str, ...]
"""A file's path below the root of its folder or archive."""

SUFFIXES = frozenset(
    f".{name}"
    for name in (
        *("png", "apng", "jpg", "jpeg", "jpe", "jfif", "jp2", "j2k", "j2c", "jpc", "jpf", "jpx", "gif", "bmp", "dib"),
        *("webp", "avif", "tif", "tiff", "ppm", "pgm", "pbm", "pnm"),
    )
)


@dataclass(frozen=True)
class Tree:
    """The picture files of a folder or an archive, found but not yet read."""

    pictures: tuple[Parts, ...]
    set_aside: tuple[SetAside, ...]
    walk: Callable[[], Iterator[tuple[Parts, Callable[[], bytes]]]]
    """Each of `pictures` in that order, with the function that fetches its bytes or raises Refused."""


def scan_folder(root: Path, *, largest_file: int) -> Tree:
    """All picture files below `root`, sorted by path; symbolic links are followed, each folder is read once.

    Raises LimnerError where `root` itself cannot be read.
    """
    finds = _search(root)
    pictures, others = sort_out(sorted(finds.files))

    def walk() -> Iterator[tuple[Parts, Callable[[], bytes]]]:
        for parts in pictures:
            yield parts, partial(_read, root.joinpath(*parts), largest_file=largest_file)

    set_aside = sorted(finds.set_aside, key=lambda entry: entry.name)
    return Tree(pictures, (*set_aside, *others), walk)


def is_folder(path: Path) -> bool:
    """Whether a place is a folder, and not a file. Raises LimnerError where it is missing, unreadable or neither."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise LimnerError(f"There is no folder or archive {path}.", fix=_near_name(path)) from None
    except OSError as error:
        raise LimnerError(f"{path} cannot be read.", why=str(error.strerror)) from error
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise LimnerError(f"{path} is neither a folder nor an archive.", why="It is a pipe, a socket or a device.")
    return stat.S_ISDIR(mode)


def sort_out(files: Iterable[Parts]) -> tuple[tuple[Parts, ...], list[SetAside]]:
    """Picture files in the order given; all others counted by kind, with the first of each kind as an example."""
    pictures: list[Parts] = []
    others: dict[tuple[Reason, str], list[Parts]] = {}
    for parts in files:
        kind = other_kind(parts)
        if kind is None:
            pictures.append(parts)
        else:
            others.setdefault(kind, []).append(parts)
    return tuple(pictures), [
        SetAside(pattern, reason, f"such as {shown(found[0])}", count=len(found))
        for (reason, pattern), found in sorted(others.items())
    ]


def other_kind(parts: Parts) -> tuple[Reason, str] | None:
    """None for a picture file, else why its name says that it is none, and the pattern that it falls under."""
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return "hidden", ".*"
    suffix = Path(parts[-1]).suffix.lower()
    return None if suffix in SUFFIXES else ("other file type", f"*{displayable(suffix)}" if suffix else "no suffix")


def shown(parts: Parts) -> str:
    """A file's path as text, with forward slashes."""
    return displayable("/".join(parts))


def read_whole(file: IO[bytes], *, size: int, largest_file: int) -> bytes:
    """The bytes of a file that says it has `size`. Raises Refused where no allowed picture can have so many."""
    if size > largest_file:
        raise Refused("too large", f"the file has {size} bytes, more than any picture of max_megapixels")
    return file.read(size + 1)  # one more, so that a file whose size is a lie of 0 is read at all, and may fail


@dataclass
class _Finds:
    files: list[Parts] = field(default_factory=list)
    set_aside: list[SetAside] = field(default_factory=list)
    folders: deque[Parts] = field(default_factory=deque)
    linked_folders: deque[Parts] = field(default_factory=deque)

    def refuse(self, parts: Parts, reason: Reason, detail: str = "") -> None:
        self.set_aside.append(SetAside(shown(parts), reason, detail))


def _search(root: Path) -> _Finds:
    finds = _Finds()
    finds.folders.append(())
    # A link upwards would read the folder as a part of itself: what lies above counts as read.
    read = {_identity(above) for above in root.resolve().parents}
    while finds.folders or finds.linked_folders:
        # Real folders go first, so that a picture is found under its own name and not that of a link to its folder.
        parts = finds.folders.popleft() if finds.folders else finds.linked_folders.popleft()
        here = root.joinpath(*parts)
        try:
            identity, names = _identity(here), sorted(os.listdir(here))  # noqa: PTH208 - names are all that is wanted
        except OSError as error:
            if not parts:
                raise LimnerError(f"The folder {root} cannot be read.", why=str(error.strerror)) from error
            finds.refuse(parts, "unreadable", str(error.strerror))
            continue
        if identity in read:
            finds.refuse(parts, "link loop", "it points to a folder that is read under its own name")
            continue
        read.add(identity)
        if parts and not names:
            finds.refuse(parts, "empty folder")
        for name in names:
            _file_away(finds, here / name, (*parts, name))
    return finds


def _near_name(path: Path) -> str:
    """A hint at what a missing path may have meant: the nearest name in the deepest folder that does exist."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    names = os.listdir(missing.parent) if os.access(missing.parent, os.R_OK) and missing.parent.is_dir() else []  # noqa: PTH208
    near = difflib.get_close_matches(missing.name, names, n=1)
    here = f"Paths are relative to {Path.cwd()}." if not path.is_absolute() else "Check the path."
    return f"Did you mean {missing.parent / near[0]}?" if near else here


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _file_away(finds: _Finds, path: Path, parts: Parts) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reasons: dict[int | None, Reason] = {errno.ELOOP: "link loop", errno.ENOENT: "broken link"}
        finds.refuse(parts, reasons.get(error.errno, "unreadable"), str(error.strerror))
        return
    if stat.S_ISREG(mode):
        finds.files.append(parts)
    elif not stat.S_ISDIR(mode):
        finds.refuse(parts, "not a regular file", "a pipe, a socket or a device")  # opening a pipe would wait for ever
    elif parts[-1].startswith("."):
        finds.refuse(parts, "hidden", "a folder")
    elif path.suffix.lower() in SUFFIXES:
        finds.refuse(parts, "not a regular file", "a folder named like a picture")
    else:
        (finds.linked_folders if path.is_symlink() else finds.folders).append(parts)


def _read(path: Path, *, largest_file: int) -> bytes:
    try:
        with path.open("rb") as file:
            return read_whole(file, size=os.fstat(file.fileno()).st_size, largest_file=largest_file)
    except OSError as error:
        raise Refused("unreadable", str(error.strerror)) from None
