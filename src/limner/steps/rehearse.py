"""Rehearse a training: build all of it, take real steps, save and load once, and say what the whole would take."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from limner.data import refuse_other_task
from limner.distributed import local_device
from limner.errors import LimnerError
from limner.methods import load_method
from limner.optimise import choose_precision
from limner.packing import PackedDataset
from limner.ports import Ports
from limner.settings import MethodSettings, ModelSettings
from limner.steps.train import assemble, build
from limner.training_loop import State, TrainingRun, advance, peak_memory_gib, resume, save

SECONDS = 3.0
"""Steps are taken for so long, at least one after the one that warms up."""


@dataclass(frozen=True)
class Rehearsed:
    """What a training would take. Rates are of this machine as busy as it is now."""

    device: str
    precision: str
    parameters: dict[str, int]
    memory_gib: float
    """Most memory this process has held."""
    images_per_second: float
    checkpoint_mib: float
    minutes: dict[str, float]
    """Of the whole run, by what they go to; judging on the way comes on top."""


def rehearse(settings: ModelSettings[MethodSettings], *, dataset: Path, ports: Ports) -> Rehearsed:
    """Try out a training on its real data, in a folder that is deleted afterwards. Nothing is changed or recorded.

    Raises LimnerError as `train` would, and where a checkpoint does not come back as it was saved.
    """
    packed, device = PackedDataset(dataset), local_device()
    # Judging would train or fetch a feature extractor first, and keep it.
    options = settings.train.model_copy(update={"judge_kimg": 0.0})
    settings = settings.model_copy(update={"train": options})
    refuse_other_task(packed, task=load_method(settings.method.name).task)
    method = build(settings, packed.shape(), device)
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        run = assemble(settings, method, packed, place=Path(folder), ports=ports)
        with run.journal, run.checkpoints:
            state = resume(run)
            advance(run, state)  # allocates, compiles, fills caches
            run.tally.read()
            rate = _images_per_second(run, state)
            saving = _seconds(lambda: _save_and_load(run, state), device)
        checkpoint_mib = sum(file.stat().st_size for file in Path(folder, "checkpoints").rglob("*")) / 2**20
        drawing = _seconds(lambda: run.draw_samples(run.average.network, 0), device)
    return Rehearsed(
        device=str(device),
        precision=str(choose_precision(options.precision, device)).removeprefix("torch."),
        parameters={
            name: count
            for name, network in method.networks.items()
            if (count := sum(parameter.numel() for parameter in network.parameters()))
        },
        memory_gib=peak_memory_gib(device),
        images_per_second=rate,
        checkpoint_mib=checkpoint_mib / 2,
        minutes={
            "steps": options.kimg * 1000 / rate / 60,
            "samples": options.kimg / options.sample_kimg * drawing / 60,
            "checkpoints": options.kimg / options.checkpoint_kimg * saving / 60,
        },
    )


def _images_per_second(run: TrainingRun, state: State) -> float:
    began, before = time.monotonic(), state.images
    while state.images == before or time.monotonic() - began < SECONDS:
        advance(run, state)
        run.tally.read()  # waits for the device
    return (state.images - before) / (time.monotonic() - began)


def _save_and_load(run: TrainingRun, state: State) -> None:
    trouble = save(run, state)
    if trouble:
        raise LimnerError(
            f"The first steps already fail: {trouble}.", fix="Lower the learning rates, or set train.precision to fp32."
        )
    before = [value.clone() for value in run.method.networks.state_dict().values()]
    resume(run)
    if not all(map(torch.equal, before, run.method.networks.state_dict().values())):
        raise LimnerError(
            "A checkpoint did not come back as it was saved.", fix="Check the disk of the folder for temporary files."
        )


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    began = time.monotonic()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began
