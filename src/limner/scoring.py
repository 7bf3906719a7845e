"""Requests to a served model: what inputs and parameters ask of it, within limits; and answers in the form asked for.

Knows neither HTTP nor MLflow, and serves both. A request is {"inputs": [...], "params": {...}}: a generator takes no
inputs; a translator takes pictures, each an array [H, W, C] of whole numbers 0..255, or a PNG, JPEG or WebP file as a
base64 string.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import string
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from limner.errors import LimnerError, suggest
from limner.inference import GenerativeModel, StyleModel, Wish
from limner.pixels import encode_png

Output = Literal["array", "png"]
Model = GenerativeModel | StyleModel
FORMATS = ("PNG", "JPEG", "WEBP")
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
LARGEST_SEED = 2**63 - 1
NO_LABEL, NO_TRUNCATION = -1, 0.0
"""What MLflow's parameters, which have no null, say instead of it."""
DEFAULTS: Mapping[str, int | float | str] = {
    "seed": 0,
    "count": 1,
    "label": NO_LABEL,
    "truncation": NO_TRUNCATION,
    "strength": 1.0,
    "output": "array",
}
"""The parameters of a request."""
TRANSLATOR_COPIES, GENERATOR_COPIES = 5, 2
"""Of a picture: as it came, in a batch, padded, and the result in its part and its batch."""
DECODING_BYTES = 20
"""For each pixel, while a file is decoded: Pillow's 4, turned upright, converted, and copied."""
PNG_COPIES = 5
"""Of a picture that does not compress: its file, that in base64 (4/3), and this in JSON, whose buffer may double."""
ROW_BYTES, DIGIT_BYTES = 112, 8
"""What writing an array as JSON takes for each pixel and each value (measured: 109 and 8)."""
_OF_GENERATORS, _OF_TRANSLATORS = ("seed", "count", "label", "truncation"), ("strength",)


@dataclass(frozen=True)
class Limits:
    """What a single request may ask for."""

    pictures: int = 64
    pixels: int = 2**24
    """Of all its pictures together, as large as the model pads them; known before they are decoded."""
    array_pixels: int = 2**20
    """Of all its pictures that come as arrays, or leave as arrays: as JSON they take up to 100 times the memory."""
    side: int = 2**14
    """Of a picture's longer side."""
    bytes: int = 2**24
    """Of its body."""


@dataclass(frozen=True)
class Order:
    """A request that the model can fulfil: pictures out of noise, or in another style."""

    wishes: tuple[Wish, ...] = ()
    pictures: tuple[NDArray[np.uint8], ...] = ()
    strength: float = 1.0
    output: Output = "array"

    @property
    def count(self) -> int:
        """How many pictures are the answer."""
        return len(self.wishes) + len(self.pictures)


def read_order(
    model: Model,
    inputs: Any,
    params: Mapping[str, Any] | None,
    limits: Limits,
    *,
    reserve: Callable[[int], None] = lambda _: None,
) -> Order:
    """What a request asks of the model. Raises LimnerError where it cannot be had, or is more than the limits allow.

    `reserve` is told how many bytes pictures will take until their answer is sent, before they are decoded. What it
    raises is raised.
    """
    asked = _parameters(params)
    output = asked["output"]
    if output not in get_args(Output):
        raise LimnerError(f"There is no output {output!r}.", fix='It is "array" or "png".')
    if isinstance(model, StyleModel):
        _refuse_foreign(asked, _OF_GENERATORS, why="This model turns pictures into others.")
        strength = _real("strength", asked["strength"])
        if not 0 <= strength <= 1:
            raise LimnerError(f"A strength of {strength:g} is out of range.", fix="0 is the source, 1 the full style.")
        pictures = tuple(_read_pictures(inputs, _Allowance(model, limits, output, reserve)))
        return Order(pictures=pictures, strength=strength, output=output)
    _refuse_foreign(asked, _OF_TRANSLATORS, why="This model makes pictures of its own.")
    if inputs is not None and not (isinstance(inputs, Sequence | np.ndarray) and not len(inputs)):
        raise LimnerError(
            "This model takes no inputs: it makes pictures of its own.",
            fix='Send "inputs": [] and say in "params" which.',
        )
    wishes = _wishes(model, asked, limits)
    reserve(_bytes(model, len(wishes) * model.height * model.width, output))
    return Order(wishes=wishes, output=output)


def order_bytes(model: Model, order: Order) -> int:
    """Memory that an order takes until its answer is sent: sources, results, answer; what the model works in is not."""
    if isinstance(model, StyleModel):
        pixels = sum(math.prod(model.padded_size(*picture.shape[:2])) for picture in order.pictures)
    else:
        pixels = order.count * model.height * model.width
    return _bytes(model, pixels, order.output)


def fulfil(model: Model, orders: Sequence[Order]) -> list[list[NDArray[np.uint8]]]:
    """The pictures uint8 [H, W, C] of each order. All that the model can do at once is done at once."""
    if isinstance(model, GenerativeModel):
        painted = iter(model.paint([wish for order in orders for wish in order.wishes]))
        return [[next(painted) for _ in order.wishes] for order in orders]
    alike: dict[tuple[Any, ...], list[tuple[int, int]]] = defaultdict(list)
    for number, order in enumerate(orders):
        for place, picture in enumerate(order.pictures):
            alike[(picture.shape, order.strength)].append((number, place))
    results: list[list[NDArray[np.uint8]]] = [list(order.pictures) for order in orders]
    for (_, strength), places in alike.items():
        batch = np.stack([orders[number].pictures[place] for number, place in places])
        for (number, place), result in zip(places, model.stylize_batch(batch, strength=strength), strict=True):
            results[number][place] = result
    return results


def write_answer(pictures: Sequence[NDArray[np.uint8]], output: Output) -> list[str] | list[NDArray[np.uint8]]:
    """Pictures as they are, or as PNG files in base64."""
    if output == "array":
        return list(pictures)
    return [base64.b64encode(encode_png(picture)).decode("ascii") for picture in pictures]


def _bytes(model: Model, pixels: int, output: Output) -> int:
    copies = TRANSLATOR_COPIES if isinstance(model, StyleModel) else GENERATOR_COPIES
    answer = PNG_COPIES * model.channels if output == "png" else ROW_BYTES + DIGIT_BYTES * model.channels
    return pixels * max(DECODING_BYTES, copies * model.channels + answer)


def _parameters(params: Mapping[str, Any] | None) -> dict[str, Any]:
    """All of them; null is the same as none said."""
    if params is None:
        params = {}
    if not isinstance(params, Mapping):
        raise LimnerError("`params` has to be an object.", fix='Such as {"count": 4, "seed": 1}.')
    for name in params:
        if name not in DEFAULTS:
            raise LimnerError(f"There is no parameter {name!r}.", fix=suggest(str(name), DEFAULTS))
    return {**DEFAULTS, **{name: value for name, value in params.items() if value is not None}}


def _refuse_foreign(asked: Mapping[str, Any], names: Iterable[str], *, why: str) -> None:
    for name in names:
        if asked[name] != DEFAULTS[name]:
            raise LimnerError(f"The parameter {name!r} means nothing to this model.", why=why, fix="Leave it out.")


def _wishes(model: GenerativeModel, asked: Mapping[str, Any], limits: Limits) -> tuple[Wish, ...]:
    count, seed, label = (_whole(name, asked[name]) for name in ("count", "seed", "label"))
    truncation = _real("truncation", asked["truncation"])
    each = model.height * model.width
    most = min(limits.pictures, limits.pixels // each)
    if most < 1:
        raise LimnerError(
            f"A picture of the model has {model.width}x{model.height} pixels.",
            why=f"The pictures of a request may have {limits.pixels} together.",
            fix="Start the server with a higher limit: limner serve --max-pixels N.",
        )
    if not 1 <= count <= most:
        raise LimnerError(f"{count} pictures cannot be had in a request.", fix=f"Ask for 1 to {most}.")
    if asked["output"] == "array" and count * each > limits.array_pixels:
        raise LimnerError(
            f"The answer would have {count * each} pixels.",
            why=f"As arrays the pictures of a request may have {limits.array_pixels} together.",
            fix='Ask for "output": "png".',
        )
    if not 0 <= seed <= LARGEST_SEED:
        raise LimnerError(f"There is no seed {seed}.", fix=f"Seeds are 0 to {LARGEST_SEED}.")
    if label != NO_LABEL and not 0 <= label < len(model.classes):
        has = f"0 to {len(model.classes) - 1}" if model.classes else "none: it was trained without"
        raise LimnerError(f"The model has no class {label}.", fix=f"Its classes: {has}.")
    if truncation < 0:
        raise LimnerError(
            f"A truncation of {truncation:g} is out of range.",
            fix="Take more than 0, such as 0.7; 0 is to cut nothing.",
        )
    chosen = None if label == NO_LABEL else label
    return tuple(Wish(seed, number, chosen, truncation or None) for number in range(count))


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise LimnerError(f"The parameter {name!r} has to be a whole number.", why=f"It is {value!r:.100}.")
    return int(value)


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise LimnerError(f"The parameter {name!r} has to be a number.", why=f"It is {value!r:.100}.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise LimnerError(f"The parameter {name!r} has to be a number.", why=f"It is {value!r:.100}.")
    return number


def _read_pictures(inputs: Any, allowance: _Allowance) -> Iterator[NDArray[np.uint8]]:
    if isinstance(inputs, np.ndarray) and inputs.ndim == 0:
        inputs = inputs.item()
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence | np.ndarray) or not len(inputs):
        raise LimnerError(
            "`inputs` has to be a list of pictures.",
            why="Each is an array [H, W, C] of whole numbers 0..255, or a PNG, JPEG or WebP file as a base64 string.",
        )
    channels, most = allowance.model.channels, allowance.limits.pictures
    if len(inputs) > most:
        raise LimnerError(f"{len(inputs)} pictures are too many for a request.", fix=f"Send {most} at the most.")
    for number, value in enumerate(inputs):
        try:
            coded = isinstance(value, str | bytes)  # as bytes in KServe's protocol
            picture = (_decode if coded else _pixels)(value, channels, allowance)
        except LimnerError as error:
            if type(error) is not LimnerError:  # of `reserve`: it is not the picture's fault
                raise
            why = error.problem if not error.why else f"{error.problem} {error.why}"
            raise LimnerError(f"Picture {number} of the inputs cannot be used.", why=why, fix=error.fix) from error
        except _TooLarge as error:
            raise LimnerError(
                f"Picture {number} of the inputs is too large.",
                why=str(error),
                fix=error.fix,
            ) from error
        yield picture


class _TooLarge(Exception):  # noqa: N818 - it is an answer, not a failure
    """What size it claims to have, and what it may have."""

    fix = "Make it smaller, or send fewer in a request."


class _TooLargeAsArray(_TooLarge):
    fix = 'Send PNG files in base64, and ask for "output": "png".'


class _Allowance:
    """What is left of a request's pixels."""

    def __init__(self, model: StyleModel, limits: Limits, output: Output, reserve: Callable[[int], None]) -> None:
        self.model, self.limits = model, limits
        self._output, self._reserve = output, reserve
        self._left, self._left_of_arrays = limits.pixels, limits.array_pixels

    def take(self, height: int, width: int, *, as_array: bool) -> None:
        """Raises _TooLarge where there is not so much left, and what `reserve` raises."""
        size, limits, padded = f"It is {width}x{height}", self.limits, self.model.padded_size(height, width)
        if max(height, width) > limits.side:
            raise _TooLarge(f"{size}; its longer side may be {limits.side}.")
        self._left -= math.prod(padded)
        if self._left < 0:
            grown = "" if padded == (height, width) else f", as the model takes it {padded[1]}x{padded[0]}"
            raise _TooLarge(f"{size}{grown}; the pictures of a request may have {limits.pixels} pixels together.")
        if as_array or self._output == "array":
            self._left_of_arrays -= height * width
        if self._left_of_arrays < 0:
            why = f"{size}; as arrays the pictures of a request may have {limits.array_pixels} pixels together."
            raise _TooLargeAsArray(why)
        self._reserve(_bytes(self.model, math.prod(padded), self._output))


def _pixels(value: Any, channels: int, allowance: _Allowance) -> NDArray[np.uint8]:
    try:
        # MLflow sends numbers as objects, which hide of what type they are.
        array = np.asarray(value.tolist() if isinstance(value, np.ndarray) and value.dtype == object else value)
    except ValueError:  # rows of unequal length
        array = np.empty(0, object)
    # A large unsigned number makes an array of objects or floats.
    whole = array.dtype.kind in "iu" and array.size and array.min() >= 0 and array.max() <= 255
    if array.ndim != 3 or not whole or array.shape[2] != channels:
        raise LimnerError(
            f"It has to be an array [H, W, {channels}] of whole numbers from 0 to 255, or a base64 string.",
            why=f"It is {array.dtype} of the shape {list(array.shape)}.",
        )
    allowance.take(*array.shape[:2], as_array=True)
    return array.astype(np.uint8)


def _decode(text: str | bytes, channels: int, allowance: _Allowance) -> NDArray[np.uint8]:
    """The pixels [H, W, channels] of a picture file in base64; its first frame, upright. Of data:...;base64, too."""
    code = text.encode("utf-8", errors="replace") if isinstance(text, str) else text
    if code.startswith(b"data:"):
        code = code.partition(b",")[2]
    try:
        content = base64.b64decode(code.translate(None, string.whitespace.encode()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise LimnerError("It is a string, but not base64.", why=str(error)) from error
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        allowance.take(height, width, as_array=False)  # nothing is decoded yet
        if picture.mode not in EIGHT_BITS:
            raise LimnerError(f"Its pixels are of type {picture.mode}.", fix="Save it with 8 bits a channel.")
        values = np.asarray(ImageOps.exif_transpose(picture).convert(MODES[channels]))
    except (LimnerError, _TooLarge):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLarge(f"{error}") from error
    except Exception as error:  # on damaged input Pillow raises nearly anything: OSError, struct.error, ...
        raise LimnerError(
            f"It is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, or a damaged one.",
            why=f"{type(error).__name__}: {error}",
        ) from error
    return values[..., None] if values.ndim == 2 else values
