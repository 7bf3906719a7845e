"""How fast does Limner train R3GAN, what does each of its features add, and what does its trainer cost?

    python -m benchmarks.train --json FILE [--figure FILE.png] [--markdown] [--preset tiny] [--quick]

One run on one machine times Limner's training loop against named baselines, in turns (A B C A B C ...), so that
whatever else the machine does hits all alike. All loops train the same networks from the same weights on the same
pictures, with the same batch, losses, exact penalties at every step, Adam and averaging. Each row is defined in
docs/benchmarks/train.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.gated_training import GatedTraining, measure_overhead
from benchmarks.machine import describe_machine
from benchmarks.training_memory import measure_memory
from benchmarks.training_recipe import PRESETS, Recipe, prepare_pictures, write_png_files
from benchmarks.training_rows import Row, Subject, limner_row, rows
from limner.distributed import local_device

WARM_UP_STEPS = 2
QUICK = Recipe(width=8, stages=3, blocks=1, batch=16)


# -- the measurement --------------------------------------------------------------------------------------------------


def time_rows(
    chosen: Sequence[Row], subject: Subject, *, seconds: float, rounds: int, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Images per second of each row in each round, with medians and ratios to the first row and to `limner`."""
    with ExitStack() as stack:
        contestants = [row.start(subject, stack) for row in chosen]
        for row, contestant in zip(chosen, contestants, strict=True):
            say(f"warming up: {row.name}")
            contestant.advance(steps=WARM_UP_STEPS)
        rates: list[list[float]] = [[] for _ in chosen]
        for number in range(rounds):
            for found, contestant in zip(rates, contestants, strict=True):
                images, spent = contestant.advance(seconds=seconds)
                found.append(images / spent)
            say(f"round {number + 1} of {rounds}: " + ", ".join(f"{found[-1]:.1f}" for found in rates) + " images/s")
    by_name = {row.name: found for row, found in zip(chosen, rates, strict=True)}
    return [
        {
            "name": row.name,
            "kind": row.kind,
            "images_per_second": _spread(found),
            "rounds": found,
            "over_plain": _spread_of_ratios(found, by_name.get("plain")),
            "over_limner": _spread_of_ratios(found, by_name.get("limner")),
        }
        for row, found in zip(chosen, rates, strict=True)
    ]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _spread_of_ratios(mine: Sequence[float], theirs: Sequence[float] | None) -> dict[str, float] | None:
    """Within each round, so that a slow minute of the machine counts in neither's favour."""
    return _spread([a / b for a, b in zip(mine, theirs, strict=True)]) if theirs else None


def overhead_of_trainer(subject: Subject, *, images: int) -> dict[str, float]:
    """See `measure_overhead`."""
    with ExitStack() as stack:
        training = limner_row("limner", "limner").start(subject, stack)
        assert isinstance(training, GatedTraining)
        training.advance(steps=WARM_UP_STEPS)
        return measure_overhead(training, images=images)


# -- the report -------------------------------------------------------------------------------------------------------


def tables(result: dict[str, Any], *, markdown: bool) -> str:
    """Everything that was measured, for people."""
    blocks = []
    if result["speed"]:
        header = ["row", "kind", "images/s", "(min to max)", "x plain", "x limner"]
        body = [
            [
                row["name"],
                row["kind"],
                f"{row['images_per_second']['median']:.1f}",
                f"{row['images_per_second']['min']:.1f} to {row['images_per_second']['max']:.1f}",
                *(f"{row[key]['median']:.2f}" if row[key] else "" for key in ("over_plain", "over_limner")),
            ]
            for row in result["speed"]
        ]
        blocks.append(_table([header, *body], markdown=markdown))
    if result["overhead"]:
        found = result["overhead"]
        shares = {
            "trainer, outside the step": found["outside_step"],
            "trainer, inside the step": found["inside_step"],
            "trainer, both": found["trainer"],
            "checkpoints": found["checkpoints"],
        }
        lines = [["overhead", "share of the time"], *([name, f"{share:.2%}"] for name, share in shares.items())]
        blocks.append(_table(lines, markdown=markdown))
    if result["memory"]:
        found = result["memory"]
        steps = f"growth from step {found['growth_from_step']} to {found['growth_to_step']}, small networks"
        lines = [
            ["memory", "MiB"],
            *([name, f"{found[f'{name}_mib']:.0f}"] for name in ("bare", "limner", "plain")),
            ["limner / bare", f"{found['limner_over_bare']:.2f}x"],
            [steps, f"{found['growth_mib']:.1f}"],
        ]
        blocks.append(_table(lines, markdown=markdown))
    return "\n\n".join(blocks)


def _table(lines: Sequence[Sequence[str]], *, markdown: bool) -> str:
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    padded.insert(1, ["-" * width for width in widths])
    edge, gap = ("| ", " | ") if markdown else ("", "  ")
    return "\n".join((edge + gap.join(cells) + edge[::-1]).rstrip() for cells in padded)


def draw_figure(result: dict[str, Any], path: Path) -> None:
    """Bars of images per second, with the range over rounds."""
    from matplotlib.figure import Figure

    found = result["speed"][::-1]
    colours = {"baseline": "tab:gray", "limner": "tab:blue", "ablation": "lightsteelblue", "other maths": "tan"}
    figure = Figure(figsize=(7.5, 0.34 * len(found) + 1), dpi=100, layout="constrained")
    axis = figure.subplots()
    rates = [row["images_per_second"] for row in found]
    medians = [rate["median"] for rate in rates]
    ranges = [[rate["median"] - rate["min"] for rate in rates], [rate["max"] - rate["median"] for rate in rates]]
    labels = [row["name"] for row in found]
    axis.barh(labels, medians, xerr=ranges, color=[colours[row["kind"]] for row in found], ecolor="black", capsize=2)
    for place, row in enumerate(found):
        if row["over_plain"]:
            axis.text(0, place, f" {row['over_plain']['median']:.1f}x", va="center", fontsize=8)
    machine = result["machine"]
    axis.set_xlabel("images per second")
    axis.set_title(f"{result['preset']}, batch {result['recipe']['batch']}, {machine['gpu'] or machine['processor']}")
    axis.spines[["top", "right"]].set_visible(False)
    with _replacing(path) as part:
        figure.savefig(part, format="png")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield part
    part.replace(path)


# -- the command ------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    command = ["python", "-m", "benchmarks.train", *(sys.argv[1:] if arguments is None else arguments)]
    result = {"command": shlex.join(command)}
    result |= measure(options, say=lambda sentence: print(sentence, file=sys.stderr, flush=True))
    print(tables(result, markdown=options.markdown))
    if options.json:
        with _replacing(options.json) as part:
            part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if options.figure and result["speed"]:
        draw_figure(result, options.figure)
    return result


def measure(options: argparse.Namespace, *, say: Callable[[str], None]) -> dict[str, Any]:
    """All that the options ask for."""
    device, quick = local_device(), options.quick
    recipe = QUICK if quick else Recipe(width=PRESETS[options.preset], batch=options.batch)
    with tempfile.TemporaryDirectory(prefix="limner-benchmark-") as temporary:
        folder = Path(temporary)
        name, data = prepare_pictures(folder / "data", recipe, quick=quick)
        write_png_files(data, folder / "png")
        subject = Subject(recipe, data, folder, device, options.precision, options.workers)
        chosen = [row for row in rows(subject.dtype) if not options.rows or row.name in options.rows]
        seconds, rounds = (0.0, 2) if quick else (options.seconds, options.rounds)
        result: dict[str, Any] = {
            "machine": describe_machine(device),
            "preset": "quick" if quick else options.preset,
            "recipe": asdict(recipe),
            "limner_computes_in": str(subject.dtype).removeprefix("torch."),
            "pictures": name,
            "digest": data.digest,
            "seconds_a_round": seconds,
            "speed": None,
            "overhead": None,
            "memory": None,
        }
        if "speed" in options.parts:
            result["speed"] = time_rows(chosen, subject, seconds=seconds, rounds=rounds, say=say)
        if "overhead" in options.parts:
            say("the trainer's overhead")
            result["overhead"] = overhead_of_trainer(subject, images=1000 if quick else 2000)
        if "memory" in options.parts:
            say("memory")
            scratch = folder / "memory"
            scratch.mkdir()
            result["memory"] = measure_memory(
                recipe,
                folder / "data",
                scratch=scratch,
                precision=options.precision,
                threads=torch.get_num_threads(),
                quick=quick,
            )
        return result


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all numbers and the machine here")
    parser.add_argument("--figure", type=Path, help="draw the speeds here, as PNG")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--preset", choices=PRESETS, default="tiny", help="size of the networks (tiny)")
    parser.add_argument("--batch", type=int, default=32, help="pictures a step (32)")
    parser.add_argument(
        "--precision", choices=["auto", "fp32"], default="auto", help="of limner and the tuned baseline"
    )
    parser.add_argument("--seconds", type=float, default=15.0, help="for each row in each round (15)")
    parser.add_argument("--rounds", type=int, default=5, help="turns of all rows (5)")
    parser.add_argument("--threads", type=int, help="of PyTorch in this process; its own choice, unless given")
    parser.add_argument("--workers", type=int, help="loader processes of the baselines; one a core, at most 4")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="names of rows to time; all, unless named")
    parser.add_argument(
        "--parts", nargs="+", choices=["speed", "overhead", "memory"], default=["speed", "overhead", "memory"]
    )
    parser.add_argument("--quick", action="store_true", help="smallest networks, few steps: shows that it runs")
    options = parser.parse_args(arguments)
    names = [row.name for row in rows(torch.bfloat16)]
    for row in options.rows or ():
        if row not in names:
            parser.error(f"There is no row {row!r}. Rows: {', '.join(names)}.")
    if options.batch < 2 or options.rounds < 1 or options.seconds < 0:
        parser.error("--batch has to be at least 2, --rounds at least 1, --seconds at least 0.")
    return options


if __name__ == "__main__":
    main()
