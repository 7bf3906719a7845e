"""Runs in MLflow. Steps hand records in; they travel in the background, and no failure of MLflow reaches a step."""

from __future__ import annotations

import getpass
import hashlib
import json
import logging
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException
from numpy.typing import NDArray

from limner.adapters.mlflow_server import MlflowServer, find_run, first_line, http_patience
from limner.adapters.outbox import Outbox
from limner.adapters.untracked import UntrackedRun
from limner.errors import LimnerError
from limner.journal import Line, read_journal
from limner.lineage import code_version
from limner.ports import Run

_log = logging.getLogger(__name__)

CONTINUES = "limner.continues"
"""Tag with the id of a run of another server that this run continues, or with the journal it was made from."""
KUBEFLOW_RUN = "limner.kubeflow_run"
"""Tag with the id of the Kubeflow run that a run was opened or continued by."""
STOPPED_BY = "limner.stopped_by"
"""Tag with the error or signal that ended a run."""
MAX_PARAM, MAX_TAG, MAX_DIGEST = 6000, 8000, 36
"""What MLflow's tables hold, characters."""


@dataclass(frozen=True)
class MlflowTracker:
    """Runs on an MLflow server."""

    server: MlflowServer
    run_id: str = ""
    """Used where a step names no run: a scheduler has opened this one for us."""
    kubeflow_run: str = ""
    """Marks the runs, before anything else is recorded: who cleans up after a killed process knows them by it."""

    @contextmanager
    def run(self, name: str, *, run_id: str = "") -> Iterator[Run]:
        """Open the run `run_id`, else the scheduler's, else a new one called `name`.

        On leaving it is FINISHED; FAILED after an error; KILLED after KeyboardInterrupt or SystemExit, which is what
        signals become. Where MLflow cannot be used, the run that is given out records nothing.
        """
        with http_patience(retries=2, timeout_seconds=20):
            opened = _open_or_warn(self.server, name, run_id or self.run_id, kubeflow_run=self.kubeflow_run)
        if opened is None:
            yield UntrackedRun(run_id)
            return
        with http_patience(retries=0, timeout_seconds=20):  # the outbox tries again
            try:
                yield opened
            except BaseException as error:
                killed = isinstance(error, (KeyboardInterrupt, SystemExit))
                opened.close("KILLED" if killed else "FAILED", because=f"{type(error).__name__}: {first_line(error)}")
                raise
            opened.close("FINISHED")


class MlflowRun:
    """A run that is open for writing."""

    def __init__(self, server: MlflowServer, stored: StoredRun, *, name: str) -> None:
        """`stored` is what MLflow knows of the run at this moment; `name` is the model's, for advice to the user."""
        self.id: str = stored.info.run_id
        self._name = name
        self._server = server
        self._client = server.client
        self._was_finished = stored.info.status == "FINISHED"
        self._params: dict[str, str] = dict(stored.data.params)
        self._resumption = 1 + max(
            (int(n) for n in re.findall(r"resume\.(\d+)\.", " ".join(stored.data.tags))), default=0
        )
        self._last: dict[str, tuple[int, float]] = {
            metric.key: (metric.step, metric.value) for metric in stored.data.to_proto().metrics
        }
        self._pictures: set[tuple[str, int]] | None = None
        self._outbox = Outbox(self._send, receiver=f"MLflow at {server}")

    def params(self, values: Mapping[str, str]) -> None:
        """Record settings by dotted name. One that is recorded with another value becomes a tag `resume.<n>.<name>`."""
        cut = {name: value[:MAX_PARAM] for name, value in values.items()}
        missing = [Param(name, value) for name, value in cut.items() if name not in self._params]
        self.tags({f"resume.{self._resumption}.{n}": v for n, v in cut.items() if self._params.get(n, v) != v})
        self._params |= {param.key: param.value for param in missing}
        self._outbox.put(lambda: self._client.log_batch(self.id, params=missing))

    def metrics(self, values: Mapping[str, float], *, images_seen: int) -> None:
        """Record metric values at a point of training. A value at or before the metric's last one is skipped."""
        now = round(time.time() * 1000)
        new = {name: value for name, value in values.items() if self._is_new(name, value, images_seen)}
        self._last |= {name: (images_seen, value) for name, value in new.items()}
        if new:
            self._outbox.put(tuple(Metric(name, value, now, images_seen) for name, value in new.items()))

    def picture(self, name: str, pixels_HWC: NDArray[np.uint8], *, images_seen: int) -> None:  # noqa: N803
        """Record a picture, uint8 [H, W, C]; the same name and moment once only."""
        copy = pixels_HWC.copy()  # it is sent later
        # While the server is away pictures are not kept: those of a week would fill the memory.
        self._outbox.put(lambda: self._send_picture(name, copy, images_seen), keep=False)

    def file(self, path: Path, folder: str = "") -> None:
        """Attach a file, or a folder with all it holds. At once, because the caller may move it afterwards."""
        send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
        self._outbox.attempt(lambda: send(self.id, str(path), folder or None))

    def dataset(self, name: str, *, digest: str, source: str) -> None:
        """Record which data the run used. The UI shows the beginning of the digest, as much as MLflow has room for."""
        origin = json.dumps({"tags": {"source": source, "digest": digest}})
        dataset = Dataset(name=name, digest=digest[:MAX_DIGEST], source_type="code", source=origin)
        used = DatasetInput(dataset, tags=[InputTag("mlflow.data.context", "training")])
        self._outbox.put(lambda: self._client.log_inputs(self.id, datasets=[used]))

    def tags(self, values: Mapping[str, str]) -> None:
        """Set tags; a later value replaces an earlier one."""
        tags = [RunTag(name, value[:MAX_TAG]) for name, value in values.items()]
        self._outbox.put(lambda: self._client.log_batch(self.id, tags=tags))

    def close(self, status: str, *, because: str = "") -> None:
        """Send what waits, set the run's status, and log what did not arrive."""
        if because:
            self.tags({STOPPED_BY: because})
        if not (status == "FINISHED" and self._was_finished):  # else the run's end would move to the latest visit
            self._outbox.put(lambda: self._client.set_terminated(self.id, status))
        lost = self._outbox.close()
        if lost.points or lost.others:
            _log.warning(
                "%d points of the curves and %d other records did not arrive at MLflow at %s. The points are in the "
                "journal: `limner track replay %s` sends them.",
                lost.points,
                lost.others,
                self._server,
                self._name,
            )

    def _is_new(self, name: str, value: float, images_seen: int) -> bool:
        last_images, last_value = self._last.get(name, (-1, math.nan))
        if images_seen == last_images and self._was_finished:  # an evaluation is repeated: its newest result counts
            return value != last_value and not (math.isnan(value) and math.isnan(last_value))
        return images_seen > last_images

    def _send(self, metrics: Sequence[Metric]) -> None:
        self._client.log_batch(self.id, metrics=metrics)

    def _send_picture(self, name: str, pixels: NDArray[np.uint8], images_seen: int) -> None:
        if self._pictures is None:
            self._pictures = _recorded_pictures(self._client, self.id)
        if (name, images_seen) not in self._pictures:
            self._client.log_image(self.id, pixels, key=name, step=images_seen, synchronous=True)
            self._pictures.add((name, images_seen))


def replay(server: MlflowServer, journal: Path, *, name: str, run_id: str, finished: bool) -> tuple[str, int]:
    """Send the points of a journal that the run `run_id` lacks, or all of them to a run of its own called `name`.

    `finished` says that the run the journal tells of has come to its end. Returns the run's id and how many points were
    sent. Raises LimnerError where MLflow does not take them.
    """
    points = [line for line in read_journal(journal) if line.get("metrics")]
    if not points:
        raise LimnerError(f"{journal} has no points.", fix="Train first: limner train MODEL")
    beginning = hashlib.sha256(json.dumps(points[0], sort_keys=True).encode()).hexdigest()  # tells journals apart
    with http_patience(retries=2, timeout_seconds=60):
        try:
            client = server.client
            stored = find_run(client, run_id) or _stand_in(server, name, what=run_id or f"journal {beginning}")
            missing = _missing(client, stored, points)
            client.log_batch(stored.info.run_id, metrics=[metric for metrics in missing for metric in metrics])
            if finished and stored.info.status == "RUNNING":
                client.set_terminated(stored.info.run_id, "FINISHED")
        except MlflowException as error:
            raise LimnerError(f"MLflow at {server} did not take {journal}.", why=first_line(error)) from error
    return stored.info.run_id, len(missing)


def close_abandoned(server: MlflowServer, kubeflow_run: str, *, state: str, why: str) -> tuple[str, ...]:
    """End the runs that a Kubeflow run has left open: their processes were killed, or could not reach MLflow.

    Returns the runs' ids. Raises LimnerError where MLflow cannot be asked.
    """
    done, stopped = ("SUCCEEDED", "COMPLETE", "CACHED"), ("CANCELED", "CANCELLED")
    status = "FINISHED" if state in done else "KILLED" if state in stopped else "FAILED"
    with http_patience(retries=5, timeout_seconds=20):
        try:
            client = server.client
            experiments = [found.experiment_id for found in client.search_experiments()]
            mine = f"tags.`{KUBEFLOW_RUN}` = '{kubeflow_run}' and attributes.status = 'RUNNING'"
            left_open = tuple(found.info.run_id for found in client.search_runs(experiments, mine))
            for run_id in left_open:
                if status != "FINISHED":
                    client.set_tag(run_id, STOPPED_BY, f"Kubeflow run {kubeflow_run}: {why or state}"[:MAX_TAG])
                client.set_terminated(run_id, status)
        except MlflowException as error:
            raise LimnerError(
                f"MLflow at {server} cannot be asked which runs are still open.", why=first_line(error)
            ) from error
    return left_open


def _missing(client: MlflowClient, stored: StoredRun, points: Sequence[Line]) -> list[list[Metric]]:
    """What the run lacks of each point; points that it has entirely are left out."""
    names = {name for line in points for name in line["metrics"]}
    recorded = {name: {m.step for m in client.get_metric_history(stored.info.run_id, name)} for name in names}
    lacking = (
        [
            Metric(name, value, stored.info.start_time + round(1000 * line.get("seconds", 0)), line["images"])
            for name, value in line["metrics"].items()
            if line["images"] not in recorded[name]
        ]
        for line in points
    )
    return [metrics for metrics in lacking if metrics]


def _open_or_warn(server: MlflowServer, name: str, run_id: str, *, kubeflow_run: str) -> MlflowRun | None:
    try:
        stored = find_run(server.client, run_id)
        if run_id and stored is None:
            _log.warning("MLflow at %s does not know the run %s; another continues it.", server, run_id)
        stored = stored or _stand_in(server, name, what=run_id)
        if stored.info.status not in ("FINISHED", "RUNNING"):
            server.client.update_run(stored.info.run_id, status="RUNNING")
        if kubeflow_run:
            server.client.set_tag(stored.info.run_id, KUBEFLOW_RUN, kubeflow_run)
        if STOPPED_BY in stored.data.tags:
            server.client.delete_tag(stored.info.run_id, STOPPED_BY)
        return MlflowRun(server, stored, name=name)
    except Exception as error:  # noqa: BLE001 - tracking must not end a training run, whatever it raises
        _log.warning(
            "MLflow at %s cannot be used, so this run is not recorded (later, `limner track replay %s` sends its "
            "metrics): %s",
            server,
            name,
            first_line(error),
        )
        return None


def _stand_in(server: MlflowServer, name: str, *, what: str) -> StoredRun:
    """A new run, or the one that already stands in for `what`: a run that this server does not know, or a journal."""
    experiment = server.find_experiment()
    if what:
        found = server.client.search_runs([experiment], f"tags.`{CONTINUES}` = '{what}'", max_results=1)
        if found:
            return found[0]
    tags = {
        "mlflow.source.name": "limner",
        "mlflow.source.git.commit": code_version()["git_commit"],
        "mlflow.user": _user(),
        CONTINUES: what,
    }
    return server.client.create_run(experiment, run_name=name, tags={key: tag for key, tag in tags.items() if tag})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return ""


def _recorded_pictures(client: MlflowClient, run_id: str) -> set[tuple[str, int]]:
    """Name and step of the pictures a run has. MLflow keeps both in the file's name only: images/NAME+step+N+..."""
    names = (Path(file.path).name for file in client.list_artifacts(run_id, "images"))
    found = (re.match(r"(.+?)\+step\+(\d+)\+", name) for name in names)
    return {(match[1].replace("~", "/"), int(match[2])) for match in found if match}
