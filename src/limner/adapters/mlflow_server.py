"""Which MLflow we talk to, in which experiment, and how long we wait for it."""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Run
from mlflow.exceptions import MlflowException

from limner.errors import LimnerError

SQLITE = "sqlite:///"
CREDENTIALS = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True)
class MlflowServer:
    """An MLflow server, or a database file that stands in for one."""

    uri: str
    experiment: str = "limner"
    experiment_id: str = ""
    """Goes before the name: on a cluster only the number is known."""

    @cached_property
    def client(self) -> MlflowClient:
        """The connection. Opening a database for the first time creates its tables, which takes seconds.

        Raises LimnerError where a database file cannot be used.
        """
        if self._file is not None:
            _refuse_unusable(self._file)
        return MlflowClient(self.uri, registry_uri=self.uri)

    def find_experiment(self) -> str:
        """Id of the experiment that new runs belong to; it is created where it is missing."""
        if self.experiment_id:
            return self.experiment_id
        found = self.client.get_experiment_by_name(self.experiment)
        if found is not None:
            return str(found.experiment_id)
        try:
            return str(self.client.create_experiment(self.experiment, artifact_location=self._artifacts()))
        except MlflowException:  # somebody else was faster
            found = self.client.get_experiment_by_name(self.experiment)
            if found is None:
                raise
            return str(found.experiment_id)

    def __str__(self) -> str:
        """The address as it may be shown: without user and password."""
        parts = urlsplit(self.uri)
        if "@" not in parts.netloc:
            return self.uri
        return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))

    def _artifacts(self) -> str | None:
        """Beside a database file; MLflow's own default is relative to wherever the process happens to run."""
        return (self._file.parent / "mlartifacts").as_uri() if self._file else None

    @property
    def _file(self) -> Path | None:
        return Path(self.uri.removeprefix(SQLITE)).absolute() if self.uri.startswith(SQLITE) else None


def _refuse_unusable(file: Path) -> None:
    """MLflow would try for more than a minute before it gave up."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=30)) as probe:
            probe.execute("BEGIN IMMEDIATE")  # as a writer, or it is no use
    except (OSError, sqlite3.Error) as error:
        raise LimnerError(
            f"{file} cannot be used as MLflow's database.",
            why=str(error),
            fix="Look at the file and its folder, or name another server: MLFLOW_TRACKING_URI.",
        ) from error


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """The run of that id, or None where this server has none or has deleted it."""
    if not run_id:
        return None
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None
    return run if run.info.lifecycle_stage == LifecycleStage.ACTIVE else None


def is_temporary(error: Exception) -> bool:
    """Whether the same request may succeed later: the server is away or unwell, but it has not refused."""
    if isinstance(error, MlflowException):
        status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
        return status >= 500 or status == 429
    return isinstance(error, OSError)


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a log line, and without the password of an address."""
    lines = CREDENTIALS.sub("://", str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 200 else lines[0][:200] + " ..."


@contextmanager
def http_patience(*, retries: int, timeout_seconds: int) -> Iterator[None]:
    """Within the block MLflow's client retries so often and waits so long, unless the environment says otherwise.

    Its own default is to hang on a dead server for minutes, and environment variables are the only way to tell it.
    """
    wanted = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries),
        "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(timeout_seconds),
    }
    with environment({name: value for name, value in wanted.items() if name not in os.environ}):
        yield


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Within the block the process's environment has these values."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
