"""How many requests a second `limner serve` and `mlflow models serve` answer, beside a plain Flask server.

    python -m benchmarks.serve --json FILE [--model models/digits-gan --export exports/digits-gan]

Each request asks for one picture of a seed and a class of its own; so many are under way at any time. The plain server
is what a careful user writes (`benchmarks.plain_server`: the eager network in inference mode); the fastest of the ways
to run it with Flask alone is the yardstick, and with gunicorn, a process for each core, it is measured beside them. All
servers are up during the whole measurement, and take turns; one that would take longer than --seconds for a round gets
fewer requests. What they answer is compared, afterwards, with the pictures of `limner.inference`. Without --model and
--export it is a network of the size of digits-gan as initialised.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import aiohttp
import numpy as np
import torch
from mlflow.models import Model
from numpy.typing import NDArray
from PIL import Image

from benchmarks.machine import describe_machine
from limner.adapters.mlflow_packaging import save_mlflow_model
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.inference import Wish, open_generator
from limner.lineage import file_sha256, write_lineage
from limner.methods import load_method
from limner.ports import Ports
from limner.settings import ExportSettings, ModelSettings, TrainSettings
from limner.steps.export import export
from limner.tasks import PictureShape
from limner.trained import save_config, save_product

ROOT = Path(__file__).parents[1]
CLASSES = 10
FEW = 40
"""Requests of the first round, and of each for the slowest server."""
START_SECONDS = 120
TOLERANCE = 1
"""Grey levels between batches of different sizes."""


@dataclass(frozen=True)
class Asked:
    """What is asked of a server, and what came of it."""

    seconds: float
    latencies: tuple[float, ...]
    answers: Mapping[int, Any]
    """The pictures by seed; without those that were lost."""


def build_model(folder: Path, *, width: int, size: int) -> tuple[Path, Path]:
    """A generator as initialised: the folder of its trained and that of its exported model."""
    loaded = load_method("gan")
    method = loaded.params.model_validate(
        {
            "name": "gan",
            "conditional": True,
            "generator": {
                "name": "dcgan",
                "latent": 64,
                "width": width,
                "max_width": 4 * width,
                "upsampling": "nearest",
            },
            "discriminator": {"name": "dcgan", "width": 8},
        }
    )
    model, evaluation = folder / "model", folder / "evaluation"
    shape = PictureShape(1, size, size, classes=CLASSES)
    model.mkdir(parents=True)
    evaluation.mkdir()
    torch.manual_seed(0)
    save_config(model, method, shape, tuple("0123456789"))
    save_product(model / "best", loaded.build(method, shape).product())
    write_lineage(model, {"step": "train", "model": "benchmark", "run_id": "", "dataset_digest": ""})
    (evaluation / "metrics.json").write_text(json.dumps({"chosen": "best"}), encoding="utf-8")
    write_lineage(evaluation, {"export_digest": file_sha256(model / "best" / "model.safetensors")})
    settings = ModelSettings(
        dataset="benchmark", method=method, train=TrainSettings(kimg=1), export=ExportSettings(formats=["pt2"])
    )
    ports = Ports(UntrackedTracker(), UntrackedRegistry(), progress=lambda *_: None, cache=folder / "cache")
    done = export(settings, name="benchmark", model=model, evaluation=evaluation, output=folder / "export", ports=ports)
    return model, done.output


def server_commands(model: Path, exported: Path, packed: Path, *, cores: int) -> dict[str, list[str]]:
    """Each server's command line, without its port."""
    plain = [sys.executable, "-m", "benchmarks.plain_server", str(model)]
    app = f"benchmarks.plain_server:open_app({str(model)!r}, threads=1)"
    return {
        "plain, one at a time": [*plain, "PORT", "--threads", str(cores)],
        "plain, one at a time, 1 core": [*plain, "PORT", "--threads", "1"],
        "plain, threads": [*plain, "PORT", "--threads", "1", "--threaded"],
        "gunicorn, a process a core": [sys.executable, "-m", "gunicorn", "-w", str(cores), "-b", "127.0.0.1:PORT", app],
        "limner": [sys.executable, "-m", "limner", "serve", str(exported), "--port", "PORT"],
        "mlflow": [
            *(sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(packed), "--env-manager", "local"),
            *("--host", "127.0.0.1", "--port", "PORT", "--workers", "1"),
        ],
    }


@contextmanager
def running(command: Sequence[str], *, log: Path, cores: int) -> Iterator[str]:
    """A server's address; it is ended afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = [word.replace("PORT", str(port)) for word in command]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    # Torch's own choice is all cores; for MLflow's server docs/serving.md advises this.
    environment["OMP_NUM_THREADS"] = str(max(1, cores - 1)) if "mlflow" in words else str(cores)
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    with log.open("wb") as file:
        process = subprocess.Popen(words, stdout=file, stderr=file, cwd=ROOT, env=environment)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


async def wait_until_ready(address: str) -> None:
    """Raises TimeoutError where it does not become ready."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(START_SECONDS):
        while True:
            try:
                async with session.get(f"{address}/health") as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.3)


async def ask(address: str, *, requests: int, at_once: int, output: str) -> Asked:
    """One picture for each seed below `requests`."""
    answers, latencies, seeds = {}, [], iter(range(requests))
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(300)) as session:

        async def caller() -> None:
            for seed in seeds:
                params = {"count": 1, "seed": seed, "label": seed % CLASSES, "output": output}
                begin = time.perf_counter()
                try:
                    async with session.post(
                        f"{address}/invocations", json={"inputs": [], "params": params}
                    ) as response:
                        body = await response.read()
                        if response.status == 200:
                            answers[seed] = body
                except aiohttp.ClientError:
                    pass
                latencies.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(at_once)))
        seconds = time.perf_counter() - begin
    return Asked(seconds, tuple(latencies), answers)


def right(asked: Asked, expected: NDArray[np.uint8], output: str) -> bool:
    """Whether all answers are the pictures that they should be."""
    for seed, body in asked.answers.items():
        (value,) = json.loads(body)["predictions"]
        if output == "png":
            with Image.open(io.BytesIO(base64.b64decode(value))) as picture:
                value = np.asarray(picture)
        found = np.asarray(value).reshape(expected[seed].shape).astype(int)
        if np.abs(found - expected[seed]).max() > TOLERANCE:
            return False
    return True


def measure(addresses: Mapping[str, str], exported: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each server and form of its answers: the rounds taken in turn, each ratio within its round."""
    wishes = [Wish(seed, 0, seed % CLASSES) for seed in range(options.requests)]
    expected = open_generator(exported).paint(wishes)
    rows = []
    for output in ("png", "array"):
        found: dict[str, list[Asked]] = {name: [] for name in addresses}
        sizes = dict.fromkeys(addresses, min(FEW, options.requests))
        for number in range(options.rounds + 1):
            for name, address in addresses.items():
                asked = asyncio.run(ask(address, requests=sizes[name], at_once=options.at_once, output=output))
                if number:
                    found[name].append(asked)
                else:  # it has warmed up, and a slow server is asked less, so as not to take all the time
                    fit = int(len(asked.answers) / asked.seconds * options.seconds)
                    sizes[name] = min(options.requests, max(FEW, fit))
        rates = {name: [len(asked.answers) / asked.seconds for asked in each] for name, each in found.items()}
        plain = max((name for name in rates if name.startswith("plain")), key=lambda name: median(rates[name]))
        for name, each in found.items():
            latencies = quantiles([value for asked in each for value in asked.latencies], n=20)
            rows.append(
                {
                    "server": name,
                    "output": output,
                    "requests": sizes[name],
                    "requests_per_second": rates[name],
                    "p50_ms": latencies[9] * 1000,
                    "p95_ms": latencies[18] * 1000,
                    "lost": sum(sizes[name] - len(asked.answers) for asked in each),
                    "right": None
                    if name not in ("limner", "mlflow")
                    else all(right(a, expected, output) for a in each),
                    "over_plain": median(a / b for a, b in zip(rates[name], rates[plain], strict=True)),
                    "yardstick": name == plain,
                }
            )
    return rows


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print and write."""
    options = _parse(arguments)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="limner-benchmark-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        if options.export:
            model, exported = options.model.absolute(), options.export.absolute()
        else:
            model, exported = build_model(folder, width=options.width, size=options.size)
        packed = folder / "packed"
        save_mlflow_model(packed, exported, Model())
        addresses = {}
        for number, (name, command) in enumerate(server_commands(model, exported, packed, cores=cores).items()):
            if options.servers and name not in options.servers:
                continue
            addresses[name] = stack.enter_context(running(command, log=folder / f"{number}.log", cores=cores))
            try:
                asyncio.run(wait_until_ready(addresses[name]))
            except TimeoutError:
                raise SystemExit(f"{name} did not start: {(folder / f'{number}.log').read_text()[-2000:]}") from None
        rows = measure(addresses, exported, options)
    result = {
        "machine": describe_machine(),
        "model": options.export.name
        if options.export
        else f"as initialised, width {options.width}, {options.size}x{options.size}",
        "at_once": options.at_once,
        "rows": rows,
    }
    _print(result)
    if options.json:
        part = options.json.with_name(options.json.name + ".part")
        part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        part.replace(options.json)
    return result


def _print(result: Mapping[str, Any]) -> None:
    for row in result["rows"]:
        said = "" if row["right"] is None else ", all right" if row["right"] else ", WRONG PICTURES"
        rate, mark = median(row["requests_per_second"]), "*" if row["yardstick"] else " "
        print(
            f"{row['output']:5}  {row['server']:29} {rate:7.1f}/s  {row['over_plain']:5.2f}x{mark}"
            f"  p50 {row['p50_ms']:6.0f} ms  p95 {row['p95_ms']:6.0f} ms  {row['lost']} lost{said}"
        )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serve", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write all numbers and the machine here")
    parser.add_argument("--model", type=Path, help="a trained generator of 10 classes, and ...")
    parser.add_argument("--export", type=Path, help="... its export")
    parser.add_argument("--requests", type=int, default=400, help="in a round, at the most (400)")
    parser.add_argument("--seconds", type=float, default=10, help="that a round should take at the most (10)")
    parser.add_argument("--at-once", type=int, default=200, help="requests under way at any time (200)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of all servers (2)")
    parser.add_argument("--width", type=int, default=32, help="of the network as initialised (32)")
    parser.add_argument("--size", type=int, default=32, help="of its pictures (32)")
    parser.add_argument("--servers", nargs="+", help="only these, by name")
    parser.add_argument("--quick", action="store_true", help="few and small: shows that it runs")
    options = parser.parse_args(arguments)
    if options.quick:
        options.requests, options.at_once, options.rounds, options.width, options.size = 20, 10, 1, 4, 16
        options.servers = options.servers or ["plain, threads", "limner"]
    if (options.model is None) != (options.export is None):
        parser.error("--model and --export go together.")
    if min(options.requests, options.at_once, options.rounds) < 1:
        parser.error("--requests, --at-once and --rounds have to be at least 1.")
    return options


if __name__ == "__main__":
    main()
