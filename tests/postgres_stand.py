"""MLflow as a team runs it, for tests: its server on a PostgreSQL cluster of its own, with its artifacts in S3."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

PASSWORD = "mlflowpw"
PATIENCE_SECONDS = 120


def programs() -> Path | None:
    """The folder of PostgreSQL's own programs, or None where it is not installed."""
    # Debian does not put them on the PATH.
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def free_port() -> int:
    """A port of the loopback address that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def cluster() -> Iterator[str]:
    """Address of an empty database on a PostgreSQL of its own, which runs while the context lasts."""
    binaries = programs()
    assert binaries, "PostgreSQL is not installed"
    # It refuses to run as root, and its user may not look into pytest's folders.
    user = "postgres" if os.geteuid() == 0 else ""
    folder, port = Path(tempfile.mkdtemp(prefix="limner-postgres-")), free_port()

    def call(program: str, *words: str | Path) -> None:
        switch = ["runuser", "-u", user, "--"] if user else []
        line = [*switch, binaries / program, *words]
        # Not a pipe: the server inherits it, and who reads it would wait for the server's end.
        with (folder / "said").open("a") as said:
            done = subprocess.run(line, cwd=folder, env=surroundings, stdout=said, stderr=said, check=False)
        assert done.returncode == 0, f"{program}: {(folder / 'said').read_text()}"

    surroundings = {**os.environ, "PGPASSWORD": PASSWORD}
    (folder / "password").write_text(PASSWORD + "\n")
    if user:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)
    here = ("-h", "127.0.0.1", "-p", str(port), "-U", "mlflow")
    auth = ("--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off"
    data = folder / "data"
    try:
        call("initdb", "-D", data, "-U", "mlflow", f"--pwfile={folder / 'password'}", *auth)
        call("pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start")
        try:
            call("createdb", *here, "mlflow")
            yield f"postgresql://mlflow:{PASSWORD}@127.0.0.1:{port}/mlflow"
        finally:
            call("pg_ctl", "-D", data, "-w", "-m", "fast", "stop")
    finally:
        shutil.rmtree(folder)


@contextmanager
def mlflow_server(
    folder: Path, *, backend: str, artifacts: str, environment: Mapping[str, str], port: int = 0
) -> Iterator[str]:
    """Address of an MLflow server that runs while the context lasts, and serves the artifacts at an s3:// address.

    `environment` says how S3 is reached; what the server says lies in `folder`. A server that runs no more when the
    context ends is no error.
    """
    port = port or free_port()
    address, log = f"http://127.0.0.1:{port}", folder / f"mlflow-{port}.log"
    words = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", backend, "--artifacts-destination", artifacts, "--serve-artifacts"]
    own = {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_S3_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"],
    }
    surroundings = {**os.environ, **environment, **own}
    surroundings.pop("MLFLOW_TRACKING_URI", None)
    with log.open("a") as said:
        process = subprocess.Popen(
            words, cwd=folder, env=surroundings, stdout=said, stderr=said, start_new_session=True
        )
    try:
        _until_healthy(f"{address}/health", process, log)
        yield address
    finally:
        _stop(process)


def _until_healthy(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, f"not healthy yet: {log.read_text()}"
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the server with its workers, which are a process group."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=15)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
