"""The registry as a team has it: MLflow's server on PostgreSQL, many who promote at once, and those who may not."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from limner.adapters.mlflow_registry import MlflowRegistry
from limner.adapters.mlflow_server import MlflowServer
from limner.errors import LimnerError
from limner.ports import ModelVersion
from tests import postgres_stand
from tests.adapters.test_mlflow_history import aliases, create_versions
from tests.mlflow_stand import third_party_warnings, write_export

pytestmark = [
    third_party_warnings,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(postgres_stand.programs() is None, reason="needs PostgreSQL"),
]

PROMOTE = """
import json, sys, time
from limner.adapters.mlflow_registry import MlflowRegistry
from limner.adapters.mlflow_server import MlflowServer
from limner.errors import LimnerError
from limner.ports import ModelVersion
registry = MlflowRegistry(MlflowServer(sys.argv[1]), sys.argv[2])
for line in sys.stdin:
    name, number, expected, start = json.loads(line)
    version = ModelVersion(name, number)
    time.sleep(max(0, start - time.time()))
    try:
        moved = registry.promote(version, instead_of=ModelVersion(name, expected), reason=f"I am {number}.")
        print(json.dumps({"moved": vars(moved)}), flush=True)
    except LimnerError as error:
        print(json.dumps({"problem": error.problem, "why": error.why, "fix": error.fix}), flush=True)
"""
"""Somebody who promotes what a line says, at the time that it says."""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    with (
        postgres_stand.cluster() as backend,
        postgres_stand.mlflow_server(
            folder, backend=backend, artifacts=str(folder / "artifacts"), environment={"AWS_ENDPOINT_URL": ""}
        ) as address,
    ):
        yield address


@pytest.fixture
def server(address: str) -> MlflowServer:
    return MlflowServer(address)


@pytest.fixture
def name() -> str:
    return f"digits-{time.monotonic_ns()}"


@contextmanager
def people(address: str, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that promote, all of them ready."""
    words = [sys.executable, "-c", PROMOTE, address]
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    started = [subprocess.Popen([*words, f"run-{number}"], **pipes) for number in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()
            process.communicate()


def test_of_processes_that_race_one_wins_each_time_and_the_others_say_why(server, address, name):
    rounds, racers = 4, 3
    registry = MlflowRegistry(server)
    versions = create_versions(server, 1 + rounds * racers, name)
    registry.promote(versions[0], instead_of=None, reason="first")
    with people(address, racers) as processes:
        for done in range(rounds):
            expected, start = registry.champion(name).number, time.time() + (5 if done == 0 else 0.3)
            for place, process in enumerate(processes):
                number = versions[1 + done * racers + place].number
                process.stdin.write(json.dumps([name, number, expected, start]) + "\n")
                process.stdin.flush()
            said = [json.loads(process.stdout.readline()) for process in processes]
            (won,) = [each["moved"] for each in said if "moved" in each]
            for lost in (each for each in said if "moved" not in each):
                assert (
                    f"is version {won['version']}, no longer version {expected}: nothing has moved" in lost["problem"]
                )
                assert f"A promotion by {won['who']} at {won['when']}: I am {won['version']}." in lost["why"]
                assert f"limner models status {name}" in lost["fix"]
            assert won["who"].startswith("Kubeflow run run-")
            assert registry.champion(name).number == won["version"]
            assert vars(registry.history(name)[-1]) == won
    assert len(registry.history(name)) == 1 + rounds
    for _ in range(rounds):  # and all of it can be undone
        registry.roll_back(name, expected=registry.champion(name).number, reason="undo")
    assert registry.champion(name).number == "1"
    assert not [other for other in server.client.search_registered_models() if "promoting" in other.name]


def test_promotions_and_rollbacks_that_race_leave_a_history_without_gaps(server, address, name):
    versions = create_versions(server, 6, name)
    MlflowRegistry(server).promote(versions[0], instead_of=None, reason="first")
    start = threading.Barrier(3)

    def work(seed: int) -> None:
        registry = MlflowRegistry(MlflowServer(address))
        start.wait()
        for turn in range(5):
            now = registry.champion(name)
            try:
                if now and (turn + seed) % 3 == 0:
                    registry.roll_back(name, expected=now.number, reason="undo")
                else:
                    registry.promote(versions[(turn * 2 + seed) % 6], instead_of=now, reason="because")
            except LimnerError as error:
                assert "nothing has moved" in str(error) or "nothing can be rolled back" in str(error)  # noqa: PT017

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = MlflowRegistry(server).history(name)
    assert len(history) > 3
    assert all(later.before == earlier.version for earlier, later in pairwise(history))
    assert aliases(MlflowRegistry(server), name).get("champion", "") == history[-1].version
    assert not [other for other in server.client.search_registered_models() if "promoting" in other.name]


# -- a server that does not let us, or goes away ----------------------------------------------------------------------


@contextmanager
def proxy(address: str, *, refuse: str = "", die_on: str = "") -> Iterator[str]:
    """A way to the server that answers 403 to all but reading, or closes for good on a request whose path has this."""
    target, dead = urlsplit(address), threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if dead.is_set() or (die_on and die_on in self.path and self.command != "GET"):
                dead.set()
                self.close_connection = True
                return
            searching = self.path.endswith("/search")
            if refuse and self.command != "GET" and not searching:
                self.reply(403, refuse.encode())
                return
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            with closing(http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)) as way:
                way.request(self.command, self.path, body, headers)
                found = way.getresponse()
                self.reply(found.status, found.read())

        def reply(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    for method in ("GET", "POST", "PATCH", "PUT", "DELETE"):
        setattr(Handler, f"do_{method}", Handler.answer)
    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running.daemon_threads = True
    thread = threading.Thread(target=running.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}"
    finally:
        running.shutdown()
        thread.join()
        running.server_close()


REFUSAL = json.dumps({"error_code": "PERMISSION_DENIED", "message": "Read only."})


@pytest.mark.parametrize("body", ["Forbidden", REFUSAL], ids=["proxy", "mlflow"])
def test_registry_that_may_only_be_read_moves_nothing_and_says_whom_to_ask(server, address, name, body, tmp_path):
    versions = create_versions(server, 2, name)
    MlflowRegistry(server).promote(versions[0], instead_of=None, reason="first")
    export = write_export(tmp_path / "export", digest="1" * 64)
    with proxy(address, refuse=body) as closed:
        reader = MlflowRegistry(MlflowServer(closed))
        assert reader.champion(name).number == "1"
        assert len(reader.versions(name)) == 2
        assert len(reader.history(name)) == 1
        assert reader.promote(versions[0], instead_of=versions[0], reason="again") is None
        for act in (
            lambda: reader.promote(versions[1], instead_of=versions[0], reason="better"),
            lambda: reader.roll_back(name, expected="1", reason="undo"),
            lambda: reader.challenge(versions[1]),
            lambda: reader.register(ModelVersion(name, "", export_digest="1" * 64), export, run_id=""),
        ):
            with pytest.raises(LimnerError, match=r"does not let us do this[\s\S]*permission to write"):
                act()
    assert aliases(MlflowRegistry(server), name) == {"champion": "1"}
    assert len(MlflowRegistry(server).history(name)) == 1


def test_server_that_goes_away_before_the_move_moves_nothing(server, address, name, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    versions = create_versions(server, 2, name)
    MlflowRegistry(server).promote(versions[0], instead_of=None, reason="first")
    with (
        proxy(address, die_on="registered-models/alias") as failing,
        pytest.raises(LimnerError, match=r"cannot be used[\s\S]*Look at the server"),
    ):
        MlflowRegistry(MlflowServer(failing)).promote(versions[1], instead_of=versions[0], reason="better")
    assert aliases(MlflowRegistry(server), name) == {"champion": "1"}
    assert len(MlflowRegistry(server).history(name)) == 1


def test_server_that_goes_away_after_the_move_is_told_and_caught_up_with(server, address, name, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    versions = create_versions(server, 3, name)
    MlflowRegistry(server).promote(versions[0], instead_of=None, reason="first")
    with (
        proxy(address, die_on="registered-models/set-tag") as failing,
        pytest.raises(LimnerError, match=r"is version 2 now, but this is not written down yet"),
    ):
        MlflowRegistry(MlflowServer(failing), "run-7").promote(versions[1], instead_of=versions[0], reason="better")
    from limner.adapters import mlflow_history

    monkeypatch.setattr(mlflow_history, "STALE_SECONDS", 0.5)  # the lock could not be given back
    time.sleep(1)
    MlflowRegistry(server).promote(versions[2], instead_of=versions[1], reason="better still")
    history = MlflowRegistry(server).history(name)
    assert [(entry.version, entry.who == "Kubeflow run run-7") for entry in history[1:]] == [("2", True), ("3", False)]


def test_alias_that_does_not_exist_is_told_in_words(server, name, tmp_path: Path):
    create_versions(server, 1, name)
    with pytest.raises(LimnerError, match=f"has no models:/{name}@champion"):
        MlflowRegistry(server).fetch(f"models:/{name}@champion", tmp_path)
