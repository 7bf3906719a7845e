"""FID by Limner and by the four libraries in use: the same folders and weights, one after the other, in one run.

    python -m benchmarks.evaluate --json FILE

Two folders of PNG files (real and printed digits, or yours: --pictures A B) are compared by every tool in a process
of its own, end to end: from the start of its work to the value, with reading, decoding, the network and the last step.
The weights are those of --weights, or random ones of the published layout: then the values say only whether the tools
agree. The last step is measured by itself, too: statistics of 2,048 features of 10,000 made-up pictures, SciPy's matrix
root, as pytorch-fid and clean-fid call it, against Limner with the reference's root at hand.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import Inception3

from benchmarks.fid_tools import FOLLOWED, TOOLS
from benchmarks.machine import describe_machine
from limner.frechet import Moments, frechet_distance
from limner.settings import FONTS
from limner.sources import PictureSource
from limner.sources.mnist5k import open_mnist5k
from limner.sources.printed_digits import open_printed_digits

DIMENSIONS, PICTURES = 2048, 10_000
"""Of the statistics whose last step is measured."""
ROUNDS = 3


def random_weights() -> dict[str, Tensor]:
    """Random weights of the published layout that keep the size of the signal."""
    with torch.device("meta"):
        layout = Inception3(1008, aux_logits=False, init_weights=False).state_dict()
    rng = torch.Generator().manual_seed(0)

    def draw(name: str, like: Tensor) -> Tensor:
        if name.endswith("conv.weight"):
            return torch.randn(like.shape, generator=rng) * (2 / like[0].numel()) ** 0.5
        if name.endswith(("bn.weight", "bn.running_var")):
            return 0.5 + torch.rand(like.shape, generator=rng)
        return 0.1 * torch.randn(like.shape, generator=rng) if like.is_floating_point() else torch.tensor(1)

    return {name: draw(name, like) for name, like in layout.items()}


def draw_folders(folder: Path, *, count: int) -> tuple[Path, Path]:
    """Real and printed digits as RGB PNG files, in an order without classes."""
    sources: dict[str, PictureSource] = {
        "real": open_mnist5k(),
        "printed": open_printed_digits(count=2 * count, seed=0, fonts=FONTS),
    }
    order = np.random.default_rng(0).permutation(5000)
    for name, source in sources.items():
        (folder / name).mkdir()
        pixels = list(_pixels(source))
        for place in islice((place for place in order if place < len(pixels)), count):
            grey = Image.fromarray(pixels[place])
            grey.convert("RGB").save(folder / name / f"{place:05d}.png")
    return folder / "real", folder / "printed"


def _pixels(source: PictureSource) -> Iterator[np.ndarray]:
    for picture in source.pictures:
        content = picture.fetch()
        assert isinstance(content, np.ndarray)
        yield content


def run_tool(name: str, folders: tuple[Path, Path], weights: Path) -> dict[str, Any]:
    """Value, seconds and peak memory of a tool in a process of its own."""
    words = [name, *map(str, folders), "--weights", str(weights)]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.fid_tools", *words]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def compare_tools(folders: tuple[Path, Path], weights: Path, tools: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every tool, and how far each is from Limner under the protocol that it follows: what is known after each."""
    rows: dict[str, Any] = {}
    for name in tools:
        rows[name] = run_tool(name, folders, weights)
        print(f"{name:20} {rows[name]['value']:.6f}  {rows[name]['seconds']:.1f} s", file=sys.stderr, flush=True)
        for other, protocol in FOLLOWED.items():
            if other in rows and f"limner {protocol}" in rows:
                ours = rows[f"limner {protocol}"]
                rows[other]["relative_difference"] = abs(ours["value"] / rows[other]["value"] - 1)
                rows[other]["times_as_long"] = rows[other]["seconds"] / ours["seconds"]
                rows[other]["times_the_memory"] = rows[other]["peak_mib"] / ours["peak_mib"]
        yield rows


def measure_last_step(*, dimensions: int, pictures: int, rounds: int) -> dict[str, Any]:
    """Seconds from two sets of statistics to their distance, and the relative difference of the distances."""
    from scipy import linalg

    rng = torch.Generator().manual_seed(0)
    # Spectra that fall off over three decades, as those of features do.
    scales = torch.logspace(0, -1.5, dimensions, dtype=torch.float64)
    draw = [torch.randn(pictures, dimensions, generator=rng, dtype=torch.float64) * scales for _ in range(2)]
    mixed = draw[1] + 0.1 * draw[1].roll(1, 1) + 0.05
    reference, other = Moments.of(draw[0]).gaussian(), Moments.of(mixed).gaussian()
    begin = time.perf_counter()
    assert reference.root is not None
    root_seconds = time.perf_counter() - begin
    theirs: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        begin = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            product = linalg.sqrtm(reference.covariance.numpy() @ other.covariance.numpy())
        shift = float((reference.mean - other.mean).square().sum())
        traces = float(reference.covariance.trace() + other.covariance.trace())
        expected = shift + traces - 2 * float(np.trace(np.real(product)))
        theirs.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        found = frechet_distance(reference, other)
        ours.append(time.perf_counter() - begin)
    return {
        "dimensions": dimensions,
        "pictures": pictures,
        "root_seconds": root_seconds,
        "scipy_seconds": theirs,
        "limner_seconds": ours,
        "times_as_long": median(a / b for a, b in zip(theirs, ours, strict=True)),
        "relative_difference": abs(found / expected - 1),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = _parse(arguments)
    result: dict[str, Any] = {"machine": describe_machine()}
    result["last_step"] = measure_last_step(
        dimensions=options.dimensions, pictures=options.last_step_pictures, rounds=ROUNDS
    )
    with tempfile.TemporaryDirectory(prefix="limner-benchmark-") as temporary:
        folder = Path(temporary)
        weights = options.weights or folder / "random.pth"
        if not options.weights:
            torch.save(random_weights(), weights)
        folders = tuple(options.pictures) if options.pictures else draw_folders(folder, count=options.count)
        result["pictures"] = [len(list(each.glob("*.png"))) for each in folders]
        result["weights"] = "given" if options.weights else "random, of the published layout"
        for rows in compare_tools(folders, weights, options.tools):
            result["tools"] = rows
            _write(result, options.json)  # a tool may take a quarter of an hour: what is done is not lost
    _print(result)
    return result


def _write(result: dict[str, Any], path: Path | None) -> None:
    if path:
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(path)


def _print(result: dict[str, Any]) -> None:
    last, count = result["last_step"], sum(result["pictures"])
    print(f"last step, {last['dimensions']} dimensions: scipy takes {last['times_as_long']:.1f} times as long, "
          f"relative difference {last['relative_difference']:.1e}")  # fmt: skip
    print(f"{'tool':20}{'value':>12}{'difference':>12}{'pictures/s':>12}{'time':>8}{'MiB':>7}{'memory':>8}")
    for name, row in result["tools"].items():
        compared = [
            form.format(row[key]) if key in row else ""
            for key, form in (
                ("relative_difference", "{:.1e}"), ("times_as_long", "{:.2f}x"), ("times_the_memory", "{:.2f}x")
            )
        ]  # fmt: skip
        rate = count / row["seconds"]
        print(f"{name:20}{row['value']:12.6f}{compared[0]:>12}{rate:12.1f}{compared[1]:>8}{row['peak_mib']:7.0f}"
              f"{compared[2]:>8}")  # fmt: skip


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluate", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all numbers and the machine here")
    parser.add_argument("--count", type=int, default=2500, help="pictures in each folder, at most 5,000 (2,500)")
    parser.add_argument("--pictures", type=Path, nargs=2, help="two folders of PNG files of one size instead")
    parser.add_argument("--weights", type=Path, help="the published weights; random ones unless given")
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS), help="all of them")
    parser.add_argument("--quick", action="store_true", help="few and small: shows that it runs")
    options = parser.parse_args(arguments)
    options.dimensions, options.last_step_pictures = DIMENSIONS, PICTURES
    if options.quick:
        options.count, options.dimensions, options.last_step_pictures = 12, 32, 100
    return options


if __name__ == "__main__":
    main()
