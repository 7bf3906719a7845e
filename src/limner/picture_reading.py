"""A picture file -> RGB pixels, read as the reference tools of the Frechet inception distance read it.

That is the first frame by Pillow, converted to RGB: alpha is dropped, an EXIF orientation is not applied. Whatever is
wrong with a file comes back as words, because one file must not stop the others.
"""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from limner.sources import Content, Reason, Refused
from limner.sources.decode import FORMATS

MOST_PIXELS = 178_956_970
"""Of one picture: what Pillow itself refuses above."""
LARGEST_FILE = MOST_PIXELS * 8 + 16 * 2**20
"""Bytes: uncompressed 16-bit RGBA, and metadata."""
AHEAD_BYTES = 256 * 2**20
"""Of pictures that are decoded ahead of whoever takes them."""

T = TypeVar("T")
Size = tuple[int, int]
"""Width and height."""

ALPHA, ORIENTED, FRAMES, DEEP, INKS = "alpha", "orientation", "frames", "deep", "inks"
TRAITS = {
    ALPHA: "with transparency: it is dropped, as the reference tools do",
    ORIENTED: "with an EXIF orientation: it is not applied, as the reference tools do",
    FRAMES: "with several frames: the first is used",
    DEEP: "with more than 8 bits of grey: Pillow clips at 255 instead of scaling, as in the reference tools, so that "
    "16 bits become nearly white; save them with 8 bits first",
    INKS: "with inks for colours (CMYK): they are converted without their colour profile, as in the reference tools",
}

_UNREADABLE: Reason = "unreadable"


@dataclass(frozen=True)
class Header:
    """What is known of a picture before it is decoded."""

    size: Size
    digest: bytes
    """SHA-256 of the file."""
    traits: tuple[str, ...] = ()
    """Of TRAITS."""


def read_header(number: int, fetch: Callable[[], Content]) -> tuple[int, Header | str]:
    """What a file's header says; the text is what is wrong with it."""
    try:
        content = fetch()
        assert isinstance(content, bytes)
        picture = _open(content)
        return number, Header(picture.size, hashlib.sha256(content).digest(), tuple(_traits(picture)))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - see read
        return number, _in_words(error)


def read(number: int, fetch: Callable[[], Content], digest: bytes) -> tuple[int, NDArray[np.uint8] | str]:
    """Pixels [H, W, 3]; the text is what is wrong with the picture."""
    try:
        content = fetch()
        if isinstance(content, np.ndarray):
            return number, in_colour(content)
        if hashlib.sha256(content).digest() != digest:
            raise Refused(_UNREADABLE, "it was changed while the pictures were read")
        return number, np.asarray(_open(content).convert("RGB"))
    except MemoryError:  # of this machine at this moment: no fault of the picture
        raise
    except Exception as error:  # noqa: BLE001 - on damaged input Pillow raises nearly anything: OSError, struct.error, ...
        return number, _in_words(error)


def may_pass(words: str) -> bool:
    """Whether what is wrong with a picture lies in reading it this time, and not in its contents."""
    return words.startswith(_UNREADABLE)


def in_colour(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] of pixels [H, W, 1, 3 or 4]."""
    colours: NDArray[np.uint8] = np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3]
    return colours


def in_order(pool: ThreadPoolExecutor, jobs: Iterable[tuple[Callable[[], T], int]], *, most: int) -> Iterator[T]:
    """Results in the order of the jobs, while the pool works on the next ones: so many, of so many bytes, at most."""
    started: deque[tuple[Future[T], int]] = deque()
    held = 0
    try:
        for job, nbytes in jobs:
            while started and (len(started) >= most or held + nbytes > AHEAD_BYTES):
                done, its = started.popleft()
                held -= its
                yield done.result()
            started.append((pool.submit(job), nbytes))
            held += nbytes
        while started:
            yield started.popleft()[0].result()
    finally:  # whoever stops early waits for what is under way only
        for future, _ in started:
            future.cancel()


def _open(content: bytes) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused("not a picture", f"the content is none of {', '.join(FORMATS)}, whatever the name says") from None
    width, height = picture.size
    if width * height > MOST_PIXELS:
        raise Refused("too large", f"{width}x{height}")
    return picture


def _traits(picture: Image.Image) -> Iterator[str]:
    if picture.has_transparency_data:
        yield ALPHA
    # Asked for it, Pillow decodes a whole PNG to find out that it has no EXIF.
    if (picture.format != "PNG" or "exif" in picture.info) and picture.getexif().get(0x0112, 1) != 1:
        yield ORIENTED
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        yield FRAMES
    if picture.mode.startswith("I") or picture.mode == "F":
        yield DEEP
    if picture.mode == "CMYK":
        yield INKS


def _in_words(error: Exception) -> str:
    if isinstance(error, Refused):
        return ": ".join(filter(None, (error.reason, error.detail)))
    # What the system could not do has a number; Pillow raises OSError for damaged contents as well, without one.
    passing = isinstance(error, OSError) and error.errno is not None
    return f"{_UNREADABLE if passing else 'damaged'}: {error or type(error).__name__}"
