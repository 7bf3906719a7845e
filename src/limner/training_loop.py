"""The training loop: batch, step, average, log, save. Every method and every kind of data runs through it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import nn

from limner.averaging import Average
from limner.checkpoint import Checkpoints
from limner.guard import Tally, refuse_divergence
from limner.interruption import StopRequests
from limner.journal import Journal
from limner.methods import Moment, TrainingMethod
from limner.optimise import autocast, choose_precision
from limner.ports import Progress
from limner.randomness import derive_seed, generator
from limner.settings import TrainSettings


class Batches(Protocol):
    """Batches by step."""

    def at(self, step: int) -> Any:
        """The batch of a step, on the device."""


@dataclass
class State:
    """How far a run has come. All of it is in every checkpoint."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best_value: float | None = None
    best_images: int = 0


@dataclass(frozen=True)
class TrainingRun:
    """What the loop works with."""

    method: TrainingMethod
    batches: Batches
    settings: TrainSettings
    device: torch.device
    average: Average
    checkpoints: Checkpoints
    journal: Journal
    progress: Progress
    draw_samples: Callable[[nn.Module, int], None]
    """Pictures of the averaged product, after so many images."""
    judge: Callable[[nn.Module], Mapping[str, float]]
    """Quick metrics of the averaged product; the first is the one to get low."""
    keep_best: Callable[[nn.Module], None]
    """Called with the averaged product when its judgement is the best so far."""


def train(run: TrainingRun) -> State:
    """Run to `settings.kimg`, from the newest checkpoint if there is one. SIGINT and SIGTERM save before they stop."""
    settings, product, tally = run.settings, run.method.product(), Tally()
    precision = choose_precision(settings.precision, run.device)
    total = round(settings.kimg * 1000)
    state = State(**(run.checkpoints.restore(run.method, run.average) or {}))
    run.journal.rewind(images=state.images)
    if state.images:
        run.journal.event("resumed", images=state.images, step=state.step)
    last = Mark(state.images, time.monotonic())
    began = last.time - state.seconds
    with StopRequests() as requests:
        stop = False
        while state.images < total and not stop:
            torch.manual_seed(derive_seed(settings.seed, "dropout", state.step))
            rng = generator(settings.seed, "step", state.step, device=run.device)
            moment = Moment(state.step, state.images, total, rng)
            with autocast(precision, run.device):
                losses = run.method.step(run.batches.at(state.step), moment)
            tally.add(losses)
            state.step, state.images = state.step + 1, state.images + settings.batch
            state.seconds = time.monotonic() - began
            run.average.update(product, batch=settings.batch, images_seen=state.images)

            stop = requests.asked  # asked once: what ends the loop is what saves
            due = Due(before=state.images - settings.batch, now=state.images, total=total)
            if due(settings.log_kimg):
                last = log(run, tally, state, since=last)
            if due(settings.sample_kimg):
                run.draw_samples(run.average.network, state.images)
            if settings.judge_kimg and due(settings.judge_kimg):
                judge(run, state)
            if due(settings.checkpoint_kimg) or stop:
                run.checkpoints.save(run.method, run.average, asdict(state))
    requests.stop_if_asked()
    return state


def log(run: TrainingRun, tally: Tally, state: State, *, since: Mark) -> Mark:
    """Write the means since the last line. Raises LimnerError where training has diverged."""
    means, bad, bad_in_a_row = tally.read()
    now = Mark(state.images, time.monotonic())
    means["images_per_second"] = (now.images - since.images) / max(now.time - since.time, 1e-9)
    means["memory_gib"] = _peak_memory_gib(run.device)
    run.journal.metrics(means, images=state.images, step=state.step, seconds=state.seconds)
    if bad:
        run.journal.event("skipped non-finite steps", images=state.images, step=state.step, count=bad)
    run.progress(state.images, round(run.settings.kimg * 1000), means)
    refuse_divergence(bad_in_a_row, patience=run.settings.patience, means=means)
    return now


def judge(run: TrainingRun, state: State) -> None:
    """Judge the averaged product, and keep it where it is the best so far."""
    found = run.judge(run.average.network)
    run.journal.metrics(
        {f"quick/{k}": v for k, v in found.items()}, images=state.images, step=state.step, seconds=state.seconds
    )
    value = next(iter(found.values()))
    if state.best_value is None or value < state.best_value:
        state.best_value, state.best_images = value, state.images
        run.keep_best(run.average.network)


@dataclass(frozen=True)
class Mark:
    """A moment on the clock."""

    images: int
    time: float


@dataclass(frozen=True)
class Due:
    """Whether a step crossed a multiple of an interval. The last step is always due."""

    before: int
    now: int
    total: int

    def __call__(self, kimg: float) -> bool:
        """Whether it is time for something that happens every `kimg`."""
        return self.now // (kimg * 1000) > self.before // (kimg * 1000) or self.now >= self.total


def _peak_memory_gib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
