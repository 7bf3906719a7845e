"""Peak memory of a step, and growth over many. Each is measured in a process of its own: a peak never comes down.

`python -m benchmarks.training_memory WHAT ...` measures one and prints JSON; `benchmarks.train` starts it. On a CPU it
is the growth of resident memory (VmHWM and VmRSS of Linux) since before the networks were built, on a GPU what PyTorch
allocated. WHAT is

    bare     networks, Adam's state, gradients and activations: the same passes as Limner's step, called directly, on
             one batch that is always the same. No trainer, data, averages, statistics or checkpoints
    limner   the training loop with all that
    plain    the plain loop of `benchmarks.plain_loop`, with its averages, without loader processes
    growth   resident memory of a small run of the training loop after a tenth of its steps, and after all
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from benchmarks.gated_training import GatedTraining, assemble
from benchmarks.plain_loop import PlainLoop
from benchmarks.training_recipe import Recipe, build_method
from limner.data import PictureBatches
from limner.distributed import local_device
from limner.methods.gan import Method
from limner.packing import PackedDataset
from limner.piecewise_linear import penalised_gradients
from limner.precision import autocast, choose_precision
from limner.tasks import Pictures

STATUS = Path("/proc/self/status")
MIB = 2**20


def measure_memory(
    recipe: Recipe, data: Path, *, scratch: Path, precision: str, threads: int, quick: bool = False
) -> dict[str, float] | None:
    """MiB by name, and `limner_over_bare`; None on a CPU of which the system does not tell a process's peak."""
    if local_device().type == "cpu" and not STATUS.is_file():
        return None
    found: dict[str, float] = {}
    small = Recipe(width=8, stages=recipe.stages, blocks=1, batch=recipe.batch)
    for what in ("bare", "limner", "plain", "growth"):
        (scratch / what).mkdir()
        options = {
            "data": data,
            "scratch": scratch / what,
            "precision": precision,
            "threads": threads,
            "recipe": json.dumps(asdict(small if what == "growth" else recipe)),
            "steps": (100 if quick else 1000) if what == "growth" else 2 if quick else 8,
        }
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        command = [sys.executable, "-m", "benchmarks.training_memory", what, *words]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found |= json.loads(done.stdout)
    return found | {"limner_over_bare": found["limner_mib"] / found["bare_mib"]}


class BareStep:
    """The passes of one step of Limner's GAN, and nothing else: see `limner.methods.gan` for what each is for."""

    def __init__(self, method: Method, batch: Pictures, recipe: Recipe, dtype: torch.dtype) -> None:
        self._generator, self._discriminator = method.networks["generator"], method.networks["discriminator"]
        self._optimizers = method.optimizers
        self._batch, self._recipe, self._dtype = batch, recipe, dtype

    def __call__(self) -> None:
        """Once forward and backward for both players, and a step of each."""
        real, labels = self._batch.images, self._batch.labels
        assert labels is not None
        count, device = len(real), real.device
        with autocast(self._dtype, device):
            fake = self._generator(torch.randn(count, self._recipe.latent, device=device), labels)
            found = penalised_gradients(
                partial(self._discriminator, labels=labels.repeat(2)),
                torch.cat([real, fake.detach()]),
                loss=_discriminator_loss,
                weights=torch.full((2 * count,), self._recipe.gamma / count, device=device),
                parameters=self._discriminator.parameters(),
            )
            self._move("discriminator", found.gradients)
            del found
            fake_logits = self._discriminator(fake, labels)
            with torch.no_grad():
                real_logits = self._discriminator(real, labels)
            loss = F.softplus(real_logits - fake_logits).mean()
        self._move("generator", torch.autograd.grad(loss, list(self._generator.parameters())))

    def _move(self, player: str, gradients: Sequence[Tensor]) -> None:
        optimizer = self._optimizers[player]
        for parameter, gradient in zip(optimizer.param_groups[0]["params"], gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad()
        torch.clear_autocast_cache()


def _discriminator_loss(logits: Tensor) -> Tensor:
    real, fake = logits.chunk(2)
    return F.softplus(fake - real).mean()


def _resident_mib(device: torch.device, *, peak: bool) -> float:
    if device.type == "cuda":
        return (torch.cuda.max_memory_allocated if peak else torch.cuda.memory_allocated)(device) / MIB
    # Not getrusage's ru_maxrss: that begins with the peak of the process which started this one.
    name = "VmHWM:" if peak else "VmRSS:"
    rows = [line.split() for line in STATUS.read_text(encoding="ascii", errors="replace").splitlines()]
    return next(int(row[1]) for row in rows if row and row[0] == name) / 1024


def _measure(options: argparse.Namespace) -> dict[str, float]:
    device, recipe, data = local_device(), Recipe(**json.loads(options.recipe)), PackedDataset(options.data)
    batch = PictureBatches(data.split("train"), batch=recipe.batch, seed=0, device=device).at(0)
    before = _resident_mib(device, peak=False)
    method = build_method(recipe, data, device, channels_last=options.what != "plain")
    if options.what in ("limner", "growth"):
        run = assemble(method, recipe, data, place=options.scratch, precision=options.precision)
        with GatedTraining(run) as training:
            if options.what == "growth":
                return _growth(training, options.steps, device)
            training.advance(steps=options.steps)
            return {"limner_mib": _resident_mib(device, peak=True) - before}
    if options.what == "plain":
        loop = PlainLoop(method.networks, recipe, iter(lambda: (batch.images, batch.labels), None))
        step: Any = loop.step
    else:
        step = BareStep(method, batch, recipe, choose_precision(options.precision, device))
    for _ in range(options.steps):
        step()
    return {f"{options.what}_mib": _resident_mib(device, peak=True) - before}


def _growth(training: GatedTraining, steps: int, device: torch.device) -> dict[str, float]:
    early = steps // 10
    training.advance(steps=early)
    first = _resident_mib(device, peak=False)
    training.advance(steps=steps - early)
    return {"growth_from_step": early, "growth_to_step": steps, "growth_mib": _resident_mib(device, peak=False) - first}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure one thing and print it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training_memory")
    parser.add_argument("what", choices=["bare", "limner", "plain", "growth"])
    for name in ("data", "scratch"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("threads", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("precision", "recipe"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    print(json.dumps(_measure(options)))


if __name__ == "__main__":
    main()
