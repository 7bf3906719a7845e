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
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
_OF_GENERATORS, _OF_TRANSLATORS = ("seed", "count", "label", "truncation"), ("strength",)


@dataclass(frozen=True)
class Limits:
    """What a single request may ask for."""

    pictures: int = 64
    pixels: int = 2**24
    """Of all its pictures together, before they are decoded."""
    bytes: int = 2**26
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

    @property
    def nbytes(self) -> int:
        """What its pictures take while it waits."""
        return sum(picture.nbytes for picture in self.pictures)


def read_order(model: Model, inputs: Any, params: Mapping[str, Any] | None, limits: Limits) -> Order:
    """What a request asks of the model. Raises LimnerError where it cannot be had, or is more than the limits allow."""
    asked = _parameters(params)
    output = asked["output"]
    if output not in get_args(Output):
        raise LimnerError(f"There is no output {output!r}.", fix='It is "array" or "png".')
    if isinstance(model, StyleModel):
        _refuse_foreign(asked, _OF_GENERATORS, why="This model turns pictures into others.")
        strength = _real("strength", asked["strength"])
        if not 0 <= strength <= 1:
            raise LimnerError(f"A strength of {strength:g} is out of range.", fix="0 is the source, 1 the full style.")
        pictures = tuple(_read_pictures(inputs, channels=model.channels, limits=limits))
        return Order(pictures=pictures, strength=strength, output=output)
    _refuse_foreign(asked, _OF_TRANSLATORS, why="This model makes pictures of its own.")
    if inputs is not None and not (isinstance(inputs, Sequence | np.ndarray) and not len(inputs)):
        raise LimnerError(
            "This model takes no inputs: it makes pictures of its own.",
            fix='Send "inputs": [] and say in "params" which.',
        )
    return Order(wishes=_wishes(model, asked, limits), output=output)


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
    most = min(limits.pictures, limits.pixels // (model.height * model.width))
    if not 1 <= count <= most:
        raise LimnerError(f"{count} pictures cannot be had in a request.", fix=f"Ask for 1 to {most}.")
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


def _read_pictures(inputs: Any, *, channels: int, limits: Limits) -> Iterator[NDArray[np.uint8]]:
    if isinstance(inputs, np.ndarray) and inputs.ndim == 0:
        inputs = inputs.item()
    if isinstance(inputs, str | bytes) or not isinstance(inputs, Sequence | np.ndarray) or not len(inputs):
        raise LimnerError(
            "`inputs` has to be a list of pictures.",
            why="Each is an array [H, W, C] of whole numbers 0..255, or a PNG, JPEG or WebP file as a base64 string.",
        )
    if len(inputs) > limits.pictures:
        raise LimnerError(
            f"{len(inputs)} pictures are too many for a request.", fix=f"Send {limits.pictures} at the most."
        )
    left = limits.pixels
    for number, value in enumerate(inputs):
        try:
            coded = isinstance(value, str | bytes)  # as bytes in KServe's protocol
            picture = _decode(value, channels, left) if coded else _pixels(value, channels)
            left -= picture.shape[0] * picture.shape[1]
            if left < 0:
                raise _TooLarge(f"{picture.shape[1]}x{picture.shape[0]}")
        except LimnerError as error:
            why = error.problem if not error.why else f"{error.problem} {error.why}"
            raise LimnerError(f"Picture {number} of the inputs cannot be used.", why=why, fix=error.fix) from error
        except _TooLarge as error:
            raise LimnerError(
                f"Picture {number} of the inputs is too large.",
                why=f"It is {error}; the pictures of a request may have {limits.pixels} pixels together.",
                fix="Make it smaller, or send fewer in a request.",
            ) from error
        yield picture


class _TooLarge(Exception):  # noqa: N818 - it is an answer, not a failure
    """What size it claims to have."""


def _pixels(value: Any, channels: int) -> NDArray[np.uint8]:
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
    return array.astype(np.uint8)


def _decode(text: str | bytes, channels: int, pixels: int) -> NDArray[np.uint8]:
    """The pixels [H, W, channels] of a picture file in base64; its first frame, upright. Of data:...;base64, too."""
    if isinstance(text, bytes):
        text = text.decode("ascii", errors="replace")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise LimnerError("It is a string, but not base64.", why=str(error)) from error
    try:
        picture = Image.open(io.BytesIO(content), formats=FORMATS)
        width, height = picture.size
        if width * height > pixels:  # nothing is decoded yet
            raise _TooLarge(f"{width}x{height}")
        if picture.mode not in EIGHT_BITS:
            raise LimnerError(f"Its pixels are of type {picture.mode}.", fix="Save it with 8 bits a channel.")
        values = np.asarray(ImageOps.exif_transpose(picture).convert(MODES[channels]))
    except (LimnerError, _TooLarge):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLarge(str(error)) from error
    except Exception as error:  # on damaged input Pillow raises nearly anything: OSError, struct.error, ...
        raise LimnerError(
            f"It is no {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, or a damaged one.",
            why=f"{type(error).__name__}: {error}",
        ) from error
    return values[..., None] if values.ndim == 2 else values
