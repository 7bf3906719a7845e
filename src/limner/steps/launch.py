"""Train as a pod does: on the volume that outlives it, in one process or several, and never twice."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from limner import __version__
from limner.errors import LimnerError
from limner.lineage import FILE_NAME, code_name, read_lineage
from limner.packing import PackedDataset
from limner.ports import Ports
from limner.steps import catalog_from_json
from limner.steps.output import replaced
from limner.steps.train import FINISHED, train

GRACE_SECONDS = 120
"""For the processes to save what they have, once they are told to end."""


def train_once(  # noqa: PLR0913 - all that a pod is told
    settings: str,
    *,
    name: str,
    dataset: Path,
    output: Path,
    scratch: Path,
    processes: int,
    open_ports: Callable[[], Ports],
    environment: Mapping[str, str],
) -> str:
    """Train `name` with settings as one JSON string; returns the id of the tracked run.

    What is finished stays in `scratch` beside the checkpoints, because a step whose result does not arrive is started
    again: then it is only copied. Without a `scratch` that can be written to, a temporary folder stands in.
    """
    what = "\n".join((settings, PackedDataset(dataset).digest, code_name(__version__)))
    own = _writable(scratch) / f"{name}-{hashlib.sha256(what.encode()).hexdigest()[:16]}"
    finished, run = own / "finished", own / "run"
    if not (finished / FILE_NAME).is_file() or _under_way(run):
        if processes > 1:
            places = {"dataset": dataset, "output": finished, "scratch": run}
            train_in_processes(settings, name=name, processes=processes, places=places, environment=environment)
        else:
            model = catalog_from_json(settings).model(name)
            train(model, name=name, dataset=dataset, output=finished, scratch=run, ports=open_ports())
    with replaced(output) as folder:
        shutil.copytree(finished, folder, dirs_exist_ok=True)
    if own.is_relative_to(tempfile.gettempdir()):  # it would not be found again
        shutil.rmtree(own, ignore_errors=True)
    return read_lineage(output).get("run_id", "")


def _under_way(run: Path) -> bool:
    """Whether a training has left its place: one that has just written its result still has records to send."""
    return run.is_dir() and any(place.is_dir() and not place.name.endswith(FINISHED) for place in run.iterdir())


def _writable(scratch: Path) -> Path:
    """The folder, or a temporary one where nobody lets this user write: Kubernetes gives some volumes to root alone."""
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=scratch).close()
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise  # it may be better the next time, and then its checkpoints are there
        stand_in = Path(tempfile.gettempdir(), "limner-scratch")
        print(
            f"{scratch} cannot be written to ({error}): checkpoints lie in {stand_in}, and end with this pod.",
            flush=True,
        )
        return stand_in
    return scratch


def train_in_processes(
    settings: str,
    *,
    name: str,
    processes: int,
    places: Mapping[str, Path],
    environment: Mapping[str, str],
) -> None:
    """`limner train NAME` in so many processes, with settings as one JSON string.

    `places` are the command's options by name: dataset, output, scratch. A signal goes on to the processes. Raises
    LimnerError where they fail; their own words stand above it.
    """
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        params = Path(folder, "settings.json")
        params.write_text(settings, encoding="utf-8")
        options = [word for key, place in places.items() for word in (f"--{key}", str(place))]
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *torchrun, "-m", "limner", "train", name, "--params", str(params), *options]
        status = _run(command, {**os.environ, **environment})
    if status:
        raise LimnerError(
            f"Training {name} in {processes} processes failed with status {status}.",
            why="What the processes said stands above.",
            fix="Put that right and start the same step again: it goes on from the newest checkpoint.",
        )


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
