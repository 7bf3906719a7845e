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

from limner.sources import Content, Refused
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

ALPHA, ORIENTED, FRAMES, DEEP = "alpha", "orientation", "frames", "deep"
TRAITS = {
    ALPHA: "with transparency: it is dropped, as the reference tools do",
    ORIENTED: "with an EXIF orientation: it is not applied, as the reference tools do",
    FRAMES: "with several frames: the first is used",
    DEEP: "with more than 8 bits a channel: Pillow cuts them off, as in the reference tools",
}


@dataclass(frozen=True)
class Header:
    """What is known of a picture before it is decoded."""

    size: Size
    digest: bytes
    """SHA-256 of the file."""
    traits: tuple[str, ...] = ()
    """Of TRAITS."""


def look(number: int, fetch: Callable[[], Content]) -> tuple[int, Header | str]:
    """What a file's header says; the text is what is wrong with it."""
    try:
        content = fetch()
        assert isinstance(content, bytes)
        picture = _open(content)
        return number, Header(picture.size, hashlib.sha256(content).digest(), tuple(_traits(picture)))
    except Refused as refused:
        return number, _in_words(refused)
    except Exception as error:  # noqa: BLE001 - see read
        return number, _in_words(Refused("damaged", str(error) or type(error).__name__))


def read(number: int, fetch: Callable[[], Content], digest: bytes) -> tuple[int, NDArray[np.uint8] | str]:
    """Pixels [H, W, 3]; the text is what is wrong with the picture."""
    try:
        content = fetch()
        if isinstance(content, np.ndarray):
            return number, in_colour(content)
        if hashlib.sha256(content).digest() != digest:
            raise Refused("unreadable", "it was changed while the pictures were read")
        return number, np.asarray(_open(content).convert("RGB"))
    except Refused as refused:
        return number, _in_words(refused)
    except Exception as error:  # noqa: BLE001 - on damaged input Pillow raises nearly anything: OSError, struct.error, ...
        return number, _in_words(Refused("damaged", str(error) or type(error).__name__))


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


def _in_words(refused: Refused) -> str:
    return ": ".join(filter(None, (refused.reason, refused.detail)))
