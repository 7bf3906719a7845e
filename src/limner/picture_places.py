"""Where pictures to stylize lie, and where results go: files, folders, globs, prefixes of an object store."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

from limner.errors import LimnerError
from limner.picture_files import FORMAT_OF_SUFFIX, SUFFIX, FileFormat, format_of_name
from limner.ports import ObjectStore
from limner.sources import Refused
from limner.sources.tree import SUFFIXES, is_folder, read_whole, scan_folder

RECORD = ".limner.json"
"""Which of the files beside it were made, of what, by which model, with which options."""
METADATA_BYTES = 16 * 2**20
WILD = frozenset("*?[")


@dataclass(frozen=True)
class Found:
    """A picture to stylize."""

    name: str
    """As its user calls it."""
    relative: str
    """Its place below the folder of the results, with the suffix of the source."""
    fetch: Callable[[], bytes]
    """Its bytes; raises Refused, or LimnerError where a whole store does not answer."""
    path: Path | None = None
    """Where it lies, if on this machine."""
    address: str = ""
    """Where it lies, if in an object store: a `store_address`."""


@dataclass
class Search:
    """Pictures found, folders and prefixes (as `store_address`es) searched, and what was left aside in them."""

    pictures: list[Found] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    left_aside: list[str] = field(default_factory=list)


def find_pictures(
    words: Iterable[str],
    *,
    max_megapixels: float,
    stores: Mapping[str, ObjectStore],
    earlier_results: Collection[Path] = (),
) -> Search:
    """The pictures that the words mean: files, folders (with all below), globs, urls of `stores`.

    Globs leave `earlier_results`, resolved paths, aside. Raises LimnerError where a word means nothing.
    """
    search = Search()
    largest = int(max_megapixels * 1e6) * 8 + METADATA_BYTES  # uncompressed 16-bit RGBA
    for word in words:
        pictures, left_aside = len(search.pictures), len(search.left_aside)
        if word in stores:
            _add_store(search, word, stores[word], largest)
        elif WILD & set(word) and not os.path.lexists(word):
            _add_glob(search, word, largest, earlier_results)
        else:
            _add_path(search, Path(word), PurePosixPath(Path(word).name), largest)
        if len(search.pictures) == pictures:
            raise LimnerError(
                f"There is no picture to stylize in {word}.",
                why="; ".join(search.left_aside[left_aside:]),
                fix="Name files, folders, globs such as 'photos/*.jpg', or s3://BUCKET/PREFIX.",
            )
    return search


def _add_path(search: Search, path: Path, relative: PurePosixPath, largest: int) -> None:
    if not is_folder(path):
        search.pictures.append(Found(str(path), str(relative), partial(_read, path, largest), path))
        return
    search.folders.append(path)
    tree = scan_folder(path, largest_file=largest)
    for parts in tree.pictures:
        place = path.joinpath(*parts)
        search.pictures.append(Found(str(place), "/".join(parts), partial(_read, place, largest), place))
    search.left_aside += [f"{path}: {entry.count} x {entry.name}: {entry.reason}" for entry in tree.set_aside]


def _add_glob(search: Search, pattern: str, largest: int, earlier_results: Collection[Path]) -> None:
    parts = Path(pattern).parts
    first = next(number for number, part in enumerate(parts) if WILD & set(part))
    root = Path(*parts[:first])
    matches = [Path(match) for match in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207 - absolute ones too
    files = [path for path in matches if path.is_file() and path.suffix.lower() in SUFFIXES]
    if not matches:
        raise LimnerError(f"Nothing matches {pattern}.", fix=f"Paths are relative to {Path.cwd()}.")
    sources = [path for path in files if path.resolve() not in earlier_results]
    for path in sources:
        _add_path(search, path, PurePosixPath(path.relative_to(root).as_posix()), largest)
    if len(sources) < len(files):
        search.left_aside.append(f"{pattern}: {len(files) - len(sources)} matches that are results of an earlier call")
    if len(files) < len(matches):
        search.left_aside.append(f"{pattern}: {len(matches) - len(files)} matches that are no picture files")


def _add_store(search: Search, url: str, store: ObjectStore, largest: int) -> None:
    sizes = store.sizes("")
    if isinstance(store, SingleObject):
        root = url.rpartition("/")[0]
    else:
        root = url.rstrip("/")
        search.prefixes.append(store_address(url))
    pictures = [
        key for key in sorted(sizes) if PurePosixPath(key).suffix.lower() in SUFFIXES and ".." not in key.split("/")
    ]
    for key in pictures:
        # Keys may have parts that mean nothing there, and that would lead elsewhere in a folder.
        relative = "/".join(part for part in key.split("/") if part not in ("", "."))
        fetch = partial(_fetch, store, key, sizes[key], largest)
        search.pictures.append(Found(f"{root}/{key}", relative, fetch, address=store_address(root, key)))
    if others := sorted(sizes.keys() - set(pictures)):
        search.left_aside.append(f"{url}: {len(others)} other files, such as {others[0]}")


def store_address(url: str, key: str = "") -> str:
    """A place in an object store, written so that no place has two addresses that S3Store takes for one."""
    parts = urlsplit(url)
    return "/".join([f"{parts.scheme}:/", parts.netloc, *filter(None, f"{parts.path}/{key}".split("/"))])


def _read(path: Path, largest: int) -> bytes:
    try:
        with path.open("rb") as file:
            return read_whole(file, size=os.fstat(file.fileno()).st_size, largest_file=largest)
    except OSError as error:
        raise Refused("unreadable", str(error.strerror)) from None


def _fetch(store: ObjectStore, key: str, size: int, largest: int) -> bytes:
    if size > largest:
        raise Refused("too large", f"the object has {size} bytes, more than any picture of --max-megapixels")
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        path = Path(folder, "picture")
        try:
            store.get(key, path)
        except LimnerError as error:
            store.sizes(key)  # raises where the store does not answer at all: then it is not this picture's fault
            raise Refused("unreadable", error.why) from None
        return path.read_bytes()


class SingleObject:
    """An object store of which only one object is to be seen."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store, self._key = store, key
        self.put, self.get, self.delete = store.put, store.get, store.delete

    def sizes(self, prefix: str) -> dict[str, int]:
        """Of that object alone."""
        del prefix
        return {key: size for key, size in self._store.sizes(self._key).items() if key == self._key}


# -- where results go -------------------------------------------------------------------------------------------------


class Destination(Protocol):
    """Where results go, by their relative names."""

    def digest(self, name: str) -> str:
        """sha256 of what is there already; empty where nothing is."""

    def write(self, name: str, content: bytes) -> None:
        """Put it there as a whole, or not at all. Raises LimnerError."""

    def read_record(self) -> bytes | None:
        """What `RECORD` holds."""


@dataclass(frozen=True)
class FolderDestination:
    """A folder of this machine."""

    root: Path

    def digest(self, name: str) -> str:
        """See Destination."""
        path = self.root / name
        try:
            return sha256(path.read_bytes()) if path.is_file() else "?" * os.path.lexists(path)
        except OSError:
            return "?"

    def write(self, name: str, content: bytes) -> None:
        """See Destination."""
        path = self.root / name
        partial = path.with_name(f".limner-{uuid4().hex}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())  # a rename may reach the disk before the bytes do
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise LimnerError(f"{path} cannot be written.", why=str(error.strerror or error)) from error

    def read_record(self) -> bytes | None:
        """See Destination."""
        path = self.root / RECORD
        try:
            return path.read_bytes() if path.is_file() else None
        except OSError as error:
            raise LimnerError(f"{path} cannot be read.", why=str(error.strerror)) from error


@dataclass(frozen=True)
class StoreDestination:
    """A prefix of an object store."""

    store: ObjectStore

    def digest(self, name: str) -> str:
        """See Destination."""
        if name not in self.store.sizes(name):
            return ""
        try:
            return sha256(self._get(name))
        except LimnerError:  # the store has just answered: it is this object that cannot be read
            return "?"

    def write(self, name: str, content: bytes) -> None:
        """See Destination."""
        with tempfile.TemporaryDirectory(prefix="limner-") as folder:
            path = Path(folder, "result")
            path.write_bytes(content)
            self.store.put(name, path)

    def read_record(self) -> bytes | None:
        """See Destination."""
        return self._get(RECORD) if RECORD in self.store.sizes(RECORD) else None

    def _get(self, name: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="limner-") as folder:
            path = Path(folder, "found")
            self.store.get(name, path)
            return path.read_bytes()


def name_results(search: Search, file_format: FileFormat | None) -> list[str]:
    """The relative name of each picture's result; the suffix changes where the format does (None: kept).

    Raises LimnerError where two pictures would become one file, if only on a disk that does not tell a from A.
    """
    names, taken = [], dict[str, Found]()
    for found in search.pictures:
        becomes = file_format or format_of_name(found.relative)
        path = PurePosixPath(found.relative)
        keeps = FORMAT_OF_SUFFIX.get(path.suffix.lower()) == becomes
        name = str(path if keeps else path.with_suffix(SUFFIX[becomes]))
        other = taken.setdefault(name.casefold(), found)
        if other is not found:
            raise LimnerError(
                f"{other.name} and {found.name} would both become {name}.",
                fix="Stylize them into folders of their own, or keep their formats.",
            )
        names.append(name)
    return names


def refuse_overwriting(out: Path, names: Sequence[str], search: Search) -> None:
    """Raises LimnerError where a result would take the place of a source, or be taken for one at the next call."""
    if out.exists() and not out.is_dir():
        raise LimnerError(f"{out} is a file.", fix="Name a folder with --out.")
    folders = {folder.resolve(): folder for folder in search.folders}
    for place in dict.fromkeys([out, *((out / name).parent for name in names)]):
        for resolved, folder in folders.items():
            if place.resolve().is_relative_to(resolved):
                raise _lies_inside(place, folder, "folder")
    sources = {found.path.resolve() for found in search.pictures if found.path}
    identities = {_identity(path) for path in sources}
    for name in names:
        place = out / name
        exact = place.parent.resolve() / place.name
        # The identity tells where a disk takes A.png for a.png, and links whatever they are called.
        if exact in sources or place.resolve() in sources or (place.exists() and _identity(place) in identities):
            raise _is_source(place)


def refuse_overwriting_in_store(out: str, names: Sequence[str], search: Search) -> None:
    """As `refuse_overwriting`, where results go to an object store."""
    sources = {found.address for found in search.pictures}
    for place in (store_address(out), *(store_address(out, name) for name in names)):
        if place in sources:
            raise _is_source(place)
        for prefix in search.prefixes:
            if f"{place}/".startswith(f"{prefix}/"):
                raise _lies_inside(place, prefix, "prefix")


def _is_source(place: object) -> LimnerError:
    return LimnerError(f"{place} is a source: its result would take its place.", fix="Name another place with --out.")


def _lies_inside(place: object, sources: object, kind: str) -> LimnerError:
    return LimnerError(
        f"{place} lies in {sources}, whose pictures are the sources.",
        why="The results would be sources of the next call, or take their places.",
        fix=f"Name a {kind} outside it with --out.",
    )


def _identity(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1 if path.name else -2)
    return status.st_dev, status.st_ino


def sha256(content: bytes) -> str:
    """Its hex digest."""
    return hashlib.sha256(content).hexdigest()


def results_of_record(root: Path) -> frozenset[Path]:
    """Where the results lie, as resolved paths, that the record of a folder names."""
    return frozenset((root / name).resolve() for name in parse_record(FolderDestination(root).read_record()))


def parse_record(content: bytes | None) -> dict[str, Any]:
    """Results by name. A record that cannot be read is none: what it told of is then foreign, and left alone."""
    try:
        results: dict[str, Any] = json.loads(content)["results"] if content else {}
    except (ValueError, KeyError, TypeError):
        return {}
    return results if isinstance(results, dict) else {}


def format_record(results: Mapping[str, Any]) -> bytes:
    """The bytes of `RECORD`."""
    document = {"schema": 1, "results": dict(sorted(results.items()))}
    return json.dumps(document, indent=1, ensure_ascii=False).encode()
