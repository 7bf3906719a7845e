"""Pixels as bytes and pixels as networks see them: uint8 [0, 255] <-> float [-1, 1], and many pictures on one sheet."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

GAP_SHARE, GAP_LEVEL = 8, 128
"""Between two bands: so many times narrower than a picture, and how light it is."""


def to_signed(pixels: Tensor) -> Tensor:
    """float32 in [-1, 1] of uint8 pixels of any shape: x / 127.5 - 1."""
    _refuse_other_type(pixels)
    return pixels.to(torch.float32) / 127.5 - 1.0


def to_uint8(images: Tensor) -> Tensor:
    """uint8 of float images of any shape and precision, rounded; what lies outside [-1, 1] is clamped.

    The exact inverse of `to_signed`. The images have to be finite: what becomes of a NaN is not defined.
    """
    return ((images.to(torch.float32) + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)


def grid(images: Tensor, *, columns: int) -> NDArray[np.uint8]:
    """One sheet, uint8 [rows H, columns W, C], of images uint8 [N, C, H, W], row by row; free places stay black.

    Raises ValueError where there is no image or no column.
    """
    _refuse_other_type(images)
    count, channels, height, width = images.shape
    if count == 0 or columns < 1:
        raise ValueError(f"a grid needs an image and a column, not {count} images in {columns} columns")
    columns = min(columns, count)
    rows = -(-count // columns)
    places = images.new_zeros(rows * columns, channels, height, width)
    places[:count] = images
    sheet = places.view(rows, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    pixels: NDArray[np.uint8] = sheet.reshape(rows * height, columns * width, channels).cpu().numpy()
    return pixels


def bands(layers: Sequence[Tensor], *, columns: int) -> NDArray[np.uint8]:
    """One sheet of images that belong together, uint8 [N, C, H, W] each: a row of the first, below it of the second ...

    With several layers a narrow gap parts one such band from the next. Raises ValueError as `grid` does.
    """
    if len(layers) == 1:
        return grid(layers[0], columns=columns)
    sheet: list[NDArray[np.uint8]] = []
    for start in range(0, len(layers[0]), columns):
        here = [layer[start : start + columns] for layer in layers]
        blank = here[0].new_zeros(columns - len(here[0]), *here[0].shape[1:]) if start else here[0][:0]
        strips = [grid(torch.cat([images, blank]), columns=columns) for images in here]
        gap = np.full((max(2, layers[0].shape[2] // GAP_SHARE), *strips[0].shape[1:]), GAP_LEVEL, np.uint8)
        sheet += [gap, *strips] if sheet else strips
    return np.concatenate(sheet)


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """A PNG file of pixels uint8 [H, W, C] with C of 1 (grey), 3 (RGB) or 4 (RGB with alpha)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _refuse_other_type(pixels: Tensor) -> None:
    if pixels.dtype != torch.uint8:
        raise TypeError(f"pixels have to be uint8, not {pixels.dtype}")
