"""Open an exported model and use it. Needs the export directory and PyTorch; none of the training code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from limner.errors import LimnerError
from limner.exported import BACK, PROGRAM, WEIGHTS, load_program, open_config, opening
from limner.pixels import to_uint8
from limner.precision import PrecisionName, autocast, choose_precision
from limner.randomness import generator
from limner.spatial_statistics import TranslatorProgram
from limner.tasks import TRANSLATION
from limner.tiling import (
    Canvas,
    Tile,
    estimate_statistics,
    from_network,
    least_pixels,
    plan_tiles,
    round_up,
    to_network,
)

BATCH = 64
MOST = 100_000
MEMORY = 2 * 2**30
"""Bytes that a StyleModel works in unless told otherwise."""
KERNELS = 2.0
"""Memory for each byte that is alive in the program: kernels' copies, and freed blocks that the heap keeps."""


def open_model(folder: Path) -> GenerativeModel | StyleModel:
    """The model in an export directory: what it is for is in its `task`.

    Raises LimnerError where there is none, and where a file of it was changed since it was exported: then nothing of it
    is loaded.
    """
    config = open_config(folder)
    return _translator(folder, config) if config.get("task") in TRANSLATION else _generator(folder, config)


def open_generator(folder: Path) -> GenerativeModel:
    """The model that makes pictures out of noise, on the CPU. Raises LimnerError as `open_model` does.

    And where the folder holds a model of another kind.
    """
    config = open_config(folder)
    if config.get("task") in TRANSLATION:
        raise LimnerError(
            f"{folder} does not make pictures of its own.",
            why="It was trained to turn pictures into others.",
            fix=f"Give it pictures: limner stylize PICTURES --model {folder} --out DIR",
        )
    return _generator(folder, config)


def open_translator(
    folder: Path, *, reverse: bool = False, precision: PrecisionName = "auto", device: torch.device | None = None
) -> StyleModel:
    """The model that turns pictures into others, on the GPU if there is one; `reverse`: the way back, where it has one.

    Raises LimnerError as `open_model` does, and where the folder holds a model of another kind.
    """
    config = open_config(folder)
    if config.get("task") not in TRANSLATION:
        raise LimnerError(
            f"{folder} cannot stylize pictures.",
            why="It was trained to make pictures of its own.",
            fix=f"limner generate --model {folder} --out DIR; or name a model of a translation method.",
        )
    if reverse and BACK not in config["files"]:
        raise LimnerError(f"{folder} knows no way back.", fix="Train a model with two generators, such as cyclegan.")
    return _translator(folder, config, name=BACK if reverse else PROGRAM, precision=precision, device=device)


def _generator(folder: Path, config: dict[str, Any]) -> GenerativeModel:
    with opening(folder):
        return GenerativeModel(
            program=load_program(folder, config, PROGRAM).module(),
            name=str(config["name"]),
            task=str(config["task"]),
            digest=str(config["files"][WEIGHTS]),
            classes=tuple(config["classes"]),
            channels=int(config["image"]["channels"]),
            height=int(config["image"]["height"]),
            width=int(config["image"]["width"]),
            inputs=tuple(config["inputs"]),
        )


def _translator(
    folder: Path,
    config: dict[str, Any],
    *,
    name: str = PROGRAM,
    precision: PrecisionName = "auto",
    device: torch.device | None = None,
) -> StyleModel:
    with opening(folder):
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        exported = load_program(folder, config, name)
        traits = TranslatorTraits(**config["translator"])
        graph = move_to_device_pass(exported, device).module().to(memory_format=torch.channels_last)
        return StyleModel(
            program=TranslatorProgram(graph),
            name=str(config["name"]),
            task=str(config["task"]),
            digest=str(config["files"][WEIGHTS]) + ("-back" if name == BACK else ""),
            channels=int(config["image"]["channels"]),
            traits=traits,
            device=device,
            dtype=choose_precision(precision, device),
        )


@dataclass(frozen=True)
class Wish:
    """One picture that is asked for: picture `number` of a seed, which depends on the two alone."""

    seed: int
    number: int = 0
    label: int | None = None
    """The class; None: the classes come in turn, by `number`."""
    truncation: float | None = None
    """The latent values stay within +-truncation: the lower, the more typical the picture. None: they are not cut."""


@dataclass(frozen=True)
class GenerativeModel:
    """Makes pictures out of noise."""

    program: nn.Module
    name: str
    task: str
    digest: str
    """SHA-256 of its weights."""
    classes: tuple[str, ...]
    """Names of the classes; empty where the model has none."""
    channels: int
    height: int
    width: int
    inputs: tuple[dict[str, Any], ...]
    """What the program asks for: name, shape without the batch, dtype."""

    def generate(
        self, count: int, *, seed: int = 0, label: int | None = None, truncation: float | None = None
    ) -> NDArray[np.uint8]:
        """Pictures 0, 1, ... of a seed, uint8 [N, H, W, C]; without a label the classes come in turn.

        Raises LimnerError for a count, a label or a truncation out of range.
        """
        if not 1 <= count <= MOST:
            raise LimnerError(f"{count} pictures cannot be made at once.", fix=f"Ask for 1 to {MOST}.")
        return self.paint([Wish(seed, number, label, truncation) for number in range(count)])

    @torch.no_grad()
    def paint(self, wishes: Sequence[Wish]) -> NDArray[np.uint8]:
        """A picture for each wish, uint8 [N, H, W, C]; seeds, labels and truncations may differ from one to the next.

        Raises LimnerError for a label or a truncation out of range: then none is made.
        """
        for wish in wishes:
            self._refuse_impossible(wish)
        painted = [np.empty((0, self.height, self.width, self.channels), np.uint8)]
        for start in range(0, len(wishes), BATCH):
            batch = wishes[start : start + BATCH]
            images: Tensor = self.program(
                **{described["name"]: self._input(described, batch) for described in self.inputs}
            )
            painted.append(to_uint8(images).permute(0, 2, 3, 1).numpy())
        return np.concatenate(painted)

    def _input(self, described: dict[str, Any], wishes: Sequence[Wish]) -> Tensor:
        if described["name"] == "labels":
            return torch.tensor(
                [wish.number % len(self.classes) if wish.label is None else wish.label for wish in wishes]
            )
        drawn = [
            torch.randn(described["shape"], generator=generator(wish.seed, "picture", wish.number)) for wish in wishes
        ]
        if described["name"] == "latent":
            drawn = [
                values if wish.truncation is None else truncate(values, wish.truncation)
                for values, wish in zip(drawn, wishes, strict=True)
            ]
        return torch.stack(drawn)

    def _refuse_impossible(self, wish: Wish) -> None:
        if wish.label is not None and not 0 <= wish.label < len(self.classes):
            has = f"0 to {len(self.classes) - 1}" if self.classes else "none: it was trained without"
            raise LimnerError(f"The model has no class {wish.label}.", fix=f"Its classes: {has}.")
        if wish.truncation is not None and not 0 < wish.truncation < math.inf:
            raise LimnerError(
                f"A truncation of {wish.truncation:g} leaves nothing to draw from.",
                fix="Take more than 0, such as 0.7; without a truncation nothing is cut off.",
            )


def truncate(normal: Tensor, bound: float) -> Tensor:
    """Values of a normal distribution as values of the same one cut off at +-bound, in the same order.

    With the normal distribution's function P: z -> P^-1(P(-t) + P(z) (P(t) - P(-t))), so the same noise remains the
    same picture, less extreme. Cutting off the latent: BigGAN, arXiv:1809.11096, section 3.1.
    """
    # P(z) = (1 + erf(z / sqrt 2)) / 2, so halves and ones fall away: erf(x / sqrt 2) = erf(z / sqrt 2) erf(t / sqrt 2).
    root = math.sqrt(2)
    share = torch.erf(normal.double() / root) * math.erf(bound / root)
    return (torch.erfinv(share) * root).clamp(-bound, bound).to(normal.dtype)


@dataclass(frozen=True)
class TranslatorTraits:
    """What has to be known of a translator to run it on pictures of any size: `translator` in config.json."""

    multiple: int
    """Height and width that its program takes are multiples of this ..."""
    smallest: int
    """... and at least this."""
    reach: int | None
    """How many pixels of its surroundings a pixel depends on; None: on the whole picture."""
    bytes_per_pixel: float
    """Memory that a pass takes for each pixel of the picture."""


@dataclass(frozen=True)
class StyleModel:
    """Turns pictures into others. Height and width are free; a picture keeps them."""

    program: TranslatorProgram
    name: str
    task: str
    digest: str
    """Says which weights these are (their SHA-256), and which way they go."""
    channels: int
    traits: TranslatorTraits
    device: torch.device
    dtype: torch.dtype
    """What its layers compute in."""

    def stylize(self, picture: NDArray[np.uint8], *, memory: int = MEMORY, strength: float = 1.0) -> NDArray[np.uint8]:
        """A picture uint8 [H, W, C] of the model's channels as another of the same shape.

        `memory`, in bytes, is what the work may take beside the model and the picture itself; its result is counted.
        A picture that is too large for it is done in tiles, which show no seams. `strength` below 1 mixes the result
        with the source: see `mix`. Raises LimnerError where the memory is too little even for that, and for a strength
        out of range.
        """
        _refuse_strength(strength)
        self._refuse_other_channels(picture)
        height, width = picture.shape[:2]
        padded = self._padded(picture[None])[0]
        pixels = self.pixels_at_once(max(0, memory - self._copies(padded)))
        whole = padded.shape[0] * padded.shape[1] <= pixels
        result: NDArray[np.uint8] = self._run(padded[None])[0] if whole else self._tiled(padded, pixels)
        return mix(picture, result[:height, :width], strength)

    def stylize_batch(
        self, pictures: NDArray[np.uint8], *, memory: int = MEMORY, strength: float = 1.0
    ) -> NDArray[np.uint8]:
        """Pictures of one size, uint8 [N, H, W, C], as others: as many at once as the memory holds."""
        _refuse_strength(strength)
        self._refuse_other_channels(pictures)
        height, width = pictures.shape[1:3]
        padded = self._padded(pictures)
        at_once = self.pixels_at_once(memory) // (padded.shape[1] * padded.shape[2])
        if at_once == 0:
            return np.stack([self.stylize(picture, memory=memory, strength=strength) for picture in pictures])
        parts = [self._run(padded[start : start + at_once]) for start in range(0, len(padded), at_once)]
        return mix(pictures, np.concatenate(parts)[:, :height, :width], strength)

    def pixels_at_once(self, memory: int) -> int:
        """How many pixels a pass may have."""
        return int(memory / self._bytes_per_pixel)

    def padded_size(self, height: int, width: int) -> tuple[int, int]:
        """What a picture is enlarged to before the program sees it: of 1 x 1 can become 256 x 256."""
        padded_height, padded_width = (
            round_up(max(side, self.traits.smallest), self.traits.multiple) for side in (height, width)
        )
        return padded_height, padded_width

    @property
    def _bytes_per_pixel(self) -> float:
        return KERNELS * self.traits.bytes_per_pixel

    @torch.inference_mode()
    def _run(self, padded_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:  # noqa: N803
        with autocast(self.dtype, self.device):
            return from_network(self.program(to_network(padded_NHWC, self.device)))

    @torch.inference_mode()
    def _tiled(self, picture: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
        multiple, tiles = self.traits.multiple, self._tiles(picture, pixels)
        canvas, result = Canvas(picture, self.device), np.empty_like(picture)
        with autocast(self.dtype, self.device):
            statistics = (
                estimate_statistics(self.program, canvas, pixels=pixels, multiple=multiple)
                if self.program.normalises_over_space
                else ()
            )
            for tile in tiles:
                top, bottom, left, right = tile.kept
                above, beside = top - tile.read[0], left - tile.read[2]
                done = from_network(self.program.given(canvas.source(tile.read), statistics))[0]
                result[top:bottom, left:right] = done[above : above + bottom - top, beside : beside + right - left]
        return result

    def _tiles(self, picture: NDArray[np.uint8], pixels: int) -> tuple[Tile, ...]:
        height, width = picture.shape[:2]
        reach, each = self.traits.reach, self._bytes_per_pixel
        if reach is None:
            raise LimnerError(
                f"A picture of {width}x{height} does not fit into the memory.",
                why="Each pixel of this model's result depends on the whole picture: it cannot be done in parts.",
                fix=f"Allow {_mebibytes(height * width * each + self._copies(picture))}, or make the picture smaller.",
            )
        tiles = plan_tiles(height, width, pixels=pixels, margin=reach, multiple=self.traits.multiple)
        if not tiles:
            least = least_pixels(reach, self.traits.multiple) * each + self._copies(picture)
            raise LimnerError(
                f"The memory is too little for a picture of {width}x{height}.",
                why=f"A tile has to hold {reach} pixels around what becomes of it, and the result has to be kept.",
                fix=f"Allow at least {_mebibytes(least)}; twice as much is a lot faster.",
            )
        return tiles

    @staticmethod
    def _copies(picture: NDArray[np.uint8]) -> int:
        """Bytes of its result, and of itself where it has to be padded."""
        return 2 * picture.nbytes

    def _padded(self, pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Mirrored at the bottom and on the right up to a size that the program takes."""
        height, width = pictures.shape[1:3]
        below, beside = (
            more - side for more, side in zip(self.padded_size(height, width), (height, width), strict=True)
        )
        if not below and not beside:
            return pictures
        return np.pad(pictures, ((0, 0), (0, below), (0, beside), (0, 0)), mode="reflect")

    def _refuse_other_channels(self, pictures: NDArray[np.uint8]) -> None:
        if pictures.dtype != np.uint8 or pictures.shape[-1] != self.channels or 0 in pictures.shape:
            raise LimnerError(
                f"The model takes uint8 pictures of {self.channels} channels.",
                why=f"These are {pictures.dtype} of the shape {list(pictures.shape)}.",
            )


def mix(source: NDArray[np.uint8], result: NDArray[np.uint8], strength: float) -> NDArray[np.uint8]:
    """Source + strength (result - source), rounded, of uint8 arrays of one shape; the result itself at 1."""
    if strength == 1:
        return result
    mixed = np.empty_like(result)
    for place, (here, there) in enumerate(zip(source, result, strict=True)):  # as floats it takes 4 times the memory
        start = here.astype(np.float32)
        mixed[place] = np.rint(start + strength * (there.astype(np.float32) - start))
    return mixed


def _refuse_strength(strength: float) -> None:
    if not 0 <= strength <= 1:
        raise LimnerError(
            f"A strength of {strength:g} is out of range.", fix="Take 0, the source, to 1, the full style."
        )


def _mebibytes(size: float) -> str:
    return f"{math.ceil(size / 2**20)} MiB"
