"""Decoding: whatever a file holds becomes pixels of the wanted kind, or is refused with a reason."""

import io
import logging
import struct
import time
import warnings
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from limner.settings import ImageSettings
from limner.sources import Refused
from limner.sources.decode import decode, largest_file, quiet_pillow

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_pillow():
        yield


def encode(picture, file_format="PNG", **options):
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, file_format, **options)
    return buffer.getvalue()


def wanted(size=16, channels=3, fit="none", **more):
    return ImageSettings(size=size, channels=channels, fit=fit, **more)


def png_header(width, height):
    """A PNG of a few bytes that claims to be as large as you like."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def refusal(content, image=None):
    """Reason and detail of the refusal that decoding this ends in."""
    outcome = attempt(content, image or wanted())
    assert isinstance(outcome, Refused)
    assert " 0x" not in outcome.detail  # an address would differ from run to run
    return outcome.reason, outcome.detail


def attempt(content, image):
    try:
        return decode(content, image)
    except Refused as refused:
        return refused


# -- kinds of files ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "PPM", "TIFF"])
def test_a_lossless_file_gives_its_pixels(file_format):
    assert np.array_equal(decode(encode(NOISE, file_format), wanted()).pixels, NOISE)


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_a_lossy_file_gives_nearly_its_pixels(file_format):
    ramp = np.broadcast_to(np.arange(0, 256, 16, dtype=np.uint8)[:, None, None], (16, 16, 3))
    pixels = decode(encode(np.ascontiguousarray(ramp), file_format), wanted()).pixels
    assert np.abs(pixels.astype(int) - ramp).max() < 20


def test_raw_pixels_need_no_file():
    assert np.array_equal(decode(NOISE, wanted()).pixels, NOISE)
    assert np.array_equal(decode(NOISE[:, :, 0], wanted(channels=1)).pixels, NOISE[:, :, :1])


def test_a_text_file_is_not_a_picture_whatever_its_name():
    reason, detail = refusal(b"dear diary\n" * 10)
    assert reason == "not a picture"
    assert "PNG" in detail


@pytest.mark.parametrize("content", [b"", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", b"<svg/>"])
def test_nothing_but_raster_formats_is_opened(content):
    assert refusal(content)[0] == "not a picture"


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP"])
def test_a_truncated_file_is_damaged(file_format):
    content = encode(NOISE, file_format)
    assert refusal(content[: len(content) * 2 // 3])[0] in ("damaged", "not a picture")


def test_a_truncated_jpeg_says_so():
    content = encode(np.tile(NOISE, (8, 8, 1)), "JPEG")
    reason, detail = refusal(content[: len(content) // 2])
    assert reason == "damaged"
    assert "truncated" in detail


# -- sizes ------------------------------------------------------------------------------------------------------------


def test_a_decompression_bomb_is_refused_from_its_header():
    began = time.perf_counter()
    assert refusal(png_header(20000, 20000)) == ("too large", "20000x20000, max_megapixels is 100")
    assert time.perf_counter() - began < 1


def test_the_limit_of_megapixels_is_ours_alone():
    content = encode(np.zeros((100, 101), np.uint8))
    assert refusal(content, wanted(max_megapixels=0.01))[0] == "too large"
    assert decode(content, wanted(max_megapixels=0.0101)).pixels.shape == (16, 16, 3)
    # Pillow's own limit would refuse this one; ours lets it pass to the decoder, which finds it empty.
    assert refusal(png_header(20000, 20000), wanted(max_megapixels=500))[0] == "damaged"


@pytest.mark.parametrize(("width", "height"), [(1, 1), (7, 300), (300, 7)])
def test_a_picture_with_a_short_side_below_min_side_is_too_small(width, height):
    reason, detail = refusal(encode(Image.new("RGB", (width, height))))
    assert (reason, detail) == ("too small", f"{width}x{height}, min_side is 8")
    assert decode(encode(Image.new("RGB", (width, height))), wanted(min_side=1)).pixels.shape == (16, 16, 3)


def test_the_largest_file_holds_any_picture_that_is_allowed():
    assert largest_file(wanted(max_megapixels=2)) >= 2e6 * 8


# -- colours ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I;16"])
def test_every_mode_becomes_every_number_of_channels(mode, channels):
    picture = Image.new("L", (16, 16), 255)
    grey16 = Image.fromarray(np.full((16, 16), 65535, np.uint16))
    # TIFF keeps these modes as they are; HSV is in no file, a GIF or PNG palette is tested below.
    source = grey16 if mode == "I;16" else picture.convert("RGB").convert(mode)
    # Pillow 12 cannot read the plain YCbCr that it has written: such a file is refused as damaged.
    options = {"compression": "jpeg"} if mode == "YCbCr" else {}
    content = np.asarray(picture) if mode == "HSV" else encode(source, "TIFF", **options)
    pixels = decode(content, wanted(channels=channels)).pixels
    assert pixels.shape == (16, 16, channels)
    assert pixels.min() >= 254  # LAB goes through floating point


def test_cmyk_becomes_rgb_and_is_noted():
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    result = decode(encode(red, "JPEG", quality=100), wanted())
    assert np.abs(result.pixels.astype(int) - [255, 0, 0]).max() <= 3
    assert result.notes == ("CMYK: converted without its colour profile",)


def test_a_palette_becomes_its_colours():
    palette = Image.fromarray(NOISE // 128 * 255).convert("P", palette=Image.Palette.ADAPTIVE, colors=8)
    assert np.array_equal(decode(encode(palette), wanted()).pixels, NOISE // 128 * 255)


@pytest.mark.parametrize("transparency", [0, bytes([0, 255])])
def test_what_a_palette_says_is_transparent_shows_the_background(transparency):
    palette = Image.fromarray(np.eye(16, dtype=np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    content = encode(palette, transparency=transparency)
    expected = np.where(np.eye(16, dtype=bool)[..., None], [0, 0, 255], 200)
    assert np.array_equal(decode(content, wanted(background=200)).pixels, expected)
    assert np.array_equal(decode(content, wanted(channels=4)).pixels[..., 3], np.eye(16) * 255)


def test_alpha_is_put_over_the_background_in_proportion():
    half = np.dstack([np.full((16, 16, 3), 100, np.uint8), np.full((16, 16), 51, np.uint8)])
    assert decode(encode(half), wanted(background=200)).pixels[0, 0].tolist() == [180] * 3
    grey = encode(Image.fromarray(half).convert("LA"))
    assert decode(grey, wanted(channels=1, background=200)).pixels[0, 0].tolist() == [180]


def test_alpha_is_kept_where_four_channels_are_wanted():
    rgba = np.dstack([NOISE, np.full((16, 16), 128, np.uint8)])
    assert np.array_equal(decode(encode(rgba), wanted(channels=4)).pixels, rgba)


@pytest.mark.parametrize("fit", ["none", "crop"])
def test_colours_that_nobody_can_see_become_the_background(fit):
    hidden = np.dstack([NOISE, np.zeros((16, 16), np.uint8)])
    pixels = decode(encode(hidden), wanted(size=8, channels=4, background=7, fit=fit)).pixels
    assert np.array_equal(pixels, np.broadcast_to([7, 7, 7, 0], (8, 8, 4)))


def test_an_rgb_colour_marked_transparent_shows_the_background():
    content = encode(np.full((16, 16, 3), 9, np.uint8), transparency=(9, 9, 9))
    assert decode(content, wanted(background=50)).pixels[0, 0].tolist() == [50] * 3


@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled_and_not_clipped(file_format):
    values = np.tile(np.array([0, 200, 25700, 65535], np.uint16), (16, 4))
    picture = Image.fromarray(values)
    content = encode(picture.convert("I") if file_format == "PPM" else picture, file_format)
    assert decode(content, wanted(channels=1)).pixels[0, :4, 0].tolist() == [0, 1, 100, 255]


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_of_unknown_range_are_refused(mode):
    content = encode(Image.new(mode, (16, 16), 70000), "TIFF")
    assert refusal(content) == ("unknown range", f"pixels of type {mode} do not say which value is white")


# -- frames and orientation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_used_and_noted(file_format):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    content = encode(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    result = decode(content, wanted())
    assert result.pixels[0, 0].tolist() == [255, 0, 0]
    assert result.notes == ("several frames: first frame used",)


def test_a_still_gif_has_no_note():
    assert decode(encode(Image.new("P", (16, 16)), "GIF"), wanted()).notes == ()


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_the_orientation_of_exif_is_applied(orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decode(encode(NOISE, exif=exif), wanted())
    assert np.array_equal(result.pixels, np.rot90(NOISE, turns))
    assert result.notes == (("EXIF orientation applied",) if turns else ())


# -- fit --------------------------------------------------------------------------------------------------------------

LEFT_WHITE = np.zeros((20, 40), np.uint8)
LEFT_WHITE[:, :20] = 255


def fitted(pixels, fit, size=10, **more):
    return decode(pixels, wanted(size=size, channels=1, fit=fit, **more)).pixels[:, :, 0]


def test_crop_scales_the_short_side_and_cuts_the_long_one():
    marked = np.full((20, 40), 100, np.uint8)
    marked[:, :10] = marked[:, 30:] = 0  # exactly what is to go
    result = fitted(marked, "crop")
    assert (result[:, 1:-1] > 95).all()  # the filter looks a little beyond the edge
    assert (result > 90).all()


def test_pad_scales_the_long_side_and_fills_the_short_one():
    result = fitted(np.full((20, 40), 100, np.uint8), "pad", background=33)
    assert result[:, 0].tolist() == [33, 33, 100, 100, 100, 100, 100, 33, 33, 33]


def test_padding_is_transparent_where_there_is_alpha():
    result = decode(np.full((20, 40, 3), 100, np.uint8), wanted(size=10, channels=4, fit="pad", background=33)).pixels
    assert result[0, 0].tolist() == [33, 33, 33, 0]
    assert result[5, 5].tolist() == [100, 100, 100, 255]


def test_pad_keeps_a_line_of_an_extremely_long_picture():
    assert (fitted(np.full((8, 2000), 100, np.uint8), "pad") == 100).any()


def test_stretch_keeps_everything_and_ignores_the_aspect():
    result = fitted(LEFT_WHITE, "stretch")
    assert (result[:, :4] > 250).all()
    assert (result[:, 6:] < 5).all()


@pytest.mark.parametrize("side", [12, 16, 20])
def test_none_never_scales_but_pads_or_cuts_round_the_centre(side):
    result = fitted(NOISE[:, :, 0], "none", size=side, background=33)
    gap = (side - 16) // 2
    if gap < 0:
        assert np.array_equal(result, NOISE[2:-2, 2:-2, 0])
    else:
        assert np.array_equal(result[gap : side - gap, gap : side - gap], NOISE[:, :, 0])
        assert (result[:gap] == 33).all()


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch", "none"])
def test_a_picture_of_the_right_size_is_left_as_it_is(fit):
    assert np.array_equal(decode(NOISE, wanted(fit=fit)).pixels, NOISE)


# -- nothing gets through ---------------------------------------------------------------------------------------------

SEEDS = [encode(NOISE, file_format) for file_format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP", "JPEG2000")]


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data(), which=st.sampled_from(range(len(SEEDS))), cut=st.integers(0, 64))
def test_damage_of_any_kind_gives_a_picture_or_a_refusal(data, which, cut):
    content = bytearray(SEEDS[which])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    outcome = attempt(bytes(content[: len(content) - cut]), wanted(max_megapixels=0.1))
    assert outcome.reason if isinstance(outcome, Refused) else outcome.pixels.shape == (16, 16, 3)


def test_pillow_is_quiet_while_it_decodes_and_itself_again_afterwards(capsys):
    before = Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with quiet_pillow():
            warnings.warn("Corrupt EXIF data", stacklevel=1)
            logging.getLogger("PIL.TiffImagePlugin").error("More samples per pixel than can be decoded")
        with pytest.raises(UserWarning, match="heard"):
            warnings.warn("heard", stacklevel=1)
    assert (Image.MAX_IMAGE_PIXELS, logging.getLogger("PIL").level) == before
    assert capsys.readouterr().err == ""


# -- halves -----------------------------------------------------------------------------------------------------------


def half_of(pixels, half, *, image=None, **options):
    return decode(encode(pixels, **options), image or wanted(), half=half).pixels


def test_each_half_is_what_was_put_there():
    other = 255 - NOISE
    both = np.concatenate([NOISE, other], axis=1)
    assert np.array_equal(half_of(both, "left"), NOISE)
    assert np.array_equal(half_of(both, "right"), other)


def test_halves_are_those_of_the_upright_picture():
    exif = Image.Exif()
    exif[0x0112] = 6
    both = np.concatenate([NOISE, 255 - NOISE], axis=1)
    assert np.array_equal(half_of(np.rot90(both), "left", exif=exif), NOISE)


def test_sixteen_bit_and_palette_and_transparent_halves_are_read_as_whole_pictures_are():
    wide = np.tile(np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16), (1, 2))
    for file_format in ("PNG", "PPM"):
        whole = decode(encode(Image.fromarray(wide[:, :16]), file_format), wanted(channels=1)).pixels
        assert np.array_equal(half_of(wide, "right", image=wanted(channels=1), file_format=file_format), whole)
    palette = Image.fromarray(np.concatenate([NOISE, NOISE], axis=1)).quantize(16)
    half = palette.crop((16, 0, 32, 16))
    options = {"transparency": 0}
    assert np.array_equal(half_of(palette, "right", **options), decode(encode(half, **options), wanted()).pixels)


def test_a_half_is_fitted_by_itself():
    both = np.concatenate([np.full((40, 20, 3), 10, np.uint8), np.full((40, 20, 3), 200, np.uint8)], axis=1)
    for half, value in (("left", 10), ("right", 200)):
        assert (half_of(both, half, image=wanted(fit="stretch")) == value).all(), "nothing of the other half"


@pytest.mark.parametrize(
    ("width", "refused"), [(17, ("odd width", "17x16 has no middle")), (14, ("too small", "are 7x16, min_side is 8"))]
)
def test_what_has_no_two_halves_is_refused(width, refused):
    with pytest.raises(Refused) as caught:
        half_of(np.zeros((16, width, 3), np.uint8), "left", image=wanted(min_side=8))
    assert caught.value.reason == refused[0]
    assert refused[1] in caught.value.detail
