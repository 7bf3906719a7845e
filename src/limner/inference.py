"""Open an exported model and use it. Needs the export directory and PyTorch; none of the training code."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limner.errors import LimnerError
from limner.pixels import to_uint8
from limner.randomness import generator

CONFIG, PROGRAM = "config.json", "model.pt2"
BATCH = 64
MOST = 100_000


def open_model(folder: Path) -> GenerativeModel:
    """The model in an export directory, on the CPU. Raises LimnerError where the folder does not hold one."""
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LimnerError(
            f"{folder} is not an exported model.", why=str(error), fix="Export one: limner export MODEL"
        ) from error
    if not (folder / PROGRAM).is_file():
        raise LimnerError(
            f"{folder} has no {PROGRAM}.", fix="Add `pt2` to the model's export.formats, and export it again."
        )
    try:
        program = torch.export.load(folder / PROGRAM).module()
        return GenerativeModel(program, tuple(config["classes"]), tuple(config["inputs"]))
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
