"""Limner's own training loop, stopped and let go between two steps, so that it can be timed in turns with others.

`limner.training_loop.train` runs in a thread of its own, with everything a run of `limner train` has: data, averages,
health checks, journal, samples and checkpoints, at their default intervals. It asks for a batch at the start of a step;
that is where it is held.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

import limner.adversary
import limner.methods.gan
import limner.optimise
from benchmarks.training_recipe import Recipe
from limner.averaging import Average
from limner.checkpoint import Checkpoints
from limner.data import PictureBatches, showcase
from limner.health import HealthCheck
from limner.journal import Journal
from limner.methods.gan import Method
from limner.packing import PackedDataset
from limner.pixels import encode_png, grid
from limner.settings import TrainSettings
from limner.trained import draw
from limner.training_loop import Batches, Best, State, TrainingRun, save, train


class _Closed(BaseException):
    """Ends a loop that is held."""


class GatedTraining:
    """A training run that moves when it is told to. A context: leaving it ends the run."""

    def __init__(self, run: TrainingRun) -> None:
        self._gate = _Gate(run.batches, self._hold)
        self.run = replace(run, batches=self._gate)
        self._go, self._held = threading.Semaphore(0), threading.Semaphore(0)
        self._may_go_on: Callable[[], bool] = lambda: False
        self._closing = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._train, daemon=True)
        self._thread.start()
        self._await()

    @property
    def steps(self) -> int:
        """Steps begun so far."""
        return self._gate.steps

    def advance(self, *, seconds: float = 0.0, steps: int = 1) -> tuple[int, float]:
        """Go on for so long, and for so many steps at least. Returns images seen meanwhile, and seconds."""
        before, start = self.steps, time.perf_counter()
        self._may_go_on = lambda: self.steps - before < steps or time.perf_counter() - start < seconds
        self._go.release()
        self._await()
        return (self.steps - before) * self.run.settings.batch, time.perf_counter() - start

    def __enter__(self) -> GatedTraining:
        return self

    def __exit__(self, *error: object) -> None:
        self._closing = True
        self._go.release()
        self._thread.join()
        self.run.checkpoints.close()
        self.run.journal.__exit__(None, None, None)

    def _train(self) -> None:
        try:
            train(self.run)
        except _Closed:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised again where somebody waits
            self._failure = error
        self._held.release()

    def _hold(self) -> None:
        while not self._may_go_on():
            synchronise(self.run.device)
            self._held.release()
            self._go.acquire()
            if self._closing:
                raise _Closed

    def _await(self) -> None:
        self._held.acquire()
        if self._failure:
            raise self._failure


class _Gate:
    """Batches that are given out only when they may be."""

    def __init__(self, batches: Batches, hold: Callable[[], None]) -> None:
        self._batches, self._hold = batches, hold
        self.steps = 0

    def at(self, step: int, *, part: int = 0, parts: int = 1) -> Any:
        """See `limner.training_loop.Batches`."""
        self._hold()
        self.steps += 1
        return self._batches.at(step, part=part, parts=parts)


def assemble(
    method: Method, recipe: Recipe, data: PackedDataset, *, place: Path, precision: str, kimg: float = 1e6
) -> TrainingRun:
    """The run as `limner train` makes it, untracked and never judged; checkpoints by images, not minutes."""
    settings = TrainSettings.model_validate(
        {
            "kimg": kimg,
            "batch": recipe.batch,
            "precision": precision,
            "checkpoint_minutes": 1e6,  # its clock goes on while it is held
            "guard": {"collapsed": 0.0, "exploded": 1e9, "restless": 1e9},  # it looks, but must not go back
            "ema_half_life_kimg": recipe.average_half_life_kimg,
            "ema_ramp": recipe.average_ramp,
        }
    )
    device = next(method.networks.parameters()).device
    split = data.split("train")
    examples = showcase(split, count=80, device=device)

    def draw_samples(product: nn.Module, images_seen: int) -> None:
        sheet = grid(draw(method, product, [examples], seed=settings.seed), columns=10)
        (place / f"{images_seen:09d}.png").write_bytes(encode_png(sheet))

    return TrainingRun(
        method=method,
        batches=PictureBatches(split, batch=recipe.batch, seed=settings.seed, device=device),
        settings=settings,
        device=device,
        average=Average(
            method.product(),
            half_life_kimg=recipe.average_half_life_kimg,
            ramp=recipe.average_ramp,
            total_images=round(kimg * 1000),
        ),
        best=Best(),
        checkpoints=Checkpoints(place / "checkpoints", identity={}, keep=settings.keep_checkpoints),
        journal=Journal(place / "journal.jsonl"),
        progress=lambda *_: None,
        draw_samples=draw_samples,
        watch=HealthCheck(method, data, seed=settings.seed, device=device),
        judge=lambda _: {},
    )


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# -- what the trainer itself costs ------------------------------------------------------------------------------------


def measure_overhead(training: GatedTraining, *, images: int) -> dict[str, float]:
    """Shares of the wall time, in [0, 1], that are not forward, backward or optimiser, over whole journal intervals.

    `outside_step`: batches, running means, the averaged generator, journal and health checks: all but `method.step`.
    `inside_step`: norms of gradients and updates, and the finite check, in `limner.optimise.descend`.
    `checkpoints`: one checkpoint, saved and written with nothing else going on, over the time to the next.
    """
    run, clock = training.run, _Stopwatch(training.run.device)
    batch, interval = run.settings.batch, round(run.settings.log_kimg * 1000)
    while training.steps * batch % interval >= batch:  # a journal line has just been written
        training.advance()
    steps = -(-images // interval) * interval // batch
    with clock.on(run.method):
        seen, wall = training.advance(steps=max(1, steps))
    spent = clock.seconds
    inside = spent["descend"] - spent["gradients"] - spent["optimiser"]
    checkpoint = _seconds_of_checkpoint(run)
    due = min(1000 * run.settings.checkpoint_kimg * wall / seen, 60 * TrainSettings(kimg=1).checkpoint_minutes)
    return {
        "images": seen,
        "seconds": wall,
        "outside_step": 1 - spent["step"] / wall,
        "inside_step": inside / wall,
        "trainer": 1 - (spent["step"] - inside) / wall,
        "checkpoints": checkpoint["seconds"] / due,
        "checkpoint_seconds": checkpoint["seconds"],
        "checkpoint_blocking_seconds": checkpoint["blocking"],
        "checkpoint_every_seconds": due,
    }


class _Stopwatch:
    """Seconds spent in the parts of a step, by name."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def on(self, method: Any) -> Iterator[None]:
        """Inside it the method's steps are timed."""
        with (
            self._patched(method, "step", "step"),
            self._patched(limner.adversary, "descend", "descend"),
            self._patched(limner.methods.gan, "descend", "descend"),
            self._patched(limner.optimise, "_mean_gradients", "gradients"),
            self._patched(method.optimizers["generator"], "step", "optimiser"),
            self._patched(method.optimizers["discriminator"], "step", "optimiser"),
        ):
            yield

    def _patched(self, owner: Any, attribute: str, name: str) -> Any:
        function = getattr(owner, attribute)
        self.seconds.setdefault(name, 0.0)

        def timed(*arguments: Any, **options: Any) -> Any:
            synchronise(self._device)
            start = time.perf_counter()
            result = function(*arguments, **options)
            synchronise(self._device)
            self.seconds[name] += time.perf_counter() - start
            return result

        return patch.object(owner, attribute, timed)


def _seconds_of_checkpoint(run: TrainingRun) -> Mapping[str, float]:
    save(run, State())  # the first one makes folders
    run.checkpoints.wait()
    synchronise(run.device)
    start = time.perf_counter()
    trouble = save(run, State(step=1))
    blocking = time.perf_counter() - start
    assert trouble is None
    run.checkpoints.wait()
    return {"blocking": blocking, "seconds": time.perf_counter() - start}
