"""The rows of `benchmarks.train`: loops that train the same thing, and how each differs from Limner's own."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import torch

import limner.data
from benchmarks.gated_training import GatedTraining, assemble, synchronise
from benchmarks.plain_loop import PlainLoop, endless, open_loader, switches
from benchmarks.training_recipe import Recipe, build_method
from limner.methods.gan import Method
from limner.packing import PackedDataset
from limner.precision import choose_precision


class Contestant(Protocol):
    """A training loop that can be let go for a while."""

    def advance(self, *, seconds: float = 0.0, steps: int = 1) -> tuple[int, float]:
        """Whole steps for so long, and so many at least. Returns images seen meanwhile, and seconds."""


@dataclass(frozen=True)
class Subject:
    """What all rows share."""

    recipe: Recipe
    data: PackedDataset
    folder: Path
    """Has the pictures as files in `png`, and room for what runs write."""
    device: torch.device
    precision: str
    workers: int | None

    @property
    def dtype(self) -> torch.dtype:
        """What layers compute in where a loop uses autocast."""
        return choose_precision(self.precision, self.device)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    kind: str
    """baseline, limner, ablation (one feature less), or other maths (not the same penalty)."""
    start: Callable[[Subject, ExitStack], Contestant]


class Plain:
    """A plain loop as a contestant."""

    def __init__(self, subject: Subject, *, tuned: bool) -> None:
        method = build_method(subject.recipe, subject.data, subject.device, channels_last=tuned)
        loader = open_loader(
            subject.folder / "png", subject.recipe, workers=subject.workers, tuned=tuned, device=subject.device
        )
        self._loop = PlainLoop(
            method.networks,
            subject.recipe,
            endless(loader),
            tuned=tuned,
            autocast=subject.dtype if tuned else torch.float32,
        )
        self._device, self._switches = subject.device, switches if tuned else nullcontext

    def advance(self, *, seconds: float = 0.0, steps: int = 1) -> tuple[int, float]:
        """See `Contestant`."""
        before, done, start = self._loop.images_seen, 0, time.perf_counter()
        with self._switches():
            while done < steps or time.perf_counter() - start < seconds:
                self._loop.step()
                done += 1
            synchronise(self._device)
        return self._loop.images_seen - before, time.perf_counter() - start


Change = Callable[[Method], None]


def limner_row(
    name: str,
    kind: str,
    *,
    change: Change = lambda method: None,
    precision: str = "",
    resident: bool = True,
    **build: Any,
) -> Row:
    """Limner's training loop with something about it changed; `build` goes to `build_method`."""

    def start(subject: Subject, stack: ExitStack) -> Contestant:
        method = build_method(subject.recipe, subject.data, subject.device, **build)
        change(method)
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=subject.folder)))
        with nullcontext() if resident else patch.object(limner.data, "RESIDENT_SHARE", 0.0):
            run = assemble(method, subject.recipe, subject.data, place=place, precision=precision or subject.precision)
        return stack.enter_context(GatedTraining(run))

    return Row(name, kind, start)


def double_backward(method: Method) -> None:
    """Autograd differentiates the penalties, as for a network that is not piecewise linear."""
    method.networks["discriminator"].piecewise_linear = False


def fakes_twice(method: Method) -> None:
    """The generator's turn makes its fakes anew, from the same noise, as it does with micro-batches."""
    begin = method._begin

    def begin_without_graph(*arguments: Any) -> Any:
        with torch.no_grad():
            return begin(*arguments)

    method._begin = begin_without_graph  # type: ignore[method-assign]


def foreach_adam(method: Method) -> None:
    """Adam in PyTorch's foreach form, which has to wait for the finite check."""
    for optimizer in method.optimizers.values():
        for options in (optimizer.defaults, *optimizer.param_groups):
            options.update(fused=False, foreach=True)


def rows(dtype: torch.dtype) -> list[Row]:
    """All of them; `dtype` is what `limner` computes in."""
    other_type = [limner_row("limner, float32", "ablation", precision="fp32")] if dtype is not torch.float32 else []
    return [
        Row("plain", "baseline", lambda subject, _: Plain(subject, tuned=False)),
        Row("plain, tuned", "baseline", lambda subject, _: Plain(subject, tuned=True)),
        limner_row("limner", "limner"),
        *other_type,
        limner_row("limner, NCHW", "ablation", channels_last=False),
        limner_row("limner, double backward", "ablation", change=double_backward),
        limner_row("limner, fakes twice", "ablation", change=fakes_twice),
        limner_row("limner, Adam not fused", "ablation", change=foreach_adam),
        limner_row("limner, data not resident", "ablation", resident=False),
        limner_row("limner, finite differences", "other maths", form="finite-difference"),
        limner_row("limner, penalties every 4th step", "other maths", interval=4),
    ]
