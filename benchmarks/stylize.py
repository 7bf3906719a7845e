"""How fast `limner stylize` is beside a plain loop over pictures, and what memory a large picture takes.

    python -m benchmarks.stylize --json FILE

The plain loop is what a careful user writes: open with Pillow, `ToTensor`, the eager float32 network in inference mode
on all cores, save; a picture at a time. Both read the same JPEG files, write JPEG, and have the same weights. Memory is
measured in a process of its own (a peak never comes down): the growth of resident memory, from when the model is open,
while a picture of 8000x6000 is stylized within a budget.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms.functional import to_tensor

from benchmarks.machine import STATUS, describe_machine, resident_mib
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.inference import StyleModel, open_translator
from limner.lineage import file_sha256, write_lineage
from limner.methods import load_method
from limner.networks.resnet_translator import Translator
from limner.picture_places import FolderDestination, find_pictures, name_results
from limner.ports import Ports
from limner.settings import ExportSettings, ModelSettings, TrainSettings
from limner.steps.export import export
from limner.steps.stylize import StylizeOptions, stylize
from limner.tasks import PictureShape
from limner.trained import open_trained, save_config, save_product

QUALITY = 95
CPU = torch.device("cpu")


def build_model(folder: Path, *, width: int, blocks: int) -> tuple[Path, Path]:
    """A CUT generator as initialised: the folder of its trained and that of its exported model."""
    loaded = load_method("fastcut")
    method = loaded.params.model_validate(
        {"name": "fastcut", "generator": {"name": "resnet", "width": width, "blocks": blocks}}
    )
    model, evaluation, shape = folder / "model", folder / "evaluation", PictureShape(3, 256, 256, classes=0)
    model.mkdir(parents=True)
    evaluation.mkdir()
    torch.manual_seed(0)
    save_config(model, method, shape, ())
    save_product(model / "best", loaded.build(method, shape).product())
    write_lineage(model, {"step": "train", "model": "benchmark", "run_id": "", "dataset_digest": ""})
    (evaluation / "metrics.json").write_text(json.dumps({"chosen": "best"}), encoding="utf-8")
    write_lineage(evaluation, {"export_digest": file_sha256(model / "best" / "model.safetensors")})
    settings = ModelSettings(
        dataset="benchmark", method=method, train=TrainSettings(kimg=1), export=ExportSettings(formats=["pt2"])
    )
    ports = Ports(UntrackedTracker(), UntrackedRegistry(), progress=lambda *_: None)
    done = export(settings, name="benchmark", model=model, evaluation=evaluation, output=folder / "export", ports=ports)
    return model, done.output


def draw_pictures(folder: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of smooth noise: as hard to decode as photographs."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        noise = rng.integers(0, 256, (size[1] // 16 + 1, size[0] // 16 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:04d}.jpg", quality=QUALITY)


class PlainNetwork(nn.Module):
    """The same layers with their features channel by channel in memory, which the eager ones are faster with."""

    def __init__(self, network: Translator) -> None:
        super().__init__()
        self.layers = nn.Sequential(*network.encoder, network.decoder, nn.ReflectionPad2d(3), network.exit, nn.Tanh())

    def forward(self, source: torch.Tensor) -> torch.Tensor:
        """Of sources whose sides are multiples of 4."""
        result: torch.Tensor = self.layers(source)
        return result


def open_plain(model: Path) -> PlainNetwork:
    """The network of the plain loop."""
    return PlainNetwork(open_trained(model, device=CPU).product("best"))


def plain_loop(network: PlainNetwork, pictures: Path, out: Path) -> None:
    """A picture at a time."""
    out.mkdir()
    with torch.inference_mode():
        for path in sorted(pictures.iterdir()):
            source = to_tensor(Image.open(path).convert("RGB")) * 2 - 1
            result = (network(source[None])[0] + 1) / 2
            pixels = (result.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(out / path.name, quality=QUALITY)


def limner_loop(model: StyleModel, pictures: Path, out: Path) -> None:
    """What the command does."""
    search = find_pictures([str(pictures)], max_megapixels=100, stores={})
    options, destination = StylizeOptions(quality=QUALITY), FolderDestination(out)
    result = stylize(search.pictures, name_results(search, None), model=model, destination=destination, options=options)
    assert result.done == len(search.pictures)


def time_loops(
    folder: Path, loops: dict[str, Callable[[Path, Path], None]], *, size: int, count: int, rounds: int
) -> dict[str, Any]:
    """Pictures per second of each loop, the rounds taken in turn; a first round of few warms up."""
    pictures = folder / f"pictures-{size}"
    draw_pictures(pictures, count, (size, size))
    draw_pictures(folder / f"first-{size}", min(count, 8), (size, size))
    for name, loop in loops.items():
        loop(folder / f"first-{size}", folder / f"{name}-{size}-first")
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(rounds):
        for name, loop in loops.items():
            begin = time.perf_counter()
            loop(pictures, folder / f"{name}-{size}-{number}")
            rates[name].append(count / (time.perf_counter() - begin))
    ratios = {name: median(a / b for a, b in zip(rates[name], rates["plain"], strict=True)) for name in loops}
    return {"size": size, "count": count, "pictures_per_second": rates, "over_plain": ratios}


def measure_memory(folder: Path, exported: Path, *, size: tuple[int, int], budget: int) -> dict[str, Any] | None:
    """Peak growth in MiB against the budget; None where the system does not tell a process's peak."""
    if not STATUS.is_file():
        return None
    draw_pictures(folder / "large", 1, size)
    words = ["--large", str(folder / "large"), str(exported), str(folder / "large-out"), str(budget)]
    command = [sys.executable, "-m", "benchmarks.stylize", *words]
    begin = time.perf_counter()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    seconds = time.perf_counter() - begin
    found: dict[str, Any] = json.loads(done.stdout)
    return {"size": size, "budget_mib": budget / 2**20, "seconds": seconds, **found}


def _large(pictures: str, exported: str, out: str, budget: str) -> dict[str, float]:
    search = find_pictures([pictures], max_megapixels=100, stores={})
    model = open_translator(Path(exported), device=CPU)
    model.stylize(np.zeros((64, 64, 3), np.uint8))  # libraries are loaded when they are first used
    before = resident_mib("VmRSS")
    options = StylizeOptions(memory=int(budget), quality=QUALITY)
    names = name_results(search, None)
    result = stylize(search.pictures, names, model=model, destination=FolderDestination(Path(out)), options=options)
    return {"done": result.done, "before_mib": before, "growth_mib": resident_mib("VmHWM") - before}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = _parse(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.large:
        print(json.dumps(_large(*options.large)))
        return {}
    result: dict[str, Any] = {
        "machine": describe_machine(),
        "network": {"name": "resnet", "width": options.width, "blocks": options.blocks},
    }
    with tempfile.TemporaryDirectory(prefix="limner-benchmark-") as temporary:
        folder = Path(temporary)
        model, exported = build_model(folder / "speed", width=options.width, blocks=options.blocks)
        loops: dict[str, Callable[[Path, Path], None]] = {
            "plain": partial(plain_loop, open_plain(model)),
            "limner": partial(limner_loop, open_translator(exported, device=CPU)),
            "limner-fp32": partial(limner_loop, open_translator(exported, precision="fp32", device=CPU)),
        }
        result["speed"] = [
            time_loops(folder, loops, size=size, count=options.count, rounds=options.rounds) for size in options.sizes
        ]
        small = build_model(folder / "memory", width=8, blocks=2)[1]
        result["memory"] = measure_memory(
            folder,
            small,
            size=(options.megapixel_width, options.megapixel_width * 3 // 4),
            budget=options.budget * 2**20,
        )
    _print(result)
    if options.json:
        part = options.json.with_name(options.json.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(options.json)
    return result


def _print(result: dict[str, Any]) -> None:
    for row in result["speed"]:
        for name, rates in row["pictures_per_second"].items():
            ratio = row["over_plain"][name]
            print(f"{row['count']} of {row['size']}x{row['size']}  {name:12} {median(rates):8.2f}/s  {ratio:.2f}x")
    if found := result["memory"]:
        size, growth, budget = "x".join(map(str, found["size"])), found["growth_mib"], found["budget_mib"]
        print(f"{size}  peak growth {growth:.0f} MiB of {budget:.0f} MiB  {found['seconds']:.0f} s")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stylize", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all numbers and the machine here")
    parser.add_argument("--count", type=int, default=200, help="pictures of each size (200)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256], help="sides of the small pictures")
    parser.add_argument("--rounds", type=int, default=3, help="turns of all loops (3)")
    parser.add_argument("--width", type=int, default=32, help="of the network whose speed is measured (32)")
    parser.add_argument("--blocks", type=int, default=6, help="its residual blocks (6)")
    parser.add_argument("--budget", type=int, default=1024, help="MiB for the large picture (1024)")
    parser.add_argument("--megapixel-width", type=int, default=8000, help="width of the large picture, 4:3 (8000)")
    parser.add_argument("--threads", type=int, help="of PyTorch in this process; its own choice, unless given")
    parser.add_argument("--quick", action="store_true", help="few and small: shows that it runs")
    parser.add_argument("--large", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick:
        options.count, options.sizes, options.rounds, options.width, options.blocks = 3, [32], 1, 4, 1
        options.megapixel_width, options.budget = 640, 64
    if options.count < 1 or options.rounds < 1:
        parser.error("--count and --rounds have to be at least 1.")
    return options


if __name__ == "__main__":
    main()
