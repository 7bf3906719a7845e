"""How many modes of a known density does a recipe find? A ring of 8 and a grid of 25 Gaussians in the plane.

    python -m benchmarks.mode_coverage --json FILE --figure FILE.png [--seeds 10] [--quick]

The sets and the measure follow PacGAN (arXiv:1712.04086), and that VEEGAN (arXiv:1705.07761).
Every recipe gets the same networks, initial weights, batches, optimiser, learning rate and number of steps, and all are
judged by the moving average of the generator; they differ in the loss and the penalties only. All seeds of a recipe are
trained at once, as independent networks side by side in batched matrix products.

Shapes: S seeds, N points of a batch, M modes.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import math
import shlex
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from benchmarks.machine import describe_machine
from limner.averaging import Average
from limner.losses import ADVERSARIAL, LossName
from limner.penalties import zero_centred_gradient_penalty
from limner.randomness import generator


@dataclass(frozen=True)
class Mixture:
    """Gaussians of one deviation and equal weight: centres [M, 2]."""

    centres: Tensor
    deviation: float


@dataclass(frozen=True)
class Recipe:
    """What is compared: the loss, and which of both penalties the discriminator gets."""

    loss: LossName
    r1: bool = False
    r2: bool = False


@dataclass(frozen=True)
class Protocol:
    """What all recipes share. `gamma` weighs the penalties, as in R3GAN: gamma / 2 times R1 and R2."""

    learning_rate: float = 4e-3
    beta1: float = 0.0
    beta2: float = 0.99
    gamma: float = 0.02
    steps: int = 6000
    batch: int = 64
    width: int = 64
    hidden_layers: int = 3
    noise: int = 2
    average_half_life_kimg: float = 10.0
    average_ramp: float = 0.05
    samples: int = 2500
    least_samples: int = 20


@dataclass(frozen=True)
class Coverage:
    """What samples tell about the modes. A sample counts for its nearest mode, as good if within 3 deviations of it."""

    modes: int
    """Modes with at least the protocol's `least_samples` good samples: "covered"."""
    modes_touched: int
    """Modes with at least one good sample: the weaker criterion of the papers."""
    quality: float
    """Share of good samples, in [0, 1]; 0.989 for the mixture itself."""
    divergence: float
    """KL divergence in nats of the histogram of all samples over the modes from the uniform one, in [0, ln M]."""


@dataclass(frozen=True)
class Trained:
    """One recipe on one set: the coverage of every seed, and the samples [S, N, 2] that it was measured on."""

    coverages: list[Coverage]
    samples: Tensor
    seconds: float


RECIPES = {
    "BCE": Recipe("bce"),
    "BCE + R1": Recipe("bce", r1=True),
    "RpGAN": Recipe("rpgan"),
    "RpGAN + R1 + R2": Recipe("rpgan", r1=True, r2=True),
}
DEFAULT_SETS = ("ring of 8", "grid of 25")


def mixtures() -> dict[str, Mixture]:
    """PacGAN's ring, and its grid of spacing 2 and deviation 0.05 divided by 4, so that all fit [-1, 1].

    The Gaussians of "grid of 25" are twice as wide as PacGAN's, which trains on over a hundred times as many points.
    Its own width is "narrow grid of 25", which is only run where it is asked for.
    """
    angles = torch.arange(8) * (math.tau / 8)
    steps = torch.linspace(-1, 1, 5)
    return {
        "ring of 8": Mixture(torch.stack([angles.cos(), angles.sin()], 1), 0.01),
        "grid of 25": Mixture(torch.cartesian_prod(steps, steps), 0.025),
        "narrow grid of 25": Mixture(torch.cartesian_prod(steps, steps), 0.0125),
    }


def measure_coverage(samples: Tensor, mixture: Mixture, *, least_samples: int) -> Coverage:
    """Coverage of samples [N, 2], N > 0. A sample that is not finite is nobody's: neither good nor in the histogram."""
    finite = samples[samples.isfinite().all(1)]
    distances, nearest = torch.cdist(finite, mixture.centres).min(1)
    good = distances <= 3 * mixture.deviation
    modes = len(mixture.centres)
    good_samples = torch.bincount(nearest[good], minlength=modes)
    share = torch.bincount(nearest, minlength=modes).double() / max(len(finite), 1)
    return Coverage(
        modes=int((good_samples >= least_samples).sum()),
        modes_touched=int((good_samples > 0).sum()),
        quality=int(good.sum()) / len(samples),
        divergence=torch.special.xlogy(share, share * modes).sum().item() if len(finite) else math.log(modes),
    )


class SideBySide(nn.Module):
    """S independent perceptrons with rectifiers, points [S, N, sizes[0]] -> [S, N, sizes[-1]].

    He's uniform initial weights (arXiv:1502.01852, equation 10) and the biases of PyTorch's `nn.Linear`.
    """

    def __init__(self, sizes: Sequence[int], rngs: Sequence[Generator]) -> None:
        super().__init__()
        layers = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(
            [_uniform(rngs, inputs, outputs) * math.sqrt(6 / inputs) for inputs, outputs in layers]
        )
        self.biases = nn.ParameterList([_uniform(rngs, 1, outputs) / math.sqrt(inputs) for inputs, outputs in layers])

    def forward(self, points: Tensor) -> Tensor:
        """Each seed's points through its own perceptron."""
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            points = torch.baddbmm(bias, points, weight)
            if layer < last:
                points = F.relu(points)
        return points


def train(recipe: Recipe, mixture: Mixture, protocol: Protocol, *, seeds: Sequence[int]) -> Trained:
    """Train the recipe once a seed and measure what the averaged generators draw."""
    start = time.perf_counter()
    initial = [generator(seed, "initial weights") for seed in seeds]
    hidden = [protocol.width] * protocol.hidden_layers
    fake_maker = SideBySide([protocol.noise, *hidden, 2], initial)
    judge = SideBySide([2, *hidden, 1], initial)
    # Not the fused form: it misreads a gradient whose strides differ from its weight's, and a penalty's do.
    optimizers = [
        torch.optim.Adam(network.parameters(), betas=(protocol.beta1, protocol.beta2), foreach=True)
        for network in (fake_maker, judge)
    ]
    average = Average(
        fake_maker,
        half_life_kimg=protocol.average_half_life_kimg,
        ramp=protocol.average_ramp,
        total_images=protocol.steps * protocol.batch,
    )
    rngs = [generator(seed, "steps") for seed in seeds]
    for step in range(protocol.steps):
        for optimizer in optimizers:
            cosine = 0.5 + 0.5 * math.cos(math.pi * step / protocol.steps)
            optimizer.param_groups[0]["lr"] = protocol.learning_rate * cosine
        real = _draw(mixture, rngs, protocol.batch)
        noises = _normal(rngs, 2 * protocol.batch, protocol.noise)
        for turn, noise in enumerate(noises.chunk(2, dim=1)):
            player = (judge, fake_maker)[turn]
            loss = (_judge_loss, _maker_loss)[turn](recipe, fake_maker, judge, real, noise, protocol.gamma)
            # Mean over all points; times S it is the sum over seeds of each seed's own mean.
            parameters = list(player.parameters())
            for parameter, gradient in zip(parameters, torch.autograd.grad(len(seeds) * loss, parameters), strict=True):
                parameter.grad = gradient
            optimizers[1 - turn].step()
        average.update(fake_maker, batch=protocol.batch, images_seen=(step + 1) * protocol.batch)
    with torch.no_grad():
        noise = _normal([generator(seed, "samples") for seed in seeds], protocol.samples, protocol.noise)
        samples = average.network(noise)
    coverages = [measure_coverage(drawn, mixture, least_samples=protocol.least_samples) for drawn in samples]
    return Trained(coverages, samples, time.perf_counter() - start)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, print a line for every recipe, write the JSON and the figure."""
    options = _parse(arguments)
    # One thread: the sums are in one order, so a seed gives the same numbers again on this machine.
    torch.set_num_threads(1)
    protocol = Protocol(steps=40, samples=500, least_samples=4) if options.quick else Protocol()
    seeds = range(1 if options.quick else options.seeds)
    record: dict[str, Any] = {
        "benchmark": "mode_coverage",
        "command": shlex.join(["python", "-m", "benchmarks.mode_coverage", *(arguments or sys.argv[1:])]),
        "machine": describe_machine(),
        "protocol": {k: v for k, v in asdict(protocol).items() if k != "learning_rate"} | {"seeds": len(seeds)},
        "sets": {n: {"modes": len(mixtures()[n].centres), "deviation": mixtures()[n].deviation} for n in options.sets},
        "summary": [],
        "results": [],
    }
    panels: dict[tuple[str, str], Tensor] = {}
    for set_name, recipe, rate in itertools.product(options.sets, options.recipes, options.learning_rates):
        mixture = mixtures()[set_name]
        trained = train(RECIPES[recipe], mixture, replace(protocol, learning_rate=rate), seeds=seeds)
        what = {"set": set_name, "recipe": recipe, "learning_rate": rate}
        summary = summarise(trained.coverages, modes=len(mixture.centres))
        record["summary"].append(what | summary | {"seconds": round(trained.seconds, 1)})
        record["results"] += [what | {"seed": n} | asdict(c) for n, c in zip(seeds, trained.coverages, strict=True)]
        title = f"{recipe}, {rate:g}" if len(options.learning_rates) > 1 else recipe
        panels[set_name, title] = trained.samples[summary["median_seed"]]
        print(_line(record["summary"][-1], seeds=len(seeds)), flush=True)
        # After every training, so that a run that is cut short leaves what it has finished.
        if options.json:
            _replace(options.json, (json.dumps(record, indent=1) + "\n").encode())
        if options.figure:
            _replace(options.figure, _draw_figure(panels))


def summarise(coverages: Sequence[Coverage], *, modes: int) -> dict[str, Any]:
    """Over a recipe's seeds, at least one; `median_seed` is the position of the lower median by modes, then quality."""
    order = sorted(range(len(coverages)), key=lambda i: (coverages[i].modes, coverages[i].quality))
    return {
        "seeds_with_all_modes": sum(c.modes == modes for c in coverages),
        "modes_median": statistics.median(c.modes for c in coverages),
        "modes_worst": min(c.modes for c in coverages),
        "modes_touched_median": statistics.median(c.modes_touched for c in coverages),
        "modes_touched_worst": min(c.modes_touched for c in coverages),
        "quality_median": statistics.median(c.quality for c in coverages),
        "quality_worst": min(c.quality for c in coverages),
        "divergence_median": statistics.median(c.divergence for c in coverages),
        "divergence_worst": max(c.divergence for c in coverages),
        "median_seed": order[(len(order) - 1) // 2],
    }


def _judge_loss(
    recipe: Recipe, fake_maker: nn.Module, judge: nn.Module, real: Tensor, noise: Tensor, gamma: float
) -> Tensor:
    with torch.no_grad():
        fake = fake_maker(noise)
    # Flat leaves [S * N, 2]: the penalty is a mean over its first dimension.
    shape = real.shape
    real = real.flatten(0, 1).requires_grad_(recipe.r1)
    fake = fake.flatten(0, 1).requires_grad_(recipe.r2)
    real_logits = judge(real.view(shape)).flatten()
    fake_logits = judge(fake.view(shape)).flatten()
    loss = ADVERSARIAL[recipe.loss].discriminator(real_logits, fake_logits)
    if recipe.r1:
        loss = loss + gamma / 2 * zero_centred_gradient_penalty(real_logits, real)
    if recipe.r2:
        loss = loss + gamma / 2 * zero_centred_gradient_penalty(fake_logits, fake)
    return loss


def _maker_loss(
    recipe: Recipe, fake_maker: nn.Module, judge: nn.Module, real: Tensor, noise: Tensor, gamma: float
) -> Tensor:
    del gamma
    with torch.no_grad():
        real_logits = judge(real).flatten()
    return ADVERSARIAL[recipe.loss].generator(real_logits, judge(fake_maker(noise)).flatten())


def _draw(mixture: Mixture, rngs: Sequence[Generator], count: int) -> Tensor:
    modes = torch.stack([torch.randint(len(mixture.centres), (count,), generator=rng) for rng in rngs])
    return mixture.centres[modes] + mixture.deviation * _normal(rngs, count, 2)


def _normal(rngs: Sequence[Generator], *shape: int) -> Tensor:
    return torch.stack([torch.randn(shape, generator=rng) for rng in rngs])


def _uniform(rngs: Sequence[Generator], *shape: int) -> Tensor:
    return torch.stack([torch.rand(shape, generator=rng) for rng in rngs]) * 2 - 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mode_coverage", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write protocol, machine and every seed's numbers here")
    parser.add_argument("--figure", type=Path, help="draw the samples of every recipe's median seed here, as PNG")
    parser.add_argument("--seeds", type=int, default=10, help="seeds 0, 1, ... of every recipe (10)")
    parser.add_argument("--quick", action="store_true", help="one seed and few steps: shows that it runs, nothing else")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES), help="all, unless named")
    parser.add_argument("--sets", nargs="+", choices=mixtures(), default=list(DEFAULT_SETS), help="the first two")
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[Protocol().learning_rate], metavar="RATE")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds has to be at least 1.")
    if min(options.learning_rates) <= 0:
        parser.error("--learning-rates have to be positive.")
    return options


def _line(row: dict[str, Any], *, seeds: int) -> str:
    return (
        f"{row['set']:17}  {row['recipe']:15}  rate {row['learning_rate']:<6g}"
        f"  all modes {row['seeds_with_all_modes']:2}/{seeds}"
        f"  modes {row['modes_median']:4g} (worst {row['modes_worst']:2})"
        f"  good {row['quality_median']:.2f} (worst {row['quality_worst']:.2f})"
        f"  KL {row['divergence_median']:.3f} (worst {row['divergence_worst']:.3f})  {row['seconds']:.0f} s"
    )


def _draw_figure(panels: dict[tuple[str, str], Tensor]) -> bytes:
    from matplotlib.figure import Figure

    rows = list(dict.fromkeys(name for name, _ in panels))
    columns = list(dict.fromkeys(recipe for _, recipe in panels))
    figure = Figure(figsize=(2.2 * len(columns), 2.3 * len(rows)), dpi=90, layout="constrained")
    axes = figure.subplots(len(rows), len(columns), squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()  # until it has something to show
    for (name, recipe), samples in panels.items():
        axis = axes[rows.index(name), columns.index(recipe)]
        axis.set_axis_on()
        centres = mixtures()[name].centres
        axis.scatter(centres[:, 0], centres[:, 1], s=45, facecolors="none", edgecolors="tab:orange", linewidths=0.8)
        axis.scatter(samples[:, 0], samples[:, 1], s=1, alpha=0.4, color="tab:blue", linewidths=0)
        axis.set(xlim=(-1.35, 1.35), ylim=(-1.35, 1.35), xticks=[], yticks=[], aspect="equal")
        if name == rows[0]:
            axis.set_title(recipe, fontsize=9)
        if recipe == columns[0]:
            axis.set_ylabel(name, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


if __name__ == "__main__":
    main()
