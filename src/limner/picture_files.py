"""A picture file as its parts: colours for a network, and what has to survive it (alpha, EXIF, colour profile).

Nothing here trusts its input: a picture that cannot be used raises Refused with the reason, whatever Pillow raised.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from limner.sources import Refused
from limner.sources.decode import FORMATS

FileFormat = Literal["png", "jpeg", "webp"]
SUFFIX: dict[FileFormat, str] = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
FORMAT_OF_SUFFIX: dict[str, FileFormat] = {
    ".png": "png",
    ".apng": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".webp": "webp",
}
"""What a name says that is written; other names say a format that is only read, or none."""
_OF_CONTENT: dict[str | None, FileFormat] = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp"}
_ORIENTATION = 0x0112
_COLOUR_SPACE = slice(16, 20)
"""Where an ICC profile says which colours it is for."""


@dataclass(frozen=True)
class PictureFile:
    """A picture, upright, and what goes with it."""

    colours: NDArray[np.uint8]
    """[H, W, 1] grey or [H, W, 3] RGB, as they are in the file: not multiplied by alpha."""
    alpha: NDArray[np.uint8] | None
    """[H, W]; None where there is none."""
    exif: bytes
    """Without the orientation, which has been applied; empty where there is none."""
    profile: bytes
    """The ICC profile of the colours; empty where there is none."""
    file_format: FileFormat
    """The same as the file's, or PNG where that is none of those that are written."""
    notes: tuple[str, ...] = ()
    """What was lost."""


def format_of_name(path: str) -> FileFormat:
    """What a picture of that name is written as when its format is to be kept: PNG where nothing else fits."""
    return FORMAT_OF_SUFFIX.get(Path(path).suffix.lower(), "png")


def count_pixels(content: bytes, *, max_megapixels: float, short_side: int | None = None) -> int:
    """The most that it has on its way, read or scaled, as its header claims; nothing is decoded. Raises Refused."""
    size = _open(content, max_megapixels).size
    return max(math.prod(size), math.prod(_scaled_size(size, short_side, max_megapixels)))


def read_picture(content: bytes, *, max_megapixels: float, short_side: int | None = None) -> PictureFile:
    """The first frame of an image file, its short side scaled where asked for. Raises Refused."""
    try:
        picture = _open(content, max_megapixels)
        _scaled_size(picture.size, short_side, max_megapixels)  # refuses before anything is decoded
        return _parts(picture, short_side, max_megapixels)
    except Refused:
        raise
    except Exception as error:  # noqa: BLE001 - on damaged input Pillow raises nearly anything: OSError, struct.error, ...
        raise Refused("damaged", str(error) or type(error).__name__) from None


def with_channels(colours: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """Colours [H, W, 1 or 3] in 1 (grey) or 3 (RGB) channels."""
    if colours.shape[2] == channels:
        return colours
    if channels == 1:
        return np.asarray(Image.fromarray(colours).convert("L"))[..., None]
    return np.repeat(colours, channels, axis=2)


def for_network(picture: PictureFile, channels: int) -> NDArray[np.uint8]:
    """Its pixels [H, W, channels]; of 4 the last is alpha, which is opaque where there is none."""
    if channels < 4:
        return with_channels(picture.colours, channels)
    alpha = np.full(picture.colours.shape[:2], 255, np.uint8) if picture.alpha is None else picture.alpha
    return np.concatenate([with_channels(picture.colours, 3), alpha[..., None]], axis=2)


def with_result(picture: PictureFile, result: NDArray[np.uint8], *, strength: float) -> PictureFile:
    """The picture with a network's result [H, W, C] in its place, mixed with the source where `strength` is below 1."""
    alpha = picture.alpha
    if result.shape[2] == 4:
        result, opaque = result[..., :3], result[..., 3]
        before = np.full_like(opaque, 255) if alpha is None else alpha
        alpha = np.rint(before + strength * (opaque.astype(np.float32) - before)).astype(np.uint8)
    if strength < 1:
        # Row by row: the picture as floats would take many times its memory.
        source = picture.colours
        mixed = np.empty((*source.shape[:2], max(source.shape[2], result.shape[2])), np.uint8)
        for row in range(len(mixed)):
            here = source[row].astype(np.float32)
            mixed[row] = np.rint(here + strength * (result[row].astype(np.float32) - here))
        result = mixed
    return replace(picture, colours=result, alpha=alpha)


def write_picture(picture: PictureFile, file_format: FileFormat, *, quality: int) -> bytes:
    """The bytes of an image file; the profile goes with it where it is for such colours. Raises Refused."""
    pixels = picture.colours
    if picture.alpha is not None:
        if file_format == "jpeg":
            raise Refused("unknown range", "JPEG has no transparency, and this picture has some; --format png keeps it")
        pixels = np.concatenate([pixels, picture.alpha[..., None]], axis=2)
    space = b"GRAY" if picture.colours.shape[2] == 1 else b"RGB "
    profile = picture.profile if picture.profile[_COLOUR_SPACE] == space else b""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    if file_format == "webp" and image.mode == "LA":
        image = image.convert("RGBA")
    options: dict[str, object] = {"quality": quality}
    if file_format == "webp":
        options |= {"exact": True}  # colours below transparent pixels stay what they are
    buffer = io.BytesIO()
    try:
        image.save(buffer, file_format.upper(), exif=picture.exif, icc_profile=profile or None, **options)
    except (OSError, ValueError) as error:
        raise Refused("too large", f"{file_format.upper()} cannot hold it: {error}") from None
    return buffer.getvalue()


def _open(content: bytes, max_megapixels: float) -> Image.Image:
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise Refused("not a picture", f"the content is none of {', '.join(FORMATS)}, whatever the name says") from None
    except Exception as error:  # noqa: BLE001 - see read_picture
        raise Refused("damaged", str(error) or type(error).__name__) from None
    width, height = picture.size
    if width * height > max_megapixels * 1e6:
        raise Refused("too large", f"{width}x{height}, --max-megapixels is {max_megapixels:g}")
    return picture


def _scaled_size(size: tuple[int, int], short_side: int | None, max_megapixels: float) -> tuple[int, int]:
    """Width and height after scaling; None: as they are. Raises Refused where that is more than is allowed."""
    if short_side is None:
        return size
    width, height = (max(1, round(side * short_side / min(size))) for side in size)
    if width * height > max_megapixels * 1e6:
        raise Refused(
            "too large", f"--size {short_side} makes it {width}x{height}, --max-megapixels is {max_megapixels:g}"
        )
    return width, height


def _parts(picture: Image.Image, short_side: int | None, max_megapixels: float) -> PictureFile:
    notes = []
    if getattr(picture, "n_frames", 1) > 1 and picture.format != "MPO":
        notes.append("the first of several frames")
    file_format = _OF_CONTENT.get(picture.format, "png")
    profile = picture.info.get("icc_profile") or b""
    ImageOps.exif_transpose(picture, in_place=True)
    exif = picture.getexif()
    exif.pop(_ORIENTATION, None)
    metadata = exif.tobytes() if len(exif) else b""
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
        notes.append("16 bits became 8")
    alpha = None
    if picture.has_transparency_data:
        picture = picture.convert("LA" if picture.mode in ("L", "LA", "La", "1") else "RGBA")
        *_, alpha = picture.split()
    if picture.mode == "CMYK" and profile:
        picture, profile = _rgb_of_cmyk(picture, profile), b""
    mode = "L" if picture.mode in ("1", "L", "LA") else "RGB"
    # A large picture is a lot of memory: no copy where none is needed, and the original is let go.
    colours = picture if picture.mode == mode else picture.convert(mode)
    del picture
    size = _scaled_size(colours.size, short_side, max_megapixels)
    if size != colours.size:
        lanczos = Image.Resampling.LANCZOS
        colours, alpha = colours.resize(size, lanczos), alpha and alpha.resize(size, lanczos)
    pixels = np.asarray(colours)
    return PictureFile(
        colours=pixels[..., None] if pixels.ndim == 2 else pixels,
        alpha=None if alpha is None else np.asarray(alpha),
        exif=metadata,
        profile=profile,
        file_format=file_format,
        notes=tuple(notes),
    )


def _eight_bits(picture: Image.Image) -> Image.Image:
    """16-bit grey, scaled and not clipped. Wider types do not say what white is."""
    # Pillow gives 16-bit PGM (and older ones 16-bit PNG) as 32-bit integers that never exceed 65535.
    if not (picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in ("PNG", "PPM"))):
        raise Refused("unknown range", f"pixels of type {picture.mode} do not say which value is white")
    values = np.asarray(picture).astype(np.uint32)
    return Image.fromarray(((values + 128) // 257).astype(np.uint8))


def _rgb_of_cmyk(picture: Image.Image, profile: bytes) -> Image.Image:
    """By its own profile; without one, or with a broken one, inks are taken for what they are not."""
    try:
        converted = ImageCms.profileToProfile(
            picture, ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    except (ImageCms.PyCMSError, OSError):
        return picture.convert("RGB")
    assert converted is not None
    return converted
