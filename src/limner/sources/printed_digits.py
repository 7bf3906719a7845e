"""Digits drawn with the fonts inside the `matplotlib` package: random font, size, slant, weight and place.

White on black, 28x28 grey, the digit about 20 pixels high and centred: the geometry of MNIST, so that print and
handwriting can stand in for each other. Picture i is a pure function of (seed, i) and the fonts, which choose nothing
but the font: in one font and in another it is the same digit of the same height, slant and place.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from limner.errors import LimnerError
from limner.settings import FONTS
from limner.sources import Picture, PictureSource

SIDE = 28
GLYPH, DESK = 64, 96
"""Font size at which a digit is drawn before it is slanted, thickened and scaled down, and room for it, pixels."""


def _weights(font: str) -> tuple[int, ...]:
    """Widths of the filter that changes the weight, light to heavy, pixels of the large glyph.

    A bold font fills up when thickened, and one with hairlines falls into pieces when thinned: only the bold ones of
    DejaVu can bear that.
    """
    if not ("Bol" in font or font == "cmb10"):
        return (0, 3, 5)
    return (-3, 0) if font.startswith("DejaVu") else (0,)


WEIGHTS = {font: _weights(font) for font in FONTS}
FONT_STREAM = 1
"""The font has randomness of its own, so that nothing else depends on which fonts there are."""


def open_printed_digits(
    *, count: int, seed: int, fonts: Sequence[str] = (), held_out_fonts: Sequence[str] = ()
) -> PictureSource:
    """`count` digits, the ten classes in turn, in `fonts` (empty: all others) and in `held_out_fonts`, as held out.

    Raises LimnerError where matplotlib lacks one of its fonts.
    """
    held_out = frozenset(held_out_fonts)
    drawn = sorted({*(fonts or WEIGHTS), *held_out})
    pictures = _pictures(count, seed, folder=_font_folder(), fonts=drawn, held_out=held_out)
    return PictureSource(pictures, classes=tuple("0123456789"), has_held_out=bool(held_out))


def _pictures(
    count: int, seed: int, *, folder: Path, fonts: Sequence[str], held_out: frozenset[str]
) -> Iterator[Picture]:
    for index in range(count):
        font = str(np.random.default_rng((seed, index, FONT_STREAM)).choice(fonts))
        draw = partial(_draw, index % 10, seed=seed, index=index, font=folder / f"{font}.ttf")
        yield Picture(f"printed-digits/{index:06d}", draw, index % 10, held_out=font in held_out)


def _font_folder() -> Path:
    # Found without importing matplotlib, which would look for, and perhaps create, its cache folder.
    spec = find_spec("matplotlib")
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" if spec and spec.origin else Path()
    missing = [font for font in WEIGHTS if not (folder / f"{font}.ttf").is_file()]
    if missing:
        raise LimnerError(
            f"The installed matplotlib has no font {missing[0]}.",
            why="printed-digits are drawn with the fonts that matplotlib ships.",
            fix="Install the versions of requirements.lock.",
        )
    return folder


def _draw(digit: int, *, seed: int, index: int, font: Path) -> NDArray[np.uint8]:
    rng = np.random.default_rng((seed, index))
    weights = WEIGHTS[font.stem]
    weight = weights[int(rng.random() * len(weights))]
    slant, height, jitter = rng.uniform(-0.25, 0.25), rng.uniform(17, 22), rng.integers(-1, 2, size=2)

    # The face is opened anew each time: FreeType's are not safe to share between threads.
    face = ImageFont.truetype(str(font), GLYPH, layout_engine=ImageFont.Layout.BASIC)
    glyph = Image.new("L", (DESK, DESK))
    ImageDraw.Draw(glyph).text((DESK / 2, DESK / 2), str(digit), fill=255, font=face, anchor="mm")
    if weight:
        glyph = glyph.filter(ImageFilter.MaxFilter(weight) if weight > 0 else ImageFilter.MinFilter(-weight))
    shear = (1, slant, -slant * DESK / 2, 0, 1, 0)
    glyph = glyph.transform(glyph.size, Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR)
    glyph = glyph.crop(glyph.getbbox())

    scale = min(height / glyph.height, 22 / glyph.width)
    size = (max(1, round(glyph.width * scale)), max(1, round(glyph.height * scale)))
    canvas = Image.new("L", (SIDE, SIDE))
    place = ((SIDE - size[0]) // 2 + int(jitter[0]), (SIDE - size[1]) // 2 + int(jitter[1]))
    canvas.paste(glyph.resize(size, Image.Resampling.LANCZOS), place)
    return np.asarray(canvas)
