"""The only files that import mlflow, boto3 or fastapi: what the steps' ports are plugged into."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from limner.errors import LimnerError
from limner.ports import ModelRegistry, Notice, ObjectStore, Ports, Progress, Tracker, nobody

if TYPE_CHECKING:
    from limner.adapters.mlflow_server import MlflowServer

CACHE = Path("runs/cache")
_log = logging.getLogger(__name__)


def silent(images_seen: int, total_images: int, losses: Mapping[str, float]) -> None:
    """Tell nobody how training goes."""


def connect(  # noqa: PLR0913 - it is where all of them are made
    *,
    track: bool = True,
    tracking_uri: str = "",
    progress: Progress = silent,
    notice: Notice = nobody,
    checkpoints: str = "",
    cache: Path = CACHE,
    kubeflow_run: str = "",
) -> Ports:
    """The ports of a process: MLflow, or nothing at all where `track` is off; an object store for checkpoints.

    The server is `tracking_uri`, else MLFLOW_TRACKING_URI, else the file mlflow.db in DVC_ROOT or the current folder.
    MLFLOW_RUN_ID, MLFLOW_EXPERIMENT_NAME and MLFLOW_EXPERIMENT_ID say what a scheduler has prepared. LIMNER_CACHE, else
    `cache`, is a folder for what can be computed again; LIMNER_INCEPTION_WEIGHTS and TORCH_HOME say where weights may
    lie. The store is `checkpoints`, else LIMNER_CHECKPOINTS, where that is a url: s3://bucket/prefix. For the lineage:
    `kubeflow_run`, else KFP_RUN_ID, and LIMNER_IMAGE.
    """
    from limner.adapters.weights import WeightsCache

    cache, weights = Path(os.environ.get("LIMNER_CACHE") or cache), _extractor_weights()
    place = checkpoints or os.environ.get("LIMNER_CHECKPOINTS", "")
    store = _open_store(place, holding="Checkpoints") if "://" in place else None  # else a folder on this machine
    fetch = WeightsCache(cache / "weights", partial(_open_store, holding="Weights"))
    provenance = _provenance(kubeflow_run)
    if not track:
        from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker

        tracking: tuple[Tracker, ModelRegistry] = (UntrackedTracker(), UntrackedRegistry())
        return Ports(*tracking, progress, cache, weights, store, notice, fetch, provenance)
    server = find_server(tracking_uri)
    from limner.adapters.mlflow_registry import MlflowRegistry
    from limner.adapters.mlflow_tracker import MlflowTracker

    tracking = (
        MlflowTracker(server, os.environ.get("MLFLOW_RUN_ID", ""), provenance.get("kubeflow_run", "")),
        MlflowRegistry(server, provenance.get("kubeflow_run", "")),
    )
    return Ports(*tracking, progress, cache, weights, store, notice, fetch, provenance)


def close_runs(kubeflow_run: str, *, state: str, why: str) -> tuple[str, ...]:
    """End the MLflow runs that a Kubeflow run has left open, as what they are; returns their ids.

    `state` is how the Kubeflow run ended: SUCCEEDED, CANCELED or CANCELLED, and all else counts as failed. Raises
    LimnerError where MLflow cannot be asked.
    """
    from limner.adapters.mlflow_tracker import close_abandoned

    return close_abandoned(find_server(), kubeflow_run, state=state, why=why)


def user_cache() -> Path:
    """Where a command that belongs to no project keeps what can be computed again."""
    return _cache_home() / "limner"


def replay(journal: Path, *, name: str, run_id: str, finished: bool, tracking_uri: str = "") -> tuple[str, int]:
    """Send what the MLflow run lacks of a journal; returns the run's id and how many points were sent.

    Where MLflow does not know the run, a new one called `name` gets all of it. `finished` says whether the run that the
    journal tells of has come to its end. Raises LimnerError where MLflow does not take them.
    """
    server = find_server(tracking_uri)
    from limner.adapters.mlflow_tracker import replay as send

    return send(server, journal, name=name, run_id=run_id, finished=finished)


def find_server(tracking_uri: str = "") -> MlflowServer:
    """The MLflow server that `connect` describes."""
    # Read on its import. By default mlflow reports usage, draws a bar for every upload, and tells of its tables.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # where --json prints its answer
    try:
        from limner.adapters.mlflow_server import SQLITE, MlflowServer
    except ModuleNotFoundError as error:
        if error.name != "mlflow":
            raise
        raise LimnerError(
            "MLflow is not installed.",
            why="Runs and model versions are recorded there.",
            fix="pip install 'limner[pipeline]', or go without: --no-track",
        ) from error
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri and "KUBERNETES_SERVICE_HOST" in os.environ:
        _log.warning("MLFLOW_TRACKING_URI is not set: what this pod records will be lost with it.")
    # In a queued experiment of DVC the current folder is a temporary one, which is deleted with all that lies in it.
    root = Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()
    return MlflowServer(
        uri=uri or f"{SQLITE}{root / 'mlflow.db'}",
        experiment=os.environ.get("MLFLOW_EXPERIMENT_NAME") or "limner",
        experiment_id="" if os.environ.get("MLFLOW_EXPERIMENT_NAME") else os.environ.get("MLFLOW_EXPERIMENT_ID", ""),
    )


def _open_store(place: str, *, holding: str) -> ObjectStore:
    try:
        from limner.adapters.object_store import S3Store
    except ModuleNotFoundError as error:
        if error.name != "boto3":
            raise
        raise LimnerError(
            "boto3 is not installed.",
            why=f"{holding} at {place} are reached with it.",
            fix="pip install 'limner[pipeline]', or keep them in a folder of this machine.",
        ) from error
    return S3Store(place)


def _provenance(kubeflow_run: str) -> dict[str, str]:
    image = os.environ.get("LIMNER_IMAGE", "")
    found = {
        "kubeflow_run": kubeflow_run or os.environ.get("KFP_RUN_ID", ""),
        "image_digest": image.partition("@")[2],
    }
    return {name: value for name, value in found.items() if value}


def _extractor_weights() -> tuple[Path, ...]:
    """Where the Inception weights may lie: the file that the user names, else where other tools leave it."""
    from limner.features.inception_2015 import usual_places

    named = os.environ.get("LIMNER_INCEPTION_WEIGHTS")
    torch_home = Path(os.environ.get("TORCH_HOME") or _cache_home() / "torch")
    return (Path(named),) if named else usual_places(torch_home)  # what is named is not replaced by another


def _cache_home() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
