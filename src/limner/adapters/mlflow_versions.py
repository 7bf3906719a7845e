"""A version of a model in MLflow: how it is stored, with the run that trained it, and what its tags say."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities import Run as StoredRun
from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from limner.adapters.mlflow_server import MlflowServer, environment, find_run
from limner.errors import LimnerError
from limner.lineage import file_sha256, read_lineage
from limner.ports import ModelVersion

DIGEST, METRICS, PROTOCOL = "limner.export_digest", "limner.metrics", "limner.protocol"
DATASET, COSTS, CONFIG_SHA256 = "limner.dataset_md5", "limner.costs", "limner.config_sha256"
Value = TypeVar("Value")
PYFUNC = "limner.parity.pyfunc"
"""How far MLflow's model is from the export, in grey levels of 255."""


def store(
    server: MlflowServer, candidate: ModelVersion, export: Path, *, run_id: str, figures: Mapping[str, str]
) -> StoredVersion:
    """Store the exported model as a new version of `candidate.name`, under the training run if there is one.

    It carries the tags `figures`, and those that say where the export comes from, what it costs and what its files are.
    """
    from limner.adapters.mlflow_packaging import save_mlflow_model  # brings PyTorch

    tags = {**_lineage_tags(export), DIGEST: candidate.export_digest, **_export_tags(export), **figures}
    client, run = server.client, find_run(server.client, run_id)
    model = client.create_logged_model(
        run.info.experiment_id if run else server.find_experiment(),
        name=candidate.name,
        source_run_id=run.info.run_id if run else None,
        params=dict(run.data.params) if run else None,
        tags=tags,
        model_type="generator",
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            note = Model(artifact_path=model.artifact_location, model_uuid=model.model_id, model_id=model.model_id)
            difference = save_mlflow_model(Path(folder) / "model", export, note)
            if difference is not None:
                tags[PYFUNC] = f"{difference:g}"
            client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    if run:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
        client.log_batch(run.info.run_id, metrics=_figures(client, candidate, run, model.model_id))
    _name_model(client, candidate.name)
    # To look the model up, a database's registry makes a client of its own, which asks the environment where.
    with environment({"MLFLOW_TRACKING_URI": server.uri}):
        version = client.create_model_version(
            candidate.name,
            f"models:/{model.model_id}",
            run_id=run.info.run_id if run else None,
            tags=tags,
            model_id=model.model_id,
        )
    registered_as = [{"name": version.name, "version": version.version}]
    client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps(registered_as)})  # for the UI
    return version


def figure_tags(judged: ModelVersion) -> dict[str, str]:
    """The tags that say what a version was judged by."""
    return {METRICS: json.dumps(dict(judged.metrics)), PROTOCOL: json.dumps(dict(judged.protocol))}


def as_version(stored: StoredVersion) -> ModelVersion:
    """A stored version as the steps see it. One that was registered by hand has no figures."""
    tags = stored.tags
    return ModelVersion(
        name=stored.name,
        number=str(stored.version),
        aliases=tuple(stored.aliases),
        metrics=_read(tags.get(METRICS, "{}"), float),
        protocol=_read(tags.get(PROTOCOL, "{}"), str),
        export_digest=tags.get(DIGEST, ""),
        dataset_md5=tags.get(DATASET, ""),
        costs=_read(tags.get(COSTS, "{}"), float),
    )


def _read(text: str, kind: Callable[[Any], Value]) -> dict[str, Value]:
    """What a tag tells; one that somebody has damaged tells nothing."""
    try:
        return {key: kind(value) for key, value in json.loads(text).items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def refuse_changed(export: Path, address: str, stored: StoredVersion) -> None:
    """Raises LimnerError where the files of a fetched version are not those that were registered; opens none of them.

    One that was registered by an older Limner says of itself which programs it has.
    """
    from limner.exported import WEIGHTS, open_config  # brings PyTorch

    for name, tag in (("config.json", CONFIG_SHA256), (WEIGHTS, DIGEST)):
        registered = stored.tags.get(tag)
        found = file_sha256(export / name) if (export / name).is_file() else "missing"
        if registered and found != registered:
            raise LimnerError(
                f"{address} was changed in the store since it was registered: it is not used.",
                why=f"The SHA-256 of its {name} is {found}, and {registered} was registered.",
                fix="Ask who keeps the store. Roll back to another version, or train and register the model again.",
            )
    open_config(export)


def _figures(client: MlflowClient, candidate: ModelVersion, run: StoredRun, model_id: str) -> list[Metric]:
    """The candidate's metrics as the model's.

    What the run has already, be it in a group (`evaluate/fid`), keeps its name, step and time: MLflow files a
    model's metrics under its run too, and would draw them a second time.
    """
    now, figures = round(time.time() * 1000), []
    for name, value in candidate.metrics.items():
        if not math.isfinite(value):  # the models' table has no NaN
            continue
        alike = (k for k, v in run.data.metrics.items() if v == value and k.rpartition("/")[2] == name)
        key, step, when = next(alike, ""), 0, now
        if key:
            latest = client.get_metric_history(run.info.run_id, key)[-1]
            step, when = latest.step, latest.timestamp
        figures.append(Metric(key or name, value, when, step, model_id=model_id, run_id=run.info.run_id))
    return figures


def _name_model(client: MlflowClient, name: str) -> None:
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _lineage_tags(export: Path) -> dict[str, str]:
    return {f"limner.{key}": value for key, value in read_lineage(export).items() if value}


def _export_tags(export: Path) -> dict[str, str]:
    """What it costs, as it has measured that itself, and the digest of what names all its files."""
    costs = json.loads((export / "config.json").read_text(encoding="utf-8")).get("costs", {})
    return {COSTS: json.dumps(costs), CONFIG_SHA256: file_sha256(export / "config.json")}
