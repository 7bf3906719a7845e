"""A set of pictures to be compared with another: found, looked over once, then decoded batch by batch.

Pictures are read as the reference tools of the Frechet inception distance read them: the first frame by Pillow,
converted to RGB. Alpha is dropped and an EXIF orientation is not applied; both are counted. Nothing is trusted: a
picture that cannot be read is named, and no other one takes its place.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError, suggest
from limner.packing import MANIFEST, PackedDataset, SplitName
from limner.picture_reading import ALPHA, LARGEST_FILE, TRAITS, Size, in_order, read, read_header
from limner.reference import selection
from limner.sources import Content, Reason, SetAside
from limner.sources.archive import scan_archive
from limner.sources.decode import quiet_pillow
from limner.sources.tree import SUFFIXES, Tree, is_folder, scan_folder, shown

BATCH_BYTES, WAITING_BYTES = 64 * 2**20, 256 * 2**20
"""Of decoded pictures: in a batch, and waiting for others of their size."""
MOST_NAMED = 20
"""Damaged pictures that a message names."""
WEIGHTS_SUFFIXES = frozenset((".pth", ".pt", ".pkl", ".ckpt", ".safetensors", ".onnx"))
"""What is given by mistake in the place of pictures."""

_LOST: frozenset[Reason] = frozenset(("broken link", "encrypted", "link inside an archive", "unreadable"))
"""Reasons for which something is not read that may be a picture all the same."""


@dataclass(frozen=True)
class ReadOptions:
    """How sets of pictures are read. `batch` and `threads` change no value."""

    split: SplitName = "train"
    """Of a packed dataset."""
    domain: str = ""
    """Of a packed dataset that has two."""
    count: int | None = None
    """So many pictures, drawn at random; None: all."""
    skip_damaged: bool = False
    mixed_sizes: bool = False
    batch: int = 32
    threads: int = 0
    """That decode; 0: as many as there are processors, at most 8."""

    def __post_init__(self) -> None:
        for word, value in (("--count", self.count), ("--batch", self.batch)):
            if value is not None and value < 1:
                raise LimnerError(f"{word} {value} leaves nothing to work on.", fix="Take 1 or more.")
        if self.threads < 0:
            raise LimnerError(f"--threads {self.threads} is no number of threads.", fix="Take 1 or more.")

    @property
    def workers(self) -> int:
        """How many threads decode."""
        return self.threads or min(8, os.cpu_count() or 1)


Progress = Callable[[int, int], None]
"""Told how many of how many pictures are through."""
Walk = Callable[[], Iterator[tuple[int, Callable[[], Content]]]]


@dataclass(frozen=True)
class PictureSet:
    """Pictures that have been looked over: their headers are read, their contents hashed, nothing is decoded."""

    name: str
    kind: str
    names: tuple[str, ...]
    """Of all pictures that were asked for; a picture's number is its place here."""
    digest: str
    """SHA-256 over the contents in this order, whatever the names are."""
    sizes: Mapping[Size, int]
    """How many pictures have which size, the commonest first."""
    damaged: Mapping[int, str]
    """What is wrong with pictures whose very header cannot be read, by number."""
    lost: tuple[str, ...]
    """Links, folders and members that could not be followed, so that pictures may be missing."""
    notes: tuple[str, ...]
    walk: Walk = field(repr=False)
    """The numbers in order, each with the function that fetches the content or raises Refused."""
    seen: Mapping[int, tuple[Size, bytes]] = field(repr=False)
    """Size and SHA-256 of each picture whose header was read; empty where the contents cannot change."""

    @property
    def count(self) -> int:
        """Pictures that were asked for, damaged ones among them."""
        return len(self.names)


@dataclass(frozen=True)
class PictureBatch:
    """Pictures of one size."""

    numbers: NDArray[np.int64]
    pixels: NDArray[np.uint8]
    """[N, H, W, 3]"""


def open_pictures(path: Path, options: ReadOptions, progress: Progress = lambda done, total: None) -> PictureSet:
    """The pictures in a folder (with all below it), an archive or a packed dataset.

    Every file of a folder or an archive is read for that, which `progress` is told of. Raises LimnerError where there
    are none, where a packed dataset is damaged, or where sizes differ and that was not asked for.
    """
    if is_folder(path) and (path / MANIFEST).is_file():
        return _open_packed(path, options)
    kind = "folder" if is_folder(path) else "archive"
    if kind == "archive":
        _refuse_single(path)
    scan = scan_folder if kind == "folder" else scan_archive
    tree = scan(path, largest_file=LARGEST_FILE)
    if not tree.pictures:
        raise LimnerError(
            f"There is no picture in {path}.",
            why="; ".join(map(_describe, tree.set_aside)) or "It is empty.",
            fix="Give a folder, a .zip or a .tar of PNG, JPEG, WebP or similar files, or a packed dataset.",
        )
    found = _look_over(path, kind, tree, options, progress)
    if len(found.sizes) > 1 and not options.mixed_sizes:
        raise LimnerError(
            f"The pictures in {path} have {len(found.sizes)} different sizes.",
            why=describe_sizes(found.sizes),
            fix="Bring them to one size first, or have each resized by itself: --mixed-sizes",
        )
    return found


def describe_sizes(sizes: Mapping[Size, int]) -> str:
    """How many pictures have which size; at most six sizes."""
    first = [f"{width}x{height} ({count})" for (width, height), count in list(sizes.items())[:6]]
    return ", ".join(first + ([f"and {len(sizes) - 6} more sizes"] if len(sizes) > 6 else []))


def refuse_damaged(pictures: PictureSet, damaged: Mapping[int, str]) -> None:
    """Raise LimnerError where a picture is damaged, with the names of the first of them."""
    named = [f"{pictures.names[number]} ({damaged[number]})" for number in sorted(damaged)] + list(pictures.lost)
    if not named:
        return
    more = f"; and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    raise LimnerError(
        f"{len(named)} of {pictures.count + len(pictures.lost)} pictures in {pictures.name} cannot be read.",
        why="; ".join(named[:MOST_NAMED]) + more,
        fix="Repair or remove them, or go on without them: --skip-damaged",
    )


class Reader:
    """Decodes a set once, in threads, a few batches ahead of whoever takes them: iterate over it.

    Unless damaged pictures are to be skipped, no batch comes after the first of them: the others are decoded only to
    fill `damaged`, so that all of them can be named.
    """

    def __init__(self, pictures: PictureSet, options: ReadOptions) -> None:
        self.damaged: dict[int, str] = dict(pictures.damaged)
        self._pictures, self._options = pictures, options

    def __iter__(self) -> Iterator[PictureBatch]:
        waiting: dict[Size, list[tuple[int, NDArray[np.uint8]]]] = {}
        waiting_bytes = 0
        for number, found in self._decoded():
            if isinstance(found, str):
                self.damaged[number] = found
            if (self.damaged or self._pictures.lost) and not self._options.skip_damaged:
                waiting.clear()
            elif not isinstance(found, str):
                size = (found.shape[1], found.shape[0])
                waiting.setdefault(size, []).append((number, found))
                waiting_bytes += found.nbytes
                if len(waiting[size]) >= min(self._options.batch, max(1, BATCH_BYTES // found.nbytes)):
                    full = size
                elif waiting_bytes > WAITING_BYTES:
                    full = max(waiting, key=lambda size: size[0] * size[1] * len(waiting[size]))
                else:
                    continue
                batch = _stack(waiting.pop(full))
                waiting_bytes -= batch.pixels.nbytes
                yield batch
        yield from map(_stack, waiting.values())

    def _decoded(self) -> Iterator[tuple[int, NDArray[np.uint8] | str]]:
        pictures, options = self._pictures, self._options

        def jobs() -> Iterator[tuple[Callable[[], tuple[int, NDArray[np.uint8] | str]], int]]:
            for number, fetch in pictures.walk():
                if number not in pictures.damaged:
                    size, digest = pictures.seen.get(number, (next(iter(pictures.sizes)), b""))
                    yield partial(read, number, fetch, digest), size[0] * size[1] * 3

        with quiet_pillow(), ThreadPoolExecutor(options.workers) as pool:
            yield from in_order(pool, jobs(), most=3 * options.batch + options.workers)


# -- folders and archives ---------------------------------------------------------------------------------------------


def _refuse_single(path: Path) -> None:
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        raise LimnerError(
            f"{path} is one picture.", why="Sets of pictures are compared.", fix=f"Name its folder: {path.parent}"
        )
    if suffix in WEIGHTS_SUFFIXES:
        raise LimnerError(
            f"{path} looks like weights, and a set of pictures is asked for.",
            fix="Give a folder, an archive, a packed dataset or an .npz of statistics; name weights with --weights.",
        )


def _look_over(path: Path, kind: str, tree: Tree, options: ReadOptions, progress: Progress) -> PictureSet:
    chosen = _choose(len(tree.pictures), options)

    def walk() -> Iterator[tuple[int, Callable[[], Content]]]:
        number = 0
        for place, (_, fetch) in enumerate(tree.walk()):
            if number < len(chosen) and place == chosen[number]:
                yield number, fetch
                number += 1

    content, damaged, seen, traits = hashlib.sha256(), {}, {}, Counter[str]()
    sizes = Counter[Size]()
    with quiet_pillow(), ThreadPoolExecutor(options.workers) as pool:
        jobs = ((partial(read_header, number, fetch), 0) for number, fetch in walk())
        for number, found in in_order(pool, jobs, most=8 * options.workers):
            progress(number + 1, len(chosen))
            if isinstance(found, str):
                damaged[number] = found
                content.update(b"damaged:" + found.encode())
                continue
            content.update(found.digest)
            seen[number] = (found.size, found.digest)
            sizes[found.size] += 1
            traits.update(found.traits)
    return PictureSet(
        name=str(path),
        kind=kind,
        names=tuple(shown(tree.pictures[place]) for place in chosen),
        digest=content.hexdigest(),
        sizes=dict(sizes.most_common()),
        damaged=damaged,
        lost=tuple(_describe(entry) for entry in tree.set_aside if _may_be_a_picture(entry)),
        notes=(
            *_selection_note(len(chosen), len(tree.pictures)),
            *(f"not pictures: {_describe(entry)}" for entry in tree.set_aside if not _may_be_a_picture(entry)),
            *_notes(traits),
        ),
        walk=walk,
        seen=seen,
    )


# -- packed datasets --------------------------------------------------------------------------------------------------


def _open_packed(path: Path, options: ReadOptions) -> PictureSet:
    dataset = PackedDataset(path, verify=True)
    domain = options.domain or "pictures"
    if domain not in dataset.domains:
        raise LimnerError(
            f"The dataset {path} has the domains {' and '.join(dataset.domains)}."
            if not options.domain
            else f"The dataset {path} has no domain {domain!r}.",
            why="" if options.domain else "Which of them is meant cannot be guessed.",
            fix=suggest(options.domain, dataset.domains) if options.domain else "Name it: --domain",
        )
    split = dataset.split(options.split, domain)
    if not split.count:
        raise LimnerError(f"The split {options.split!r} of {path} is empty.", fix="Take the other one with --split.")
    chosen = _choose(split.count, options)

    def walk() -> Iterator[tuple[int, Callable[[], Content]]]:
        for number, place in enumerate(chosen):
            yield number, partial(_pixels, place)

    def _pixels(place: np.int64) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = split.pixels(np.array([place]))[0]
        return picture

    height, width, channels = split.shape
    what = f"{dataset.digest} {domain} {options.split} {hashlib.sha256(chosen.tobytes()).hexdigest()}"
    return PictureSet(
        name=str(path),
        kind=f"packed dataset, {domain}, {options.split}",
        names=tuple(f"{options.split} picture {place}" for place in chosen),
        digest=hashlib.sha256(what.encode()).hexdigest(),
        sizes={(width, height): len(chosen)},
        damaged={},
        lost=(),
        notes=(*_selection_note(len(chosen), split.count), *_notes(Counter({ALPHA: len(chosen) * (channels == 4)}))),
        walk=walk,
        seen={},
    )


# -- words and order --------------------------------------------------------------------------------------------------


def _choose(count: int, options: ReadOptions) -> NDArray[np.int64]:
    if options.count is not None and options.count > count:
        raise LimnerError(f"--count {options.count} is more than the {count} pictures there are.", fix="Take fewer.")
    return selection(count, options.count or count)


def _selection_note(chosen: int, count: int) -> Iterator[str]:
    if chosen < count:
        yield f"{chosen} of {count} pictures, drawn at random with a fixed seed"


def _notes(traits: Mapping[str, int]) -> Iterator[str]:
    for trait, sentence in TRAITS.items():
        if traits.get(trait):
            yield f"{traits[trait]} pictures {sentence}"


def _may_be_a_picture(entry: SetAside) -> bool:
    suffix = Path(entry.name).suffix.lower()
    return entry.reason in _LOST and (suffix in SUFFIXES or entry.reason == "unreadable")


def _describe(entry: SetAside) -> str:
    return f"{entry.count} x {entry.name} ({', '.join(filter(None, (entry.reason, entry.detail)))})"


def _stack(batch: list[tuple[int, NDArray[np.uint8]]]) -> PictureBatch:
    numbers, pixels = zip(*batch, strict=True)
    return PictureBatch(np.array(numbers, dtype=np.int64), np.stack(pixels))
