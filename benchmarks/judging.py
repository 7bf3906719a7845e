"""What judging during a training costs, for the models of params.yaml that are judged on the way.

    python -m benchmarks.judging --json FILE

A judgement draws `evaluate.judge_samples` pictures from the averaged weights, looks at them with the extractor, and
takes the distance to the kept reference. Its seconds are held against those that the training between two of them
takes, `train.judge_kimg` at the rate of real steps (`limner train MODEL --dry-run`). The models are as initialised:
neither part depends on what they have learnt. Training the classifier and looking at the real pictures, once for a
dataset, are told by themselves.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.machine import describe_machine
from limner.adapters import connect
from limner.distributed import local_device
from limner.packing import PackedDataset
from limner.params import Catalog
from limner.ports import Ports
from limner.quick_judging import open_quick_judging
from limner.steps import open_catalog
from limner.steps.prepare import prepare
from limner.steps.rehearse import rehearse
from limner.steps.train import build, training_shape
from limner.trained import draw

ROUNDS = 3
PARAMS = Path(__file__).parents[1] / "params.yaml"


def measure_model(name: str, catalog: Catalog, *, folder: Path, ports: Ports) -> dict[str, Any]:
    """Seconds of a judgement, and its share of the time from one to the next."""
    settings = catalog.model(name)
    dataset = folder / settings.dataset
    if not dataset.exists():
        prepare(catalog.dataset(settings.dataset), name=settings.dataset, output=dataset)
    packed, device = PackedDataset(dataset), local_device()
    rate = rehearse(settings, dataset=dataset, ports=ports).images_per_second
    method = build(settings, training_shape(settings, packed), device)
    begin = time.perf_counter()
    quick = open_quick_judging(settings.evaluate, packed, task=method.task, device=device, ports=ports)
    once = time.perf_counter() - begin
    seconds = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        quick.judge(draw(method, method.product(), quick.batches, seed=0))
        seconds.append(time.perf_counter() - begin)
    between = settings.train.judge_kimg * 1000 / rate
    return {
        "model": name,
        "pictures": settings.evaluate.judge_samples,
        "every_kimg": settings.train.judge_kimg,
        "images_per_second": rate,
        "once_seconds": once,
        "seconds": seconds,
        "share": median(seconds) / (between + median(seconds)),
    }


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.judging", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all numbers and the machine here")
    parser.add_argument("--params", type=Path, default=PARAMS, help="the catalog of models (params.yaml)")
    options = parser.parse_args(arguments)
    catalog = open_catalog(options.params, ())
    with tempfile.TemporaryDirectory(prefix="limner-benchmark-") as temporary:
        folder = Path(temporary)
        ports = connect(track=False, cache=folder / "cache")
        judged = [name for name in catalog.models if catalog.model(name).train.judge_kimg]
        rows = [measure_model(name, catalog, folder=folder, ports=ports) for name in judged]
    result = {"machine": describe_machine(local_device()), "models": rows}
    for row in rows:
        each, once = f"{median(row['seconds']):.2f} s", f"{row['once_seconds']:.1f} s"
        every = f"{row['pictures']} pictures every {row['every_kimg']:g} kimg"
        print(f"{row['model']:20} {every}: {each}, {row['share']:.1%} of the time; once {once}")
    if options.json:
        part = options.json.with_name(options.json.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(options.json)
    return result


if __name__ == "__main__":
    main()
