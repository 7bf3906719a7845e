"""Image files and raw pixels -> uint8 [H, W, C] of the size and channels that the settings ask for.

Nothing here trusts its input: a picture that cannot be used raises Refused with the reason, whatever Pillow raised.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from limner.settings import ImageSettings
from limner.sources import Content, Half, Refused

# Raster formats only: no interpreter (EPS), no format whose reader opens other files or nests other formats.
FORMATS = ("PNG", "JPEG", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "AVIF", "JPEG2000")


@dataclass(frozen=True)
class Decoded:
    """A picture as it will be stored, and what the manifest should say of how it came to be."""

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...] = ()


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Around all decoding, entered once by the thread that starts the workers.

    Silences Pillow's warnings and log, which name no file, and lifts its own bomb limit: `max_megapixels` is ours.
    """
    limit, log = Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL")
    level = log.level
    Image.init()  # registers the formats: not safe to leave to several workers at once
    Image.MAX_IMAGE_PIXELS = None
    log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit
        log.setLevel(level)


def largest_file(image: ImageSettings) -> int:
    """Bytes above which a file is not read: uncompressed 16-bit RGBA of `max_megapixels`, and 16 MiB of metadata."""
    return int(image.max_megapixels * 1e6) * 8 + 16 * 2**20


def decode(content: Content, image: ImageSettings, *, half: Half | None = None) -> Decoded:
    """The first frame, upright, in `image.channels` channels and `image.size` squared; of a half that alone.

    Raises Refused.
    """
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS) if isinstance(content, bytes) else _wrap(content)
        _refuse_by_header(picture, image)
        notes = _notes(picture)
        ImageOps.exif_transpose(picture, in_place=True)  # a copy would no longer know its file format
        if half is not None:
            picture = _cut_in_the_middle(picture, half, image)
        pixels = np.asarray(_fit(_in_channels(picture, image), image), dtype=np.uint8)
    except Refused:
        raise
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise Refused("not a picture", f"the content is none of {kinds}, whatever the name says") from None
    except Exception as error:  # noqa: BLE001 - on damaged input Pillow raises nearly anything: OSError, struct.error, ...
        raise Refused("damaged", str(error) or type(error).__name__) from None
    return Decoded(np.ascontiguousarray(pixels).reshape(image.size, image.size, image.channels), notes)


def _wrap(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels)


def _refuse_by_header(picture: Image.Image, image: ImageSettings) -> None:
    """Nothing has been decoded yet: the size is what the header claims."""
    width, height = picture.size
    if width * height > image.max_megapixels * 1e6:
        raise Refused("too large", f"{width}x{height}, max_megapixels is {image.max_megapixels:g}")
    if min(width, height) < image.min_side:
        raise Refused("too small", f"{width}x{height}, min_side is {image.min_side}")


def _cut_in_the_middle(picture: Image.Image, half: Half, image: ImageSettings) -> Image.Image:
    width, height = picture.size
    if width % 2:
        raise Refused("odd width", f"{width}x{height} has no middle to be cut in")
    middle = width // 2
    if middle < image.min_side:
        raise Refused(
            "too small", f"the halves of {width}x{height} are {middle}x{height}, min_side is {image.min_side}"
        )
    cut = picture.crop((0, 0, middle, height) if half == "left" else (middle, 0, width, height))
    cut.format = picture.format  # which says how wide types are to be read
    return cut


def _notes(picture: Image.Image) -> tuple[str, ...]:
    notes = []
    if getattr(picture, "is_animated", False):
        notes.append("several frames: first frame used")
    if picture.mode == "CMYK":
        notes.append("CMYK: converted without its colour profile")
    if picture.getexif().get(0x0112, 1) != 1:
        notes.append("EXIF orientation applied")
    return tuple(notes)


def _in_channels(picture: Image.Image, image: ImageSettings) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if image.channels == 4:
        return picture.convert("RGBA")
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        under = Image.new("RGBA", over.size, (image.background,) * 3 + (255,))
        picture = Image.alpha_composite(under, over)
    if picture.mode not in ("1", "L"):
        picture = picture.convert("RGB")  # from some modes, such as LAB, there is no direct way to grey
    return picture.convert("L" if image.channels == 1 else "RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey, scaled and not clipped. Wider types do not say what white is."""
    # Pillow gives 16-bit PGM (and older ones 16-bit PNG) as 32-bit integers that never exceed 65535.
    if not (picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))):
        raise Refused("unknown range", f"pixels of type {picture.mode} do not say which value is white")
    values = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _fit(picture: Image.Image, image: ImageSettings) -> Image.Image:
    size, lanczos = (image.size, image.size), Image.Resampling.LANCZOS
    if image.fit == "crop":
        picture = ImageOps.fit(picture, size, lanczos)
    elif image.fit == "stretch":
        picture = picture.resize(size, lanczos)
    elif image.fit == "pad":
        scale = image.size / max(picture.size)
        width, height = (max(1, round(side * scale)) for side in picture.size)
        picture = _centred(picture.resize((width, height), lanczos), image)
    else:
        picture = _centred(picture, image)
    return _hide_transparent(picture, image.background) if image.channels == 4 else picture


def _hide_transparent(picture: Image.Image, background: int) -> Image.Image:
    """Colours that nobody can see are noise to a network: they become the background."""
    pixels = np.array(picture)
    pixels[pixels[..., 3] == 0, :3] = background
    return Image.fromarray(pixels)


def _centred(picture: Image.Image, image: ImageSettings) -> Image.Image:
    """On a canvas of the final size: too much is cut off, what is missing is background, transparent in RGBA."""
    fill = {1: (image.background,), 3: (image.background,) * 3, 4: (image.background,) * 3 + (0,)}
    canvas = Image.new(picture.mode, (image.size, image.size), fill[image.channels])
    canvas.paste(picture, ((image.size - picture.width) // 2, (image.size - picture.height) // 2))
    return canvas
