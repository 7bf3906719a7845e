"""How fast does Limner train a translation, and what does each of its features add?

    python -m benchmarks.style --json FILE [--markdown] [--methods fastcut cyclegan pix2pix] [--quick]

One run on one machine times Limner's training loop against plain PyTorch of the same maths, in turns (A B C A B C ...),
so that whatever else the machine does hits all alike. All loops train the same networks from the same weights on the
same pictures, with the same batch, losses, Adam and averaging. Each row is defined in docs/benchmarks/style.md.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import describe_machine
from benchmarks.style_recipe import METHODS, PRESETS, StyleRecipe, prepare_sides, write_sides
from benchmarks.style_rows import style_rows
from benchmarks.train import tables, time_rows
from benchmarks.training_rows import Subject
from limner.distributed import local_device


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    words = sys.argv[1:] if arguments is None else arguments
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.style", *words]),
        "machine": describe_machine(local_device()),
        "methods": {},
    }
    for method in options.methods:
        found = measure(method, options, say=lambda sentence: print(sentence, file=sys.stderr, flush=True))
        result["methods"][method] = found
        print(f"{method}\n\n{tables(found | {'overhead': None, 'memory': None}, markdown=options.markdown)}\n")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        part = options.json.with_name(options.json.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(options.json)
    return result


def measure(method: str, options: argparse.Namespace, *, say: Callable[[str], None]) -> dict[str, Any]:
    """One method's rows."""
    quick = options.quick
    with tempfile.TemporaryDirectory(prefix="limner-benchmark-") as temporary:
        folder = Path(temporary)
        recipe = _recipe(method, options)
        name, data = prepare_sides(folder / "data", recipe, quick=quick)
        write_sides(data, folder / "png")
        subject = Subject(recipe, data, folder, local_device(), options.precision, options.workers)
        found = [row for row in style_rows(recipe, subject.dtype) if not options.rows or row.name in options.rows]
        seconds, rounds = (0.0, 2) if quick else (options.seconds, options.rounds)
        return {
            "preset": "quick" if quick else options.preset,
            "recipe": asdict(recipe),
            "limner_computes_in": str(subject.dtype).removeprefix("torch."),
            "pictures": name,
            "digest": data.digest,
            "seconds_a_round": seconds,
            "speed": time_rows(found, subject, seconds=seconds, rounds=rounds, say=say),
        }


def _recipe(method: str, options: argparse.Namespace) -> StyleRecipe:
    if options.quick:
        return StyleRecipe(method, width=4, blocks=2, size=32, batch=4, patches=16)
    width, blocks = PRESETS[options.preset]
    return StyleRecipe(method, width=width, blocks=blocks, size=options.size, batch=options.batch)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.style", description=__doc__.splitlines()[0])
    number = {"type": int, "metavar": "N"}
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers and the machine here")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["fastcut"], help="one after the other")
    parser.add_argument("--preset", choices=PRESETS, default="small", help="width and depth of the networks (small)")
    parser.add_argument("--size", **number, default=64, help="height and width of the pictures (64)")
    parser.add_argument("--batch", **number, default=8, help="pictures of each side in a step (8)")
    parser.add_argument("--precision", choices=["auto", "fp32"], default="auto", help="of limner and plain, tuned")
    parser.add_argument("--seconds", type=float, metavar="S", default=4.0, help="for a row in a round (4)")
    parser.add_argument("--rounds", **number, default=3, help="turns of all rows (3)")
    parser.add_argument("--threads", **number, help="of PyTorch in this process; its own choice, unless given")
    parser.add_argument("--workers", **number, help="loader processes of a baseline; one a core, at most 4")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="names of rows to time; all, unless named")
    parser.add_argument("--quick", action="store_true", help="smallest networks, few steps: shows that it runs")
    options = parser.parse_args(arguments)
    names = [row.name for row in style_rows(StyleRecipe(), torch.bfloat16)]
    unknown = sorted(set(options.rows or ()) - set(names))
    if unknown:
        parser.error(f"There is no row {unknown[0]!r}. Rows: {', '.join(names)}.")
    if min(options.batch, options.rounds) < 1 or options.seconds < 0 or options.size < 16:
        parser.error("--batch and --rounds have to be at least 1, --seconds at least 0, --size at least 16.")
    return options


if __name__ == "__main__":
    main()
