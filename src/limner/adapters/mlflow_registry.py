"""The model registry of MLflow: versions, what they were judged by, and which of them is the champion."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mlflow.entities import LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities import Run as StoredRun
from mlflow.entities.model_registry import ModelVersion as StoredVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model

from limner.adapters.mlflow_packaging import save_mlflow_model
from limner.adapters.mlflow_server import MlflowServer, environment, find_run, first_line, http_patience
from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.ports import ModelVersion
from limner.promotion import ALIAS

DIGEST, METRICS, PROTOCOL = "limner.export_digest", "limner.metrics", "limner.protocol"
DATASET = "limner.dataset_md5"


@dataclass(frozen=True)
class MlflowRegistry:
    """Versions on an MLflow server. Unlike a run's records, a version that cannot be stored is an error."""

    server: MlflowServer

    def champion(self, name: str) -> ModelVersion | None:
        """The version that carries the alias `champion`, or None where there is none yet."""
        with self._speaking():
            try:
                return _version(self.server.client.get_model_version_by_alias(name, ALIAS))
            except MlflowException as error:
                if _says_missing(error):
                    return None
                raise

    def trained_on(self, name: str, dataset_md5: str) -> ModelVersion | None:
        """A version that has learnt from these data, or None where there is none."""
        with self._speaking():
            query = f"name = '{name}' and tags.`{DATASET}` = '{dataset_md5}'"
            found = self.server.client.search_model_versions(query, max_results=1)
            return _version(found[0]) if found else None

    def register(self, candidate: ModelVersion, export: Path, *, run_id: str) -> ModelVersion:
        """Store the exported model as a new version of `candidate.name`, under the training run.

        The same export again returns the version it already is, with the candidate's figures.
        """
        judged_by = {METRICS: json.dumps(dict(candidate.metrics)), PROTOCOL: json.dumps(dict(candidate.protocol))}
        with self._speaking():
            stored = self._find(candidate)
            if stored is None:
                tags = {**_lineage_tags(export), DIGEST: candidate.export_digest, **judged_by}
                stored = self._store(candidate, export, run_id=run_id, tags=tags)
            else:
                for key, value in judged_by.items():
                    if stored.tags.get(key) != value:
                        self.server.client.set_model_version_tag(stored.name, stored.version, key, value)
            return replace(candidate, number=str(stored.version), aliases=tuple(stored.aliases))

    def promote(self, version: ModelVersion, *, instead_of: ModelVersion | None, reason: str) -> None:
        """Move the alias `champion`. Raises LimnerError where the champion is no longer `instead_of`.

        MLflow cannot compare and move in one go: two promotions within the same milliseconds may both succeed.
        """
        expected = instead_of.number if instead_of else ""
        with self._speaking():
            now = self.champion(version.name)
            found = now.number if now else ""
            if found == version.number:
                return
            if found != expected:
                raise LimnerError(
                    f"The champion of {version.name} is {_named(found)}, no longer {_named(expected)}.",
                    why="Somebody else has promoted or rolled back meanwhile.",
                    fix="Promote again; the model is then compared with the present champion.",
                )
            client = self.server.client
            client.set_registered_model_alias(version.name, ALIAS, version.number)
            tags = {"previous_version": found, "reason": reason, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            for key, value in tags.items():
                client.set_model_version_tag(version.name, version.number, f"promotion.{key}", value)

    def fetch(self, address: str, folder: Path) -> Path:
        """The exported model that models:/NAME@ALIAS or models:/NAME/VERSION names, below `folder`.

        Raises LimnerError where there is no such version, or one that Limner did not register.
        """
        with self._speaking(), environment({"MLFLOW_TRACKING_URI": self.server.uri}):
            import mlflow.artifacts

            try:
                model = mlflow.artifacts.download_artifacts(
                    address, dst_path=str(folder), tracking_uri=self.server.uri, registry_uri=self.server.uri
                )
            except MlflowException as error:
                if _says_missing(error):
                    raise LimnerError(
                        f"The model registry at {self.server} has no {address}.",
                        why=first_line(error),
                        fix="Promote a model first, or name a version that exists: models:/NAME/VERSION.",
                    ) from error
                raise
        found = [path.parent for path in Path(model).glob("artifacts/*/config.json")]
        if len(found) != 1:
            raise LimnerError(f"{address} is no model that Limner has exported.", fix="Name another version.")
        return found[0]

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        """Turns MLflow's errors into ours, and waits as long as an upload may take."""
        with http_patience(retries=3, timeout_seconds=300):
            try:
                yield
            except (MlflowException, OSError) as error:
                raise LimnerError(
                    f"The model registry at {self.server} cannot be used.",
                    why=first_line(error),
                    fix="Look at the server and at MLFLOW_TRACKING_URI; --no-track does without a registry.",
                ) from error

    def _find(self, candidate: ModelVersion) -> StoredVersion | None:
        """The version that holds the same export already. Read again, because a search leaves the aliases out."""
        if not candidate.export_digest:
            return None
        query = f"name = '{candidate.name}' and tags.`{DIGEST}` = '{candidate.export_digest}'"
        found = self.server.client.search_model_versions(query, max_results=1)
        return self.server.client.get_model_version(candidate.name, found[0].version) if found else None

    def _store(self, candidate: ModelVersion, export: Path, *, run_id: str, tags: Mapping[str, str]) -> StoredVersion:
        client, run = self.server.client, find_run(self.server.client, run_id)
        model = client.create_logged_model(
            run.info.experiment_id if run else self.server.find_experiment(),
            name=candidate.name,
            source_run_id=run.info.run_id if run else None,
            params=dict(run.data.params) if run else None,
            tags=dict(tags),
            model_type="generator",
        )
        try:
            with tempfile.TemporaryDirectory() as folder:
                note = Model(artifact_path=model.artifact_location, model_uuid=model.model_id, model_id=model.model_id)
                save_mlflow_model(Path(folder) / "model", export, note)
                client.log_model_artifacts(model.model_id, str(Path(folder) / "model"))
        except BaseException:
            client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
            raise
        client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        if run:
            client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
            client.log_batch(run.info.run_id, metrics=self._figures(candidate, run, model.model_id))
        self._name_model(candidate.name)
        # To look the model up, a database's registry makes a client of its own, which asks the environment where.
        with environment({"MLFLOW_TRACKING_URI": self.server.uri}):
            version = client.create_model_version(
                candidate.name,
                f"models:/{model.model_id}",
                run_id=run.info.run_id if run else None,
                tags=dict(tags),
                model_id=model.model_id,
            )
        registered_as = [{"name": version.name, "version": version.version}]
        client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": json.dumps(registered_as)})  # for the UI
        return version

    def _figures(self, candidate: ModelVersion, run: StoredRun, model_id: str) -> list[Metric]:
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
                latest = self.server.client.get_metric_history(run.info.run_id, key)[-1]
                step, when = latest.step, latest.timestamp
            figures.append(Metric(key or name, value, when, step, model_id=model_id, run_id=run.info.run_id))
        return figures

    def _name_model(self, name: str) -> None:
        try:
            self.server.client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


def _lineage_tags(export: Path) -> dict[str, str]:
    return {f"limner.{key}": value for key, value in read_lineage(export).items() if value}


def _version(stored: StoredVersion) -> ModelVersion:
    """A stored version as the steps see it. One that was registered by hand has no figures."""
    tags = stored.tags
    return ModelVersion(
        name=stored.name,
        number=str(stored.version),
        aliases=tuple(stored.aliases),
        metrics={key: float(value) for key, value in json.loads(tags.get(METRICS, "{}")).items()},
        protocol={key: str(value) for key, value in json.loads(tags.get(PROTOCOL, "{}")).items()},
        export_digest=tags.get(DIGEST, ""),
        dataset_md5=tags.get(DATASET, ""),
    )


def _says_missing(error: MlflowException) -> bool:
    """Whether there is no such model or alias. MLflow has no code of its own for a missing alias."""
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or (
        error.error_code == "INVALID_PARAMETER_VALUE" and "not found" in str(error)
    )


def _named(number: str) -> str:
    return f"version {number}" if number else "no version"
