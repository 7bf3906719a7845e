"""Stylize pictures: decode ahead, run those of a size together, write each result as a whole, skip what is done."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError
from limner.inference import MEMORY, StyleModel
from limner.picture_files import (
    FileFormat,
    PictureFile,
    count_pixels,
    for_network,
    format_of_name,
    read_picture,
    with_result,
    write_picture,
)
from limner.picture_places import RECORD, Destination, Found, format_record, parse_record, sha256
from limner.sources import Refused
from limner.sources.decode import quiet_pillow

AHEAD_SHARE, WAITING_SHARE, BATCH_SHARE = 16, 8, 2
"""Of the memory: a 16th for pictures that are read ahead, an 8th each for those that wait for a batch, for results
that wait to be encoded and for those that wait to be written, half of it for a batch."""
LARGEST_BATCH, MOST_WAITING = 32, 64
RECORD_SHARE = 20
"""The record is written as a whole: not again until 20 times as long as that took has gone by."""


@dataclass(frozen=True)
class StylizeOptions:
    """What the user asks for. `memory` in bytes; `short_side` in pixels, None: as it is."""

    strength: float = 1.0
    short_side: int | None = None
    file_format: FileFormat | None = None
    """None: as the source's name says."""
    quality: int = 95
    overwrite: bool = False
    max_megapixels: float = 100.0
    memory: int = MEMORY

    def __post_init__(self) -> None:
        for value, low, high, word in (
            (self.strength, 0.0, 1.0, "--strength"),
            (self.quality, 1, 100, "--quality"),
            (1 if self.short_side is None else self.short_side, 1, 65_535, "--size"),
        ):
            if not low <= value <= high:
                raise LimnerError(f"{word} {value} is out of range.", fix=f"Take {low} to {high}.")
        if not self.max_megapixels > 0:
            raise LimnerError(f"--max-megapixels {self.max_megapixels} allows no picture.", fix="Take more than 0.")


@dataclass(frozen=True)
class Stylized:
    """How it went: counts, and what to know of single pictures."""

    done: int = 0
    skipped: int = 0
    refused: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Observer:
    """Who is told: how many of how many are through, and which picture could not be used."""

    progress: Callable[[int, int], None] = lambda done, total: None
    refused: Callable[[LimnerError], None] = lambda error: None


def stylize_bytes(content: bytes, *, model: StyleModel, options: StylizeOptions) -> bytes:
    """One picture file as another. Raises LimnerError where it cannot be used."""
    with quiet_pillow():
        try:
            picture = read_picture(content, max_megapixels=options.max_megapixels, short_side=options.short_side)
            result = model.stylize(for_network(picture, model.channels), memory=options.memory)
            return write_picture(
                with_result(picture, result, strength=options.strength),
                options.file_format or picture.file_format,
                quality=options.quality,
            )
        except Refused as refused:
            raise _in_words("The picture", refused) from None


def stylize(
    pictures: Sequence[Found],
    names: Sequence[str],
    *,
    model: StyleModel,
    destination: Destination,
    options: StylizeOptions,
    observer: Observer | None = None,
) -> Stylized:
    """Stylize pictures into a destination, picture i under names[i]; what was made of the same before is skipped.

    A picture that cannot be used is told to the observer, and the others go on. Raises LimnerError where none can:
    the store does not answer, the disk is full.
    """
    job = _Job(model, destination, options, observer or Observer(), len(pictures))
    with quiet_pillow(), ThreadPoolExecutor(_workers()) as pool:
        try:
            for waiting in _ahead(pool, [partial(job.load, *pair) for pair in zip(pictures, names, strict=True)]):
                job.take(waiting, pool)
            job.finish(pool)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            job.keep_what_is_done()
            raise
    return Stylized(job.done, job.skipped, job.refused, tuple(job.notes))


@dataclass(frozen=True)
class _Waiting:
    """A picture on its way."""

    found: Found
    name: str
    input_digest: str = ""
    picture: PictureFile | None = None
    """None where it is so large that it is decoded only when it is its turn ..."""
    content: bytes = b""
    """... out of these bytes, or, where they are many as well, after it has been read again."""
    problem: LimnerError | None = None
    skip: bool = False

    @property
    def nbytes(self) -> int:
        """What its pixels take."""
        parts = (self.picture.colours, self.picture.alpha) if self.picture else ()
        return sum(part.nbytes for part in parts if part is not None)


@dataclass
class _Job:
    model: StyleModel
    destination: Destination
    options: StylizeOptions
    observer: Observer
    total: int
    done: int = 0
    skipped: int = 0
    refused: int = 0
    notes: list[str] = field(default_factory=list)
    _buckets: dict[tuple[int, ...], list[_Waiting]] = field(default_factory=dict)
    _encoding: deque[tuple[_Waiting, Future[bytes], int]] = field(default_factory=deque)
    """Each with the bytes of its source and its result."""
    _kept_back: list[tuple[_Waiting, bytes]] = field(default_factory=list)
    _made: dict[str, dict[str, object]] = field(default_factory=dict)
    """What this job adds to the record."""
    _record_is_due: float = 0.0

    def __post_init__(self) -> None:
        self._record = parse_record(self.destination.read_record())
        wishes = asdict(self.options)
        for word in ("overwrite", "max_megapixels", "memory"):  # what does not change a result
            del wishes[word]
        self._made_by = {"model": self.model.digest, "computed_in": str(self.model.dtype), "options": wishes}

    # -- in the threads that decode

    def load(self, found: Found, name: str) -> _Waiting:
        """Fetch and decode a picture, unless its result is there already."""
        waiting = _Waiting(found, name)
        try:
            content = found.fetch()
            waiting = replace(waiting, input_digest=sha256(content))
            if self._is_done(waiting):
                return replace(waiting, skip=True)
            pixels = count_pixels(
                content, max_megapixels=self.options.max_megapixels, short_side=self.options.short_side
            )
            most = self.options.memory // (AHEAD_SHARE * _workers())
            if pixels * 8 > most:
                return replace(waiting, content=content if len(content) * 2 <= most else b"")
            return replace(waiting, picture=self._decode(content))
        except Refused as refused:
            return replace(waiting, problem=_in_words(found.name, refused))

    def _decode(self, content: bytes) -> PictureFile:
        return read_picture(content, max_megapixels=self.options.max_megapixels, short_side=self.options.short_side)

    def _is_done(self, waiting: _Waiting) -> bool:
        there, made = self.destination.digest(waiting.name), self._record.get(waiting.name, {})
        if not there:
            return False
        wanted = {"input": waiting.input_digest, "output": there, **self._made_by}
        if made == wanted:
            return True
        if self.options.overwrite:
            return False
        raise Refused("duplicate", f"there is another {waiting.name} already; --overwrite replaces it")

    # -- in the thread that runs the model

    def take(self, waiting: _Waiting, pool: ThreadPoolExecutor) -> None:
        """Put a picture to those of its size, and run them when they are enough."""
        if waiting.skip:
            self.skipped += 1
            self._tell()
        elif waiting.problem:
            self._refuse(waiting.problem)
        elif waiting.picture is None:
            self._run_alone(waiting)
        else:
            height, width = waiting.picture.colours.shape[:2]
            bucket = self._buckets.setdefault((height, width), [])
            bucket.append(waiting)
            at_once = self.model.pixels_at_once(self.options.memory // BATCH_SHARE) // (height * width)
            if len(bucket) >= min(LARGEST_BATCH, at_once):
                self._run(self._buckets.pop((height, width)), pool)
            elif (
                sum(map(len, self._buckets.values())) >= MOST_WAITING
                or sum(map(_nbytes, self._buckets.values())) > self.options.memory // WAITING_SHARE
            ):
                self._run(self._buckets.pop(max(self._buckets, key=lambda size: _nbytes(self._buckets[size]))), pool)

    def finish(self, pool: ThreadPoolExecutor) -> None:
        """Run what is left, and wait for all results."""
        while self._buckets:
            self._run(self._buckets.pop(next(iter(self._buckets))), pool)
        self._collect(0, 0)
        self.keep_what_is_done()

    def _run(self, batch: list[_Waiting], pool: ThreadPoolExecutor) -> None:
        pictures = [waiting.picture for waiting in batch if waiting.picture]
        sources = np.stack([for_network(picture, self.model.channels) for picture in pictures])
        try:
            results = self.model.stylize_batch(sources, memory=self.options.memory // BATCH_SHARE)
        except LimnerError as error:  # too little memory for their size
            for waiting in batch:
                self._refuse(LimnerError(f"{waiting.found.name}: {error.problem}", why=error.why, fix=error.fix))
            return
        for waiting, picture, result in zip(batch, pictures, results, strict=True):
            self._note(waiting, picture)
            encode = pool.submit(self._encode, waiting, picture, result)
            self._encoding.append((replace(waiting, picture=None), encode, waiting.nbytes + result.nbytes))
        self._collect(MOST_WAITING, self.options.memory // WAITING_SHARE)

    def _run_alone(self, waiting: _Waiting) -> None:
        try:
            picture = self._decode(waiting.content or _fetch_again(waiting))
            # Beside the pixels, what Pillow needs to write them: RGB takes it 4 bytes a pixel.
            memory = self.options.memory - picture.colours.nbytes - picture.colours.nbytes * 4 // 3
            result = self.model.stylize(for_network(picture, self.model.channels), memory=memory)
            self._note(waiting, picture)
            self._kept_back.append((replace(waiting, content=b""), self._encode(waiting, picture, result)))
        except Refused as refused:
            self._refuse(_in_words(waiting.found.name, refused))
        except LimnerError as error:
            self._refuse(LimnerError(f"{waiting.found.name}: {error.problem}", why=error.why, fix=error.fix))
        self._keep_if_due()

    def _encode(self, waiting: _Waiting, picture: PictureFile, result: NDArray[np.uint8]) -> bytes:
        finished = with_result(picture, result, strength=self.options.strength)
        return write_picture(finished, format_of_name(waiting.name), quality=self.options.quality)

    def _collect(self, most: int, most_bytes: int) -> None:
        while len(self._encoding) > most or sum(nbytes for *_, nbytes in self._encoding) > most_bytes:
            waiting, encoding, _ = self._encoding.popleft()
            try:
                self._kept_back.append((waiting, encoding.result()))
            except Refused as refused:
                self._refuse(_in_words(waiting.found.name, refused))
            self._keep_if_due()

    def _keep_if_due(self) -> None:
        kept_back = sum(len(content) for _, content in self._kept_back)
        if time.monotonic() >= self._record_is_due or kept_back > self.options.memory // WAITING_SHARE:
            self.keep_what_is_done()

    def keep_what_is_done(self) -> None:
        """Write the results that are ready. The record goes first: whatever it names and is not there is made again."""
        if not self._kept_back:
            return
        self._made |= {
            waiting.name: {"input": waiting.input_digest, "output": sha256(content), **self._made_by}
            for waiting, content in self._kept_back
        }
        begun = time.monotonic()
        # Another job may work into the same place: what it has recorded since stays.
        self.destination.write(RECORD, format_record(parse_record(self.destination.read_record()) | self._made))
        now = time.monotonic()
        self._record_is_due = now + RECORD_SHARE * (now - begun)
        for waiting, content in self._kept_back:
            try:
                self.destination.write(waiting.name, content)
            except LimnerError as error:
                self._refuse(error)
                continue
            self.done += 1
            self._tell()
        self._kept_back.clear()

    def _note(self, waiting: _Waiting, picture: PictureFile) -> None:
        self.notes += [f"{waiting.found.name}: {note}" for note in picture.notes]

    def _refuse(self, error: LimnerError) -> None:
        self.refused += 1
        self.observer.refused(error)
        self._tell()

    def _tell(self) -> None:
        self.observer.progress(self.done + self.skipped + self.refused, self.total)


def _fetch_again(waiting: _Waiting) -> bytes:
    content = waiting.found.fetch()
    if sha256(content) != waiting.input_digest:
        raise Refused("unreadable", "it was changed while it waited for its turn")
    return content


def _nbytes(bucket: Sequence[_Waiting]) -> int:
    return sum(waiting.nbytes for waiting in bucket)


def _ahead(pool: ThreadPoolExecutor, work: Sequence[Callable[[], _Waiting]]) -> Iterator[_Waiting]:
    """Results in order, while the pool works on the next few."""
    started: deque[Future[_Waiting]] = deque()
    for load in work:
        started.append(pool.submit(load))
        if len(started) > 2 * _workers():
            yield started.popleft().result()
    while started:
        yield started.popleft().result()


def _workers() -> int:
    return min(8, os.cpu_count() or 1)


def _in_words(name: str, refused: Refused) -> LimnerError:
    return LimnerError(f"{name} cannot be stylized: {refused.reason}.", why=refused.detail)
