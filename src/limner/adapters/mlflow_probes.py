"""What `limner doctor` asks of MLflow."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from limner.adapters import find_server
from limner.adapters.probes import SECONDS, ask
from limner.errors import LimnerError
from limner.findings import Finding, refused

if TYPE_CHECKING:
    from limner.adapters.mlflow_server import MlflowServer

CHECK = "mlflow"
ACCOUNT = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"


def mlflow(*, write: bool) -> Iterator[Finding]:
    """Whether runs can be recorded where MLFLOW_TRACKING_URI says; `write`: with a run that is deleted again."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri and "KUBERNETES_SERVICE_HOST" in os.environ:
        what = "MLFLOW_TRACKING_URI is not set: what this pod records will be lost with it."
        yield Finding(CHECK, "error", what, "Give the pod the secret limner-mlflow, or MLFLOW_TRACKING_URI itself.")
        return
    try:
        installed = metadata.version("mlflow")
    except metadata.PackageNotFoundError:
        fix = "pip install 'limner[pipeline]', or go without: --no-track"
        yield Finding(CHECK, "error" if uri else "skipped", "MLflow is not installed.", fix)
        return
    scheme = uri.partition("://")[0].partition("+")[0] if "://" in uri else ""
    if scheme in ("http", "https"):
        yield from _server(uri, installed, write=write)
    elif scheme in ("", "sqlite") and (scheme or not uri):
        yield database_file(_file_of(uri))
    elif scheme in ("postgresql", "mysql", "mssql"):
        yield _database(uri)
    elif scheme in ("", "file"):
        yield _file_store(uri)
    else:
        yield Finding(CHECK, "skipped", f"{scheme}: is not looked at.")


def database_file(file: Path) -> Finding:
    """Whether a database file, existing or not yet, can be written to. Nothing is changed."""
    if not file.exists():
        there = next(folder for folder in file.parents if folder.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return Finding(CHECK, "ok", f"{file}, which the first run creates")
        fix = "Give this user the right to write there, or name a server: MLFLOW_TRACKING_URI."
        return Finding(CHECK, "error", f"{file} cannot be created: {there} is not writable.", fix)
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True, timeout=SECONDS)) as probe:
            probe.execute("BEGIN IMMEDIATE")
            tables = probe.execute("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'").fetchone()[0]
            probe.rollback()
    except sqlite3.Error as error:
        fix = "Look at the file and its folder, or name another server: MLFLOW_TRACKING_URI."
        return Finding(CHECK, "error", f"{file} cannot be used as MLflow's database: {error}", fix)
    return Finding(CHECK, "ok", f"{file}" if tables else f"{file}, still without tables")


def _file_of(uri: str) -> Path:
    root = Path(os.environ.get("DVC_ROOT") or Path.cwd()).absolute()
    return root / (uri.partition(":///")[2] or "mlflow.db")


def _file_store(uri: str) -> Finding:
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() in ("true", "1"):
        return Finding(CHECK, "warning", f"{uri} is a file store, which MLflow gives up.", "mlflow migrate-filestore")
    what = f'{uri} is a file store, which MLflow refuses: "file store is in maintenance mode".'
    fix = "MLFLOW_TRACKING_URI=sqlite:///mlflow.db for new runs; `mlflow migrate-filestore` for old ones."
    return Finding(CHECK, "error", what, fix)


def _database(uri: str) -> Finding:
    """A database that is spoken to directly. Asked by SQLAlchemy, as MLflow does."""
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.exc import SQLAlchemyError

    url = make_url(uri)
    shown = url.render_as_string(hide_password=True)
    try:
        engine = create_engine(url, connect_args={"connect_timeout": SECONDS} if "sql" in url.drivername else {})
        with closing(engine.connect()):
            return Finding(CHECK, "ok", shown)
    except ModuleNotFoundError as error:
        # The server would not end for it: it starts, never becomes healthy, and clients hang in their retries.
        what = f"{shown} needs the driver {error.name}, which is not installed."
        fix = (
            "pip install 'psycopg[binary]'" if url.drivername.startswith("postgresql") else f"pip install {error.name}"
        )
        return Finding(CHECK, "error", what, fix)
    except SQLAlchemyError as error:
        fix = "Look at address, user and password, and whether the database runs."
        return Finding(CHECK, "error", f"{shown} does not answer: {str(error).splitlines()[0]}", fix)


def _server(uri: str, installed: str, *, write: bool) -> Iterator[Finding]:
    server = find_server(uri)
    shown = str(server).rstrip("/")
    try:
        healthy = ask(f"{_bare(uri)}/health")
        version = ask(f"{_bare(uri)}/version")
    except LimnerError as error:
        yield refused(CHECK, error)
        return
    if healthy.status not in (200, 401, 403):  # a proxy with a login may stand before it
        what = f"{shown}/health says {healthy.status}: {healthy.first_line}"
        fix = "Look at the server's log; a missing driver or a database that does not answer keeps it from starting."
        if healthy.status == 404:
            fix = "Is it an MLflow server? One with --static-prefix wants that prefix in MLFLOW_TRACKING_URI."
        yield Finding(CHECK, "error", what, fix)
        return
    told = version.text.strip() if version.status == 200 else ""
    trouble = _first_question(server)
    if trouble:
        yield trouble
        return
    yield versions(installed, told, shown)
    yield from _artifacts(server, write=write)


def _bare(uri: str) -> str:
    """The address without user and password, which urllib does not take."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def _first_question(server: MlflowServer) -> Finding | None:
    """What is wrong with a real request through MLflow's own client, which knows of tokens and certificates."""
    from mlflow.exceptions import MlflowException

    try:
        with _impatient():
            server.client.search_experiments(max_results=1)
    except MlflowException as error:
        return refusal(error.get_http_status_code(), _reason(error), str(server))  # type: ignore[no-untyped-call]
    return None


def refusal(status: int, said: str, server: str) -> Finding:
    """What a refused request means."""
    host = urlsplit(server).netloc
    if "Invalid Host header" in said:
        return Finding(
            CHECK,
            "error",
            f'{server} answers 403 "Invalid Host header": it does not know itself by the name {host}.',
            f"Start it with --allowed-hosts {host},localhost:* - the port is part of what is compared. "
            "/health is exempt, so a readiness probe does not notice.",
        )
    if status == 401 or "error code 401" in said:
        return Finding(CHECK, "error", f"{server} does not know us (401): {said}", f"{ACCOUNT}.")
    if status == 403 or "error code 403" in said:
        return Finding(CHECK, "error", f"{server} does not let us in (403): {said}", f"{ACCOUNT}, of somebody who may.")
    fix = "Look at the server's log: the database is down, read-only or of another MLflow version (mlflow db upgrade)."
    return Finding(CHECK, "error", f"{server} cannot answer a simple question: {said}", fix)


def versions(client: str, server: str, address: str) -> Finding:
    """Whether client and server are of the same major version."""
    if not server[:1].isdigit():
        return Finding(CHECK, "ok", f"{address}, of unknown version; client {client}")
    what = f"{address}, server {server}, client {client}"
    if client.partition(".")[0] == server.partition(".")[0]:
        return Finding(CHECK, "ok", what)
    return Finding(CHECK, "warning", f"{what}: the major versions differ.", f"pip install 'mlflow=={server}'")


def _artifacts(server: MlflowServer, *, write: bool) -> Iterator[Finding]:
    """Where files of runs go, and whether they arrive."""
    from mlflow.exceptions import MlflowException

    check, place = "mlflow artifacts", ""
    try:
        with _impatient():
            found = server.client.get_experiment_by_name(server.experiment)
            if found is None or found.lifecycle_stage != "active":
                found = server.client.get_experiment("0")  # where MLflow puts what names none
            place = str(found.artifact_location)
            yield from _straight_to_s3(place)
            if write:
                _store_and_delete(server, str(found.experiment_id))
    except (MlflowException, OSError) as error:
        fix = "Look at the server's --artifacts-destination and its AWS_* settings, and at its log."
        if place.startswith("s3:"):
            fix = "This process sends files itself: look at its AWS_* settings and MLFLOW_S3_ENDPOINT_URL."
        yield Finding(check, "error", f"A file cannot be stored at {place or server}: {_reason(error)}", fix)
        return
    done = "stored, read and deleted a file" if write else "not tried: --write stores and deletes a file"
    yield Finding(check, "ok", f"{place}; {done}")


def _straight_to_s3(place: str) -> Iterator[Finding]:
    """MLflow's client sends files to S3 itself where the server does not pass them on."""
    own, common = os.environ.get("MLFLOW_S3_ENDPOINT_URL", ""), os.environ.get("AWS_ENDPOINT_URL", "")
    if place.startswith("s3:") and own and common and own.rstrip("/") != common.rstrip("/"):
        what = (
            f"MLflow's files go to {place} on {own} (MLFLOW_S3_ENDPOINT_URL), all else to {common} (AWS_ENDPOINT_URL)."
        )
        yield Finding("mlflow artifacts", "warning", what, "Set both to the same server, unless there are two.")


def _store_and_delete(server: MlflowServer, experiment_id: str) -> None:
    """Try a file in a run of its own. What stays is the mark of a deleted run, until the server's `mlflow gc`."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    run = server.client.create_run(experiment_id, run_name="limner-doctor")
    try:
        server.client.log_text(run.info.run_id, "written by limner doctor\n", "probe.txt")
        files = get_artifact_repository(run.info.artifact_uri, tracking_uri=server.uri)
        try:
            if [file.path for file in files.list_artifacts()] != ["probe.txt"]:
                raise OSError("what was stored is not there")
        finally:
            files.delete_artifacts("probe.txt")  # type: ignore[no-untyped-call]
    finally:
        with _impatient(retries=2):  # a server that has refused a file has hung up as well
            server.client.delete_run(run.info.run_id)


def _reason(error: Exception) -> str:
    """What an error says; of one that ends a chain, its cause, before which there are only addresses."""
    from limner.adapters.mlflow_server import first_line

    return str(error).partition("(Caused by ")[2].rstrip(")") or first_line(error)


@contextmanager
def _impatient(*, retries: int = 0) -> Iterator[None]:
    """Within the block MLflow's client asks once and waits seconds, not minutes."""
    from limner.adapters.mlflow_server import environment

    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": str(retries), "MLFLOW_HTTP_REQUEST_TIMEOUT": str(SECONDS)}
    with environment(wanted):
        yield
