"""Open an exported model and use it. Needs the export directory and PyTorch; none of the training code."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from limner.errors import LimnerError
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

CONFIG, PROGRAM, BACK, WEIGHTS = "config.json", "model.pt2", "back.pt2", "model.safetensors"
BATCH = 64
MOST = 100_000
MEMORY = 2 * 2**30
"""Bytes that a StyleModel works in unless told otherwise."""
KERNELS = 2.0
"""Memory for each byte that is alive in the program: kernels' copies, and freed blocks that the heap keeps."""


def open_model(folder: Path) -> GenerativeModel | StyleModel:
    """The model in an export directory: what it is for is in its `task`. Raises LimnerError where there is none."""
    config = read_config(folder)
    return open_translator(folder) if config.get("task") in TRANSLATION else open_generator(folder)


def open_generator(folder: Path) -> GenerativeModel:
    """The model that makes pictures out of noise, on the CPU. Raises LimnerError where the folder does not hold one."""
    config = read_config(folder)
    if config.get("task") in TRANSLATION:
        raise LimnerError(
            f"{folder} does not make pictures of its own.",
            why="It was trained to turn pictures into others.",
            fix=f"Give it pictures: limner stylize PICTURES --model {folder} --out DIR",
        )
    with _opening(folder):
        program = _load(folder, PROGRAM).module()
        return GenerativeModel(program, tuple(config["classes"]), tuple(config["inputs"]))


def open_translator(
    folder: Path, *, reverse: bool = False, precision: PrecisionName = "auto", device: torch.device | None = None
) -> StyleModel:
    """The model that turns pictures into others, on the GPU if there is one; `reverse`: the way back, where it has one.

    Raises LimnerError where the folder does not hold such a model.
    """
    config = read_config(folder)
    if config.get("task") not in TRANSLATION:
        raise LimnerError(
            f"{folder} cannot stylize pictures.",
            why="It was trained to make pictures of its own.",
            fix=f"limner generate --model {folder} --out DIR; or name a model of a translation method.",
        )
    if reverse and not (folder / BACK).is_file():
        raise LimnerError(f"{folder} knows no way back.", fix="Train a model with two generators, such as cyclegan.")
    with _opening(folder):
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        exported = _load(folder, BACK if reverse else PROGRAM)
        traits = TranslatorTraits(**config["translator"])
        graph = move_to_device_pass(exported, device).module().to(memory_format=torch.channels_last)
        return StyleModel(
            program=TranslatorProgram(graph),
            channels=int(config["image"]["channels"]),
            traits=traits,
            device=device,
            dtype=choose_precision(precision, device),
            digest=str(config["files"][WEIGHTS]) + ("-back" if reverse else ""),
        )


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of an exported model. Raises LimnerError where it cannot be read."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LimnerError(
            f"{folder} is not an exported model.", why=str(error), fix="Export one: limner export MODEL"
        ) from error
    return config


def _load(folder: Path, name: str) -> torch.export.ExportedProgram:
    if not (folder / name).is_file():
        raise LimnerError(
            f"{folder} has no {name}.", fix="Add `pt2` to the model's export.formats, and export it again."
        )
    return torch.export.load(folder / name)


@contextmanager
def _opening(folder: Path) -> Iterator[None]:
    try:
        yield
    except LimnerError:
        raise
    except Exception as error:  # the loader raises what its archive reader and its parser raise
        raise LimnerError(
            f"{folder} cannot be opened.",
            why=f"{type(error).__name__}: {error}",
            fix="Export it again: limner export MODEL",
        ) from error


@dataclass(frozen=True)
class GenerativeModel:
    """Makes pictures out of noise."""

    program: nn.Module
    classes: tuple[str, ...]
    """Names of the classes; empty where the model has none."""
    inputs: tuple[dict[str, Any], ...]
    """What the program asks for: name, shape without the batch, dtype."""

    def generate(self, count: int, *, seed: int = 0, label: int | None = None) -> NDArray[np.uint8]:
        """Pictures, uint8 [N, H, W, C]. Picture i depends on the seed and i alone, whatever the count.

        Without a label the classes come in turn. Raises LimnerError for a count or a label out of range.
        """
        if not 1 <= count <= MOST:
            raise LimnerError(f"{count} pictures cannot be made at once.", fix=f"Ask for 1 to {MOST}.")
        if label is not None and not 0 <= label < len(self.classes):
            has = f"0 to {len(self.classes) - 1}" if self.classes else "none: it was trained without"
            raise LimnerError(f"The model has no class {label}.", fix=f"Its classes: {has}.")
        return np.concatenate(list(self._batches(count, seed, label)))

    @torch.no_grad()
    def _batches(self, count: int, seed: int, label: int | None) -> Iterator[NDArray[np.uint8]]:
        for start in range(0, count, BATCH):
            numbers = range(start, min(start + BATCH, count))
            images: Tensor = self.program(**{i["name"]: self._input(i, numbers, seed, label) for i in self.inputs})
            yield to_uint8(images).permute(0, 2, 3, 1).numpy()

    def _input(self, described: dict[str, Any], numbers: range, seed: int, label: int | None) -> Tensor:
        if described["name"] == "labels":
            return torch.tensor([number % len(self.classes) if label is None else label for number in numbers])
        return torch.stack(
            [torch.randn(described["shape"], generator=generator(seed, "picture", number)) for number in numbers]
        )


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
    channels: int
    traits: TranslatorTraits
    device: torch.device
    dtype: torch.dtype
    """What its layers compute in."""
    digest: str
    """Says which weights these are, and which way they go."""

    def stylize(self, picture: NDArray[np.uint8], *, memory: int = MEMORY) -> NDArray[np.uint8]:
        """A picture uint8 [H, W, C] of the model's channels as another of the same shape.

        `memory`, in bytes, is what the work may take beside the model and the picture itself; its result is counted.
        A picture that is too large for it is done in tiles, which show no seams. Raises LimnerError where it is too
        little even for that.
        """
        self._refuse_other_channels(picture)
        height, width = picture.shape[:2]
        padded = self._padded(picture[None])[0]
        pixels = self.pixels_at_once(max(0, memory - self._copies(padded)))
        whole = padded.shape[0] * padded.shape[1] <= pixels
        result: NDArray[np.uint8] = self._run(padded[None])[0] if whole else self._tiled(padded, pixels)
        return result[:height, :width]

    def stylize_batch(self, pictures: NDArray[np.uint8], *, memory: int = MEMORY) -> NDArray[np.uint8]:
        """Pictures of one size, uint8 [N, H, W, C], as others: as many at once as the memory holds."""
        self._refuse_other_channels(pictures)
        height, width = pictures.shape[1:3]
        padded = self._padded(pictures)
        at_once = self.pixels_at_once(memory) // (padded.shape[1] * padded.shape[2])
        if at_once == 0:
            return np.stack([self.stylize(picture, memory=memory) for picture in pictures])
        parts = [self._run(padded[start : start + at_once]) for start in range(0, len(padded), at_once)]
        return np.concatenate(parts)[:, :height, :width]

    def pixels_at_once(self, memory: int) -> int:
        """How many pixels a pass may have."""
        return int(memory / self._bytes_per_pixel)

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
        missing = [
            round_up(max(side, self.traits.smallest), self.traits.multiple) - side for side in pictures.shape[1:3]
        ]
        if not any(missing):
            return pictures
        return np.pad(pictures, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="reflect")

    def _refuse_other_channels(self, pictures: NDArray[np.uint8]) -> None:
        if pictures.dtype != np.uint8 or pictures.shape[-1] != self.channels or 0 in pictures.shape:
            raise LimnerError(
                f"The model takes uint8 pictures of {self.channels} channels.",
                why=f"These are {pictures.dtype} of the shape {list(pictures.shape)}.",
            )


def _mebibytes(size: float) -> str:
    return f"{math.ceil(size / 2**20)} MiB"
