"""Folders of drawn pictures, for tests that judge sets of them."""

import numpy as np
from PIL import Image


def draw(seed, size=(16, 12), mode="RGB"):
    """A picture of noise, `size` is width and height."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def fill(folder, count, *, seed=0, size=(16, 12), shift=0):
    """A folder of `count` PNGs 0000.png, ..., the brighter the larger `shift`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        pixels = np.asarray(draw(seed * 10_000 + number, size)).astype(int) + shift
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:04}.png")
    return folder


def spoil(path):
    """Cut a picture file: its header stays readable."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
