"""The part of Kubeflow Pipelines' API that the command uses, over HTTP: what it was asked, and plausible answers.

There is no cluster here, so this stands for its API server. The client is kfp's own.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RUN, SCHEDULE, EXPERIMENT = "run-1", "schedule-1", "experiment-1"


@dataclass
class Kubeflow:
    """Where it listens, and the bodies that were sent to each path."""

    address: str = ""
    asked: dict[str, list[Any]] = field(default_factory=dict)
    refuse: str = ""
    """A path that is answered with 403."""

    def answer(self, method: str, path: str) -> tuple[int, dict[str, Any]]:
        """What the server says."""
        if self.refuse and path.endswith(self.refuse):
            return 403, {"error": "this user may not create runs", "code": 7}
        experiment = {"experiment_id": EXPERIMENT, "display_name": "limner", "namespace": ""}
        match (method, path):
            case (_, "healthz"):
                return 200, {"multi_user": False}
            case ("GET", "experiments"):
                return 200, {"experiments": [experiment]}
            case ("POST", "experiments"):
                return 200, experiment
            case ("POST", "runs"):
                return 200, {"run_id": RUN, "display_name": "train", "state": "PENDING"}
            case ("POST", "recurringruns"):
                return 200, {"recurring_run_id": SCHEDULE, "display_name": "retrain"}
            case ("GET", wanted) if wanted == f"runs/{RUN}":
                tasks = [
                    {"display_name": "train", "state": "FAILED", "create_time": "2026-01-01T00:02:00Z",
                     "error": {"code": 1, "message": "OOMKilled"}},
                    {"display_name": "prepare", "state": "SUCCEEDED", "create_time": "2026-01-01T00:01:00Z"},
                ]  # fmt: skip
                return 200, {"run_id": RUN, "display_name": "train_and_promote tiny-gan", "state": "FAILED",
                             "run_details": {"task_details": tasks}}  # fmt: skip
        return 404, {"error": f"{path} not found", "code": 5}


@contextmanager
def server() -> Iterator[Kubeflow]:
    """A server that runs while the context lasts."""
    stand = Kubeflow()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = self.path.partition("?")[0].removeprefix("/apis/v2beta1/").removeprefix("/apis/v1beta1/")
            stand.asked.setdefault(f"{self.command} {path}", []).append(body)
            status, document = stand.answer(self.command, path)
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _do

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    stand.address = f"http://127.0.0.1:{listening.server_port}"
    try:
        yield stand
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()
