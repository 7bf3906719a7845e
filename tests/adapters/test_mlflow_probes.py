from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from limner.adapters.mlflow_probes import _straight_to_s3, database_file, mlflow, refusal, versions
from limner.findings import Finding
from tests.adapters.test_probes import answering, nobody_listens
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings


def examine(*, write: bool = False) -> dict[str, Finding]:
    return {found.check: found for found in mlflow(write=write)}


@dataclass(frozen=True)
class Running:
    """A real server that knows itself as 127.0.0.1 alone, and not as localhost."""

    port: int
    artifacts: Path

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
    words = (
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--allowed-hosts", f"127.0.0.1:{port}"),
        *("--backend-store-uri", database(folder, tmp_path_factory)),
        *("--artifacts-destination", str(folder / "artifacts"), "--serve-artifacts"),
    )
    surroundings = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *words],
            cwd=folder,
            env=surroundings,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process, folder / "log")
        # The copied database has its first experiment's files on this disk; a server that makes one passes files on.
        MlflowClient(f"http://127.0.0.1:{port}").create_experiment("limner")
        yield Running(port, folder / "artifacts")
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # with its worker; an orderly end takes it seconds
        process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        try:
            urlopen(address, timeout=1).close()
        except (URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise RuntimeError(f"MLflow's server does not start: {log.read_text()[-3000:]}")


class TestRealServer:
    def test_it_answers_and_tells_its_version(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
        found = examine()
        assert found["mlflow"].status == "ok"
        assert "server 3." in found["mlflow"].what
        assert (found["mlflow artifacts"].status, "--write" in found["mlflow artifacts"].what) == ("ok", True)

    def test_a_name_that_it_does_not_know_is_told_with_the_option(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://localhost:{running.port}")
        (found,) = mlflow(write=False)
        assert found.status == "error"
        assert '403 "Invalid Host header"' in found.what
        assert f"--allowed-hosts localhost:{running.port}" in found.fix

    def test_a_file_is_stored_and_nothing_of_it_is_left(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
        found = examine(write=True)["mlflow artifacts"]
        assert (found.status, found.what) == ("ok", "mlflow-artifacts:/1; stored, read and deleted a file")
        assert running.artifacts.is_dir()
        assert not [path for path in running.artifacts.rglob("*") if path.is_file()]
        client = MlflowClient(running.address)
        assert client.search_runs(["0", "1"]) == []
        deleted = client.search_runs(["1"], run_view_type=ViewType.DELETED_ONLY)
        assert [run.info.run_name for run in deleted] == ["limner-doctor"]

    def test_files_that_cannot_be_stored_are_told_and_the_run_is_deleted(
        self, running: Running, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", running.address)
        kept = running.artifacts.with_name("kept")
        if running.artifacts.exists():
            running.artifacts.rename(kept)
        running.artifacts.write_text("in the way", encoding="utf-8")
        try:
            found = examine(write=True)["mlflow artifacts"]
        finally:
            running.artifacts.unlink()
            if kept.exists():
                kept.rename(running.artifacts)
        assert found.status == "error"
        assert "500" in found.what
        assert "--artifacts-destination" in found.fix
        assert MlflowClient(running.address).search_runs(["0", "1"]) == []


class TestServersThatRefuse:
    HEALTHY = {"/health": (200, "OK"), "/version": (200, "3.17.2")}  # noqa: RUF012

    def test_nobody_there_is_told_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", nobody_listens())
        began = time.monotonic()
        found = examine()["mlflow"]
        assert (found.status, "Nothing listens" in found.fix) == ("error", True)
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize(
        ("status", "text", "what", "fix"),
        [
            (401, "You are not authenticated", "401", "MLFLOW_TRACKING_USERNAME"),
            (403, "Permission denied", "403", "of somebody who may"),
            (400, "attempt to write a readonly database", "readonly database", "server's log"),
        ],
    )
    def test_a_refusal_is_told_by_what_it_means(
        self, status: int, text: str, what: str, fix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        question = "/api/2.0/mlflow/experiments/search"
        with answering({**self.HEALTHY, question: (status, text)}) as (address, _):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            (found,) = mlflow(write=True)
        assert (found.status, what in found.what, fix in found.fix) == ("error", True, True)

    @pytest.mark.parametrize(("status", "fix"), [(503, "server's log"), (404, "--static-prefix")])
    def test_a_server_that_is_not_healthy_is_not_asked_further(
        self, status: int, fix: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with answering({"/health": (status, "oh")}) as (address, asked):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            (found,) = mlflow(write=False)
        assert (found.status, fix in found.fix, len(asked)) == ("error", True, 2)

    def test_a_password_in_the_address_is_not_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with answering({"/health": (503, "oh")}) as (address, _):
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address.replace("http://", "http://me:secret@"))
            (found,) = mlflow(write=False)
        assert "secret" not in found.what + found.fix

    def test_what_mlflow_says_of_a_refusal_is_understood(self) -> None:
        said = (
            "API request to endpoint /api/... failed with error code 403 != 200. Response body: 'Invalid Host header'"
        )
        assert "--allowed-hosts mlflow.team.svc:5000," in refusal(403, said, "http://mlflow.team.svc:5000").fix


class TestWithoutServer:
    def test_a_pod_without_a_server_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
        found = examine()["mlflow"]
        assert (found.status, "will be lost" in found.what) == ("error", True)

    def test_the_file_of_this_folder_is_looked_at_and_not_created(self, monkeypatch: pytest.MonkeyPatch) -> None:
        found = examine()["mlflow"]
        assert (found.status, str(Path.cwd() / "mlflow.db") in found.what) == ("ok", True)
        assert not Path("mlflow.db").exists()
        monkeypatch.setenv("DVC_ROOT", "/somewhere/else")
        assert "/somewhere/else/mlflow.db" in examine()["mlflow"].what

    def test_a_database_with_its_tables_is_fine(
        self, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", database(tmp_path, tmp_path_factory))
        assert examine()["mlflow"] == Finding("mlflow", "ok", str(tmp_path / "mlflow.db"))

    def test_a_file_that_is_no_database_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "mlflow.db").write_text("this is a text, and a text of more than sixteen bytes", encoding="utf-8")
        found = database_file(tmp_path / "mlflow.db")
        assert (found.status, "cannot be used" in found.what) == ("error", True)

    def test_a_place_that_cannot_be_written_to_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()  # root may write to every folder
        found = database_file(tmp_path / "file" / "mlflow.db")
        assert (found.status, "MLFLOW_TRACKING_URI" in found.fix) == ("error", True)

    @pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns"])
    def test_a_file_store_is_an_error_that_quotes_what_would_be_seen(
        self, uri: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = examine()["mlflow"]
        assert (found.status, "maintenance mode" in found.what) == ("error", True)
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        assert examine()["mlflow"].status == "warning"

    @pytest.mark.parametrize(
        ("uri", "says"),
        [
            ("postgresql+no_such_driver://me:secret@127.0.0.1/mlflow", "no_such_driver"),
            ("mysql+asyncmy://me:secret@127.0.0.1/mlflow", "driver asyncmy"),
            ("postgresql://me:secret@127.0.0.1:1/mlflow", "does not answer"),
        ],
    )
    def test_a_database_is_asked_through_its_driver(self, uri: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        found = examine()["mlflow"]
        assert (found.status, says in found.what) == ("error", True)
        assert "secret" not in found.what + found.fix

    def test_another_kind_of_server_is_skipped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "databricks://profile")
        assert examine()["mlflow"].status == "skipped"


@pytest.mark.parametrize(
    ("client", "server", "status"), [("3.17.2", "3.9.0", "ok"), ("3.17.2", "2.22.1", "warning"), ("3.17.2", "", "ok")]
)
def test_only_another_major_version_is_a_warning(client: str, server: str, status: str) -> None:
    assert versions(client, server, "http://here").status == status


def test_two_names_for_s3_that_differ_are_told_where_files_go_there_straight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one:9000/")
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://one:9000")
    assert not list(_straight_to_s3("s3://mlflow/0"))
    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", "http://two:9000")
    (found,) = _straight_to_s3("s3://mlflow/0")
    assert (found.status, "http://two:9000" in found.what) == ("warning", True)
    assert not list(_straight_to_s3("mlflow-artifacts:/0"))
