"""Exported models that know their training pictures, and pictures that have changed, for tests of `limner drift`."""

import json

import numpy as np
from PIL import Image

from limner.drift import FILE_NAME, write_reference
from limner.lineage import file_sha256


def write_export(folder, packed, *, judged_by=None):
    """What `drift` reads of an export: the weights' place, the features and the hashes of both."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    write_reference(folder / FILE_NAME, packed, judged_by=judged_by)
    names = ("model.safetensors", FILE_NAME)
    files = {name: file_sha256(folder / name) for name in names}
    (folder / "config.json").write_text(json.dumps({"task": "pictures", "files": files}))
    return folder


def save(folder, pictures):
    """uint8 [N, H, W, C] as 0000.png, 0001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(folder / f"{number:04}.png")
    return folder


def clouds(count, seed, *, size=16, channels=1, brighter=0.0):
    """Soft random pictures uint8 [N, size, size, C]."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(110 + brighter, 45, (count, 4, 4, channels)).repeat(size // 4, 1).repeat(size // 4, 2)
    return (coarse + rng.normal(0, 10, (count, size, size, channels))).clip(0, 255).astype(np.uint8)
