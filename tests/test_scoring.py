import base64
import io
import json
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from limner.errors import LimnerError
from limner.inference import Wish, open_model
from limner.scoring import DEFAULTS, Limits, fulfil, order_bytes, read_order, write_answer
from tests.exports import export_generator
from tests.translators import export_translator

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return open_model(export_generator(tmp_path_factory.mktemp("generator")))


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    return open_model(export_translator(tmp_path_factory.mktemp("translator")))


def picture(height=12, width=8, channels=3):
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(pixels, file_format="PNG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, file_format, **options)
    return base64.b64encode(buffer.getvalue()).decode()


def bomb(width, height):
    """A PNG file that claims a size and holds nothing."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in ((b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    return base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def test_defaults_ask_for_one_picture_of_seed_0(generator):
    assert read_order(generator, [], None, Limits()).wishes == (Wish(0, 0, None, None),)
    assert read_order(generator, None, dict(DEFAULTS), Limits()).wishes == (Wish(0, 0, None, None),)
    assert read_order(generator, np.empty(0, object), {"label": None, "count": None}, Limits()).count == 1


def test_all_parameters_reach_the_model(generator):
    asked = {"count": 2, "seed": 7, "label": 2, "truncation": 0.5, "output": "png"}
    order = read_order(generator, [], asked, Limits())
    assert order.wishes == (Wish(7, 0, 2, 0.5), Wish(7, 1, 2, 0.5))
    assert order.output == "png"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"cuont": 1}, "no parameter 'cuont'.*\nDid you mean 'count'"),
        ({"count": True}, "'count' has to be a whole number"),
        ({"count": 1.0}, "'count' has to be a whole number"),
        ({"count": "2"}, "'count' has to be a whole number"),
        ({"count": 0}, "0 pictures cannot be had"),
        ({"count": 65}, "65 pictures cannot be had.*\nAsk for 1 to 64"),
        ({"seed": -1}, "no seed -1"),
        ({"seed": 2**63}, "no seed 9223372036854775808"),
        ({"label": 3}, "no class 3.\nIts classes: 0 to 2"),
        ({"label": -2}, "no class -2"),
        ({"truncation": -1}, "truncation of -1 is out of range"),
        ({"truncation": float("nan")}, "'truncation' has to be a number"),
        ({"truncation": float("inf")}, "'truncation' has to be a number"),
        ({"truncation": 10**400}, "'truncation' has to be a number"),
        ({"truncation": True}, "'truncation' has to be a number"),
        ({"strength": 0.5}, "'strength' means nothing to this model"),
        ({"output": "gif"}, "no output 'gif'"),
        ({"output": ["png"]}, "no output"),
        ([1], "`params` has to be an object"),
    ],
)
def test_a_wrong_parameter_of_a_generator_is_refused(generator, params, said):
    with pytest.raises(LimnerError, match=said):
        read_order(generator, [], params, Limits())


def test_a_generator_takes_no_inputs(generator):
    with pytest.raises(LimnerError, match="takes no inputs"):
        read_order(generator, [1], None, Limits())


def test_limits_bound_what_is_made(generator):
    with pytest.raises(LimnerError, match="Ask for 1 to 3"):
        read_order(generator, [], {"count": 4}, Limits(pictures=3))
    with pytest.raises(LimnerError, match="Ask for 1 to 2"):
        read_order(generator, [], {"count": 3}, Limits(pixels=16 * 16 * 2))


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"count": 2}, "'count' means nothing"),
        ({"seed": 1}, "'seed' means nothing"),
        ({"strength": -0.1}, "strength of -0.1 is out of range"),
        ({"strength": 1.1}, "strength of 1.1 is out of range"),
        ({"strength": "1"}, "'strength' has to be a number"),
    ],
)
def test_a_wrong_parameter_of_a_translator_is_refused(translator, params, said):
    with pytest.raises(LimnerError, match=said):
        read_order(translator, [picture().tolist()], params, Limits())


def test_arrays_in_all_their_forms_are_the_same_pictures(translator):
    two = np.stack([picture(), picture()])
    forms = (
        two,
        two.tolist(),
        two.astype(object),
        [two[0].tolist(), encoded(two[1])],
        [two[0], encoded(two[1]).encode()],
    )
    for form in forms:
        order = read_order(translator, form, None, Limits())
        assert np.array_equal(np.stack(order.pictures), two)


def test_pictures_of_a_request_may_have_different_sizes(translator):
    sent = [picture(12, 8), picture(20, 24)]
    order = read_order(translator, [encoded(each) for each in sent], None, Limits())
    assert all(np.array_equal(a, b) for a, b in zip(order.pictures, sent, strict=True))


@pytest.mark.parametrize(
    "text",
    [
        lambda pixels: encoded(pixels, "WEBP", lossless=True),
        lambda pixels: "data:image/png;base64," + encoded(pixels),
        lambda pixels: "\n".join(encoded(pixels)[start : start + 76] for start in range(0, 2000, 76)),
        lambda pixels: encoded(Image.fromarray(pixels).convert("RGBA")),
    ],
    ids=["webp", "data address", "lines", "alpha"],
)
def test_base64_files_are_read(translator, text):
    pixels = picture()
    assert np.array_equal(read_order(translator, [text(pixels)], None, Limits()).pictures[0], pixels)


def test_grey_and_sideways_files_are_read(translator):
    grey = RNG.integers(0, 256, (5, 7), dtype=np.uint8)
    assert np.array_equal(
        read_order(translator, [encoded(grey)], None, Limits()).pictures[0], np.repeat(grey[..., None], 3, 2)
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    sideways = encoded(np.zeros((8, 16, 3), np.uint8), "JPEG", exif=exif)
    assert read_order(translator, [sideways], None, Limits()).pictures[0].shape == (16, 8, 3)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "has to be a list of pictures"),
        (None, "has to be a list of pictures"),
        ("iVBOR", "has to be a list of pictures"),
        ({"a": 1}, "has to be a list of pictures"),
        (5, "has to be a list of pictures"),
        ([[[[0, 0, 256]]]], "Picture 0 .*\n.*whole numbers from 0 to 255"),
        ([[[[0, 0, -1]]]], "Picture 0 .*\n.*whole numbers from 0 to 255"),
        ([[[[0.0, 0.5, 0.1]]]], "Picture 0 .*\n.*float64"),
        ([[[[True, True, True]]]], "Picture 0 .*\n.*bool"),
        ([[[[0, 0]]]], r"Picture 0 .*\n.*\[H, W, 3\].*\[1, 1, 2\]"),
        ([[[[0, 0, 0], [0, 0]]]], "Picture 0 .*\n.*whole numbers"),
        ([[[[0, 0, 0]]], None], "Picture 1 "),
        (["not base64!"], "not base64"),
        ([base64.b64encode(b"hello").decode()], "no PNG, JPEG or WEBP file"),
        ([encoded(picture(), "GIF")], "no PNG, JPEG or WEBP file"),
        ([encoded(picture(64, 64))[:400]], "no PNG, JPEG or WEBP file, or a damaged one"),
        ([encoded(np.zeros((4, 4), np.uint16))], "pixels are of type I;16"),
        ([bomb(60000, 60000)], "Picture 0 .* too large"),
        ([bomb(10000, 10000)], "Picture 0 .* too large"),
        ([bomb(5000, 5000)], "too large.\nIt is 5000x5000; .* 16777216 pixels together"),
        ([[[[0, 0, 0]]]] * 65, "65 pictures are too many"),
    ],
)
def test_what_is_no_pictures_is_refused(translator, inputs, said):
    with pytest.raises(LimnerError, match=said):
        read_order(translator, inputs, None, Limits())


def test_pixels_are_counted_over_all_pictures(translator):
    limits = Limits(pixels=2 * 16 * 16)  # as the model pads 12 x 8
    two = [encoded(picture()), picture().tolist()]
    assert read_order(translator, two, None, limits).count == 2
    for third in (encoded(picture(1, 1)), picture(1, 1).tolist()):
        with pytest.raises(LimnerError, match="Picture 2 of the inputs is too large"):
            read_order(translator, [*two, third], None, limits)


def test_a_picture_counts_as_large_as_the_model_makes_it(translator):
    assert translator.padded_size(1, 17) == (16, 18)
    thin = encoded(picture(1, 17))
    assert read_order(translator, [thin], None, Limits(pixels=16 * 18)).count == 1
    with pytest.raises(LimnerError, match=r"It is 17x1, as the model takes it 18x16; .* 287 pixels together"):
        read_order(translator, [thin], None, Limits(pixels=16 * 18 - 1))
    with pytest.raises(LimnerError, match="It is 16777216x1; its longer side may be 16384"):
        read_order(translator, [bomb(2**24, 1)], None, Limits())


def test_arrays_may_have_fewer_pixels_than_files(generator, translator):
    limits, large = Limits(array_pixels=12 * 8), picture(13, 8)
    read_order(translator, [picture().tolist()], None, limits)
    assert read_order(translator, [encoded(large)], {"output": "png"}, limits).count == 1
    for inputs, output in (([large.tolist()], "png"), ([encoded(large)], "array")):
        with pytest.raises(LimnerError, match=r"8x13; as arrays .* 96 pixels together(.|\n)*\"output\": \"png\""):
            read_order(translator, inputs, {"output": output}, limits)
    limits = Limits(array_pixels=2 * 16 * 16)
    assert read_order(generator, [], {"count": 2}, limits).count == 2
    assert read_order(generator, [], {"count": 3, "output": "png"}, limits).count == 3
    with pytest.raises(LimnerError, match=r"768 pixels(.|\n)*\"output\": \"png\""):
        read_order(generator, [], {"count": 3}, limits)


def test_a_generator_larger_than_a_request_may_be_says_so(generator):
    with pytest.raises(LimnerError, match=r"has 16x16 pixels(.|\n)*--max-pixels"):
        read_order(generator, [], {}, Limits(pixels=255))


class Full(LimnerError):
    """There is no room."""


def test_memory_is_asked_for_before_a_picture_is_decoded(generator, translator, monkeypatch):
    asked = []
    order = read_order(translator, [encoded(picture())] * 2, None, Limits(), reserve=asked.append)
    assert len(asked) == 2
    assert sum(asked) == order_bytes(translator, order)
    order = read_order(generator, [], {"count": 3}, Limits(), reserve=asked.append)
    assert asked[2:] == [order_bytes(generator, order)]
    monkeypatch.setattr(Image.Image, "convert", lambda *_, **__: pytest.fail("decoded"))

    def refuse(size):
        raise Full(f"{size} bytes")

    with pytest.raises(Full, match="bytes"):  # and not "Picture 0 cannot be used"
        read_order(translator, [encoded(picture())], None, Limits(), reserve=refuse)


def test_an_order_takes_at_least_its_sources_results_and_answer(generator, translator):
    for model, inputs, params in (
        (translator, [picture(16, 20)], {}),
        (translator, [picture(1, 1)], {"output": "png"}),
        (generator, [], {"count": 5}),
        (generator, [], {"count": 5, "output": "png"}),
    ):
        order = read_order(model, inputs, params, Limits())
        (results,) = fulfil(model, [order])
        answer = write_answer(results, order.output)
        written = len(json.dumps(answer if order.output == "png" else [each.tolist() for each in answer]))
        raw = sum(each.nbytes for each in (*order.pictures, *results))
        assert order_bytes(model, order) > raw + written - 100 * (order.output == "png")  # a PNG file's head


def test_a_bomb_is_not_decoded(translator, monkeypatch):
    decoded = []
    monkeypatch.setattr(Image.Image, "convert", lambda *_, **__: decoded.append(1))
    with pytest.raises(LimnerError, match="too large"):
        read_order(translator, [encoded(picture(64, 64))], None, Limits(pixels=1000))
    assert not decoded


def test_orders_together_are_what_they_are_alone(generator, translator):
    asked = [{"count": 3, "seed": 1}, {"seed": 5, "label": 2, "truncation": 0.4}, {"count": 2, "seed": 1, "label": 0}]
    orders = [read_order(generator, [], params, Limits()) for params in asked]
    for order, pictures in zip(orders, fulfil(generator, orders), strict=True):
        assert np.abs(np.stack(pictures).astype(int) - generator.paint(order.wishes)).max() <= 1
    sent = [([picture(), picture(20, 16)], 1.0), ([picture()], 0.5), ([picture(20, 16)], 1.0)]
    orders = [read_order(translator, pictures, {"strength": strength}, Limits()) for pictures, strength in sent]
    for (sources, strength), results in zip(sent, fulfil(translator, orders), strict=True):
        for source, result in zip(sources, results, strict=True):
            assert np.abs(result.astype(int) - translator.stylize(source, strength=strength)).max() <= 1


def test_answers_are_arrays_or_png_files():
    pictures = [picture(channels=1), picture(5, 5, 4)]
    assert all(a is b for a, b in zip(write_answer(pictures, "array"), pictures, strict=True))
    for text, pixels in zip(write_answer(pictures, "png"), pictures, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text))) as image:
            assert image.format == "PNG"
            assert np.array_equal(np.asarray(image).reshape(pixels.shape), pixels)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*DEFAULTS, "x"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(inputs=JSON, params=JSON)
def test_whatever_is_sent_is_an_order_or_an_error_of_ours(generator, translator, inputs, params):
    for model in (generator, translator):
        with suppress(LimnerError):  # and no other
            assert read_order(model, inputs, params, Limits()).count >= 1
