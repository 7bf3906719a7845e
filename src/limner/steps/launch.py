"""Train in several processes of one machine, as torchrun starts them: one for each GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from limner.errors import LimnerError
from limner.lineage import read_lineage

GRACE_SECONDS = 120
"""For the processes to save what they have, once they are told to end."""


def train_in_processes(
    settings: str,
    *,
    name: str,
    processes: int,
    places: Mapping[str, str],
    environment: Mapping[str, str],
) -> str:
    """`limner train NAME` in so many processes, with settings as one JSON string; returns the id of the tracked run.

    `places` are the command's options by name: dataset, output, scratch, checkpoints; empty ones are left out. A
    signal goes on to the processes. Raises LimnerError where they fail; their own words stand above it.
    """
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        params = Path(folder, "settings.json")
        params.write_text(settings, encoding="utf-8")
        options = [word for key, place in places.items() if place for word in (f"--{key}", place)]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, "-m", "limner", "train", name, "--params", str(params), *options]
        status = _run(command, {**os.environ, **environment})
    if status:
        raise LimnerError(
            f"Training {name} in {processes} processes failed with status {status}.",
            why="What the processes said stands above.",
            fix="Put that right and start the same step again: it goes on from the newest checkpoint.",
        )
    return read_lineage(Path(places["output"])).get("run_id", "")


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    process = subprocess.Popen(command, env=dict(environment))  # noqa: S603 - our own words

    def pass_on(number: int, frame: object) -> None:
        del frame
        process.send_signal(number)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.wait()
    except BaseException:
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
