"""Digits drawn with the fonts inside the `matplotlib` package: random font, size, slant, weight and place.

White on black, 28x28 grey, the digit about 20 pixels high and centred: the geometry of MNIST, so that print and
handwriting can stand in for each other. Picture i is a pure function of (seed, i).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from limner.errors import LimnerError
from limner.sources import Picture, PictureSource

SIDE = 28
GLYPH, DESK = 64, 96
"""Font size at which a digit is drawn before it is slanted, thickened and scaled down, and room for it, pixels."""

# Named one by one: the same folder holds symbol fonts whose digits are missing, tiny or not digits at all.
REGULAR = (
    "DejaVuSans",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralItalic",
    "cmr10",
    "cmss10",
    "cmti10",
    "cmtt10",
)
BOLD = (
    "DejaVuSans-Bold",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif-Bold",
    "DejaVuSerif-BoldItalic",
    "STIXGeneralBol",
    "STIXGeneralBolIta",
    "cmb10",
)
# Widths of the filter that changes the weight, pixels of the large glyph. A bold font fills up when thickened, and one
# with hairlines falls into pieces when thinned: only the bold ones of DejaVu can bear that.
DILATIONS, EROSIONS = (0, 3, 5), (0, -3)
WEIGHTS = {
    **dict.fromkeys(REGULAR, DILATIONS),
    **{font: EROSIONS if font.startswith("DejaVu") else (0,) for font in BOLD},
}


def open_printed_digits(*, count: int, seed: int) -> PictureSource:
    """`count` digits, the ten classes in turn. Raises LimnerError where matplotlib lacks one of the fonts."""
    return PictureSource(_pictures(count, seed, _font_folder()), classes=tuple("0123456789"))


def _pictures(count: int, seed: int, fonts: Path) -> Iterator[Picture]:
    for index in range(count):
        draw = partial(_draw, index % 10, seed=seed, index=index, fonts=fonts)
        yield Picture(f"printed-digits/{index:06d}", draw, index % 10)


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


def _draw(digit: int, *, seed: int, index: int, fonts: Path) -> NDArray[np.uint8]:
    rng = np.random.default_rng((seed, index))
    name = str(rng.choice(list(WEIGHTS)))
    weight = int(rng.choice(WEIGHTS[name]))
    slant, height, jitter = rng.uniform(-0.25, 0.25), rng.uniform(17, 22), rng.integers(-1, 2, size=2)

    # The face is opened anew each time: FreeType's are not safe to share between threads.
    font = ImageFont.truetype(str(fonts / f"{name}.ttf"), GLYPH, layout_engine=ImageFont.Layout.BASIC)
    glyph = Image.new("L", (DESK, DESK))
    ImageDraw.Draw(glyph).text((DESK / 2, DESK / 2), str(digit), fill=255, font=font, anchor="mm")
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
