"""Rehearse a training: build all of it, take real steps, save and load once, and say what the whole would take."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.checkpoint import Savable, whole_checkpoints
from limner.data import refuse_other_task
from limner.distributed import local_device
from limner.errors import LimnerError
from limner.methods import load_method
from limner.packing import PackedDataset
from limner.ports import Ports
from limner.precision import choose_precision
from limner.settings import MethodSettings, ModelSettings
from limner.steps.train import assemble, build, determinism, training_shape
from limner.training_loop import State, TrainingRun, advance, peak_memory_gib, resume, save

SECONDS = 3.0
"""Steps are taken for so long, at least one after the one that warms up."""


@dataclass(frozen=True)
class Rehearsed:
    """What a training would take. Rates are of this machine as busy as it is now, and of one process."""

    device: str
    precision: str
    parameters: dict[str, int]
    memory_gib: float
    """Most memory this process has held."""
    images_per_second: float
    checkpoint_mib: float
    """Of one checkpoint."""
    minutes: dict[str, float]
    """Of the whole run, by what they go to; judging on the way comes on top. A checkpoint is written meanwhile: what it
    costs is the copy to host memory."""


def rehearse(settings: ModelSettings[MethodSettings], *, dataset: Path, ports: Ports) -> Rehearsed:
    """Try out a training on its real data, in a folder that is deleted afterwards. Nothing is changed or recorded.

    Raises LimnerError as `train` would, and where a checkpoint does not come back as it was saved.
    """
    packed, device = PackedDataset(dataset), local_device()
    # Judging would train or fetch a feature extractor first, and keep it.
    options = settings.train.model_copy(update={"judge_kimg": 0.0})
    settings = settings.model_copy(update={"train": options})
    refuse_other_task(packed, task=load_method(settings.method.name).task)
    with (
        determinism(options.deterministic),
        torch.random.fork_rng(),
        tempfile.TemporaryDirectory(prefix="limner-") as folder,
    ):
        method = build(settings, training_shape(settings, packed), device)
        run = assemble(settings, method, packed, place=Path(folder), ports=ports)
        with run.journal, run.checkpoints:
            state = resume(run)
            advance(run, state)  # allocates, compiles, fills caches
            run.tally.read()
            rate = _images_per_second(run, state)
            run.checkpoints.wait()  # for the beginning's: a run has longer between two
            saving = _seconds(lambda: _save(run, state), device)
            _load(run, state)
        newest, _ = next(whole_checkpoints(Path(folder, "checkpoints")))
        checkpoint_mib = sum(file.stat().st_size for file in newest.iterdir()) / 2**20
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
        checkpoint_mib=checkpoint_mib,
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


def _save(run: TrainingRun, state: State) -> None:
    trouble = save(run, state)
    if trouble:
        raise LimnerError(
            f"The first steps already fail: {trouble}.", fix="Lower the learning rates, or set train.precision to fp32."
        )


def _load(run: TrainingRun, state: State) -> None:
    """Go back to what has just been saved, from a step later. Raises LimnerError where that is not what comes back."""
    parts: dict[str, Savable] = {"networks": run.method.networks, "average": run.average.network}
    parts |= {f"{name}'s optimiser": optimizer for name, optimizer in run.method.optimizers.items()}
    before = {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}
    advance(run, state)
    resume(run)
    changed = [name for name, part in parts.items() if not _same(before[name], part.state_dict())]
    if changed:
        raise LimnerError(
            "A checkpoint did not come back as it was saved.",
            why=f"Not the same: {', '.join(changed)}.",
            fix="Check the disk of the folder for temporary files.",
        )


def _same(one: Any, other: Any) -> bool:
    """Whether nested containers have the same tensors and plain values."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def _seconds(action: Callable[[], object], device: torch.device) -> float:
    began = time.monotonic()
    action()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic() - began
