"""TrainJobs submitted and watched, against a small server that speaks the few routes of the Kubernetes API."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from limner.adapters.kubernetes_jobs import KubernetesJobs, Patience
from limner.errors import LimnerError
from limner.train_job import ATTEMPT, Nodes, train_job

JOBS = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/team-a/trainjobs"
PODS = "/api/v1/namespaces/team-a/pods"
FAST = Patience(between_looks=0.01, server_down=0.5, not_starting=0.2)
Json = dict[str, Any]

# The client builds its connection pool with what urllib3 has deprecated.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:kubernetes.*", "ignore::DeprecationWarning:urllib3.*"
)


class Server:
    """An API server that keeps TrainJobs. `looks` are called one by one, at each GET of a job, and may change it."""

    def __init__(self) -> None:
        self.jobs: dict[str, Json] = {}
        self.pods: list[Json] = []
        self.looks: list[Callable[[Json], None]] = []
        self.said: list[tuple[str, str]] = []
        self.refusals: dict[str, tuple[int, str]] = {}

    def answer(self, verb: str, path: str, body: Json) -> tuple[int, str]:
        self.said.append((verb, path))
        if refusal := self.refusals.get(f"{verb} {path.rpartition('/')[2]}") or self.refusals.get(verb):
            return refusal
        if path.startswith(PODS):
            assert "labelSelector=jobset.sigs.k8s.io%2Fjobset-name%3D" in path
            return 200, json.dumps({"items": self.pods})
        path, _, query = path.partition("?")
        name = path.removeprefix(JOBS).strip("/")
        if verb == "POST":
            name = body["metadata"]["name"]
            if name in self.jobs:
                return 409, status(f'trainjobs.trainer.kubeflow.org "{name}" already exists', name=name)
            self.jobs[name] = body
            return 201, json.dumps(body)
        if name not in self.jobs:
            return 404, status(f'trainjobs.trainer.kubeflow.org "{name}" not found', name=name)
        if verb == "DELETE":
            # Else a JobSet outlives its TrainJob, and a new job of the name takes its result for its own.
            assert "propagationPolicy=Foreground" in query
            return 200, json.dumps(self.jobs.pop(name))
        if self.looks:
            self.looks.pop(0)(self.jobs[name])
        return 200, json.dumps(self.jobs[name])


def status(message: str, *, name: str = "", kind: str = "trainjobs") -> str:
    return json.dumps({"kind": "Status", "message": message, "details": {"name": name, "kind": kind}})


def becomes(kind: str, **more: str) -> Callable[[Json], None]:
    def change(job: Json) -> None:
        job["status"] = {"conditions": [{"type": kind, "status": "True", **more}]}

    return change


def nothing(job: Json) -> None:
    del job


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            code, text = state.answer(self.command, self.path, body)
            self.send_response(code)
            self.send_header("Content-Type", "application/json" if text.startswith("{") else "text/plain")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_DELETE = _do

        def log_message(self, *words: object) -> None:
            del words

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    config = {
        "apiVersion": "v1", "kind": "Config", "current-context": "test", "users": [{"name": "me", "user": {}}],
        "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{http.server_port}"}}],
        "contexts": [{"name": "test", "context": {"cluster": "here", "user": "me", "namespace": "team-a"}}],
    }  # fmt: skip
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def jobs(told: list[str]) -> KubernetesJobs:
    return KubernetesJobs(patience=FAST, notice=told.append)


def manifest(*, run: str = "run-1", count: int = 2) -> Json:
    nodes = Nodes("limner@sha256:1", count, 1, "1", "1Gi", "0", "s3://bucket/runs")
    return train_job("{}", model="toy", key="abc", dataset="d", nodes=nodes, kubeflow_run=run)


NAME = "limner-toy-abc"


def test_a_job_is_submitted_and_watched_to_its_end(server: Server, jobs: KubernetesJobs, told: list[str]) -> None:
    server.looks = [nothing, nothing, becomes("Complete", message="3 nodes are done")]
    jobs.finish(manifest())
    assert server.jobs[NAME]["spec"] == manifest()["spec"]
    assert [verb for verb, path in server.said if path.startswith(JOBS)] == ["POST", "GET", "GET", "GET"]
    assert told == [
        f"has submitted the TrainJob {NAME} in team-a",
        f"TrainJob {NAME} is complete. 3 nodes are done",
    ]


def test_a_retried_step_goes_on_watching_the_same_job(server: Server, jobs: KubernetesJobs, told: list[str]) -> None:
    server.jobs[NAME] = manifest(count=4)
    server.looks = [nothing, nothing, becomes("Complete")]
    jobs.finish(manifest())
    assert server.jobs[NAME]["spec"]["trainer"]["numNodes"] == 4
    assert "DELETE" not in [verb for verb, _ in server.said]
    assert "takes up" in told[0]
    assert "keeps its own nodes" in told[1]


def test_what_this_pipeline_run_has_finished_is_not_done_again(server: Server, jobs: KubernetesJobs) -> None:
    server.jobs[NAME] = manifest()
    becomes("Complete")(server.jobs[NAME])
    jobs.finish(manifest())
    assert "DELETE" not in [verb for verb, _ in server.said]


@pytest.mark.parametrize("kind", ["Complete", "Failed"])
def test_a_job_that_an_earlier_run_has_ended_is_submitted_anew(server: Server, jobs: KubernetesJobs, kind: str) -> None:
    server.jobs[NAME] = manifest(run="run-0")
    becomes(kind)(server.jobs[NAME])
    server.looks = [nothing, nothing, becomes("Complete")]
    jobs.finish(manifest())
    assert [verb for verb, path in server.said if path.startswith(JOBS)][:4] == ["POST", "GET", "DELETE", "POST"]
    assert server.jobs[NAME]["metadata"]["annotations"][ATTEMPT] == "run-1"


def test_a_job_that_is_being_deleted_is_waited_for(server: Server, jobs: KubernetesJobs) -> None:
    server.jobs[NAME] = manifest()
    server.jobs[NAME]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    server.looks = [nothing, lambda job: server.jobs.pop(NAME) and None, nothing, becomes("Complete")]
    jobs.finish(manifest())
    assert "DELETE" not in [verb for verb, _ in server.said]


def test_a_job_that_does_not_go_away_is_told_of(server: Server, jobs: KubernetesJobs) -> None:
    server.jobs[NAME] = manifest()
    server.jobs[NAME]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    with pytest.raises(LimnerError, match=f"(?s)does not go away.*kubectl describe trainjob {NAME} -n team-a"):
        jobs.finish(manifest())


def test_a_failure_says_why_and_where_to_look(server: Server, jobs: KubernetesJobs) -> None:
    server.looks = [nothing, becomes("Failed", reason="JobsFailed", message="jobset failed due to one or more job")]
    with pytest.raises(LimnerError, match=f"(?s){NAME} has failed.*JobsFailed: jobset failed.*kubectl logs -n team-a"):
        jobs.finish(manifest())


def test_a_missing_runtime_is_told_of(server: Server, jobs: KubernetesJobs) -> None:
    server.looks = [becomes("Failed", reason="TrainingRuntimeNotSupported", message="torch-distributed not found")]
    with pytest.raises(LimnerError, match=r"(?s)no training runtime.*kubectl get clustertrainingruntimes"):
        jobs.finish(manifest())


@pytest.mark.parametrize(
    ("code", "body", "said"),
    [
        (404, "404 page not found\n", "Install Kubeflow Trainer"),
        (404, status('namespaces "team-a" not found', name="team-a", kind="namespaces"), "Create that namespace"),
        (403, status('trainjobs is forbidden: User "x" cannot create'), "kubectl apply -k deploy/train-jobs -n team-a"),
        (401, status("Unauthorized"), "token is not accepted"),
        (422, status("spec.trainer.numProcPerNode: Invalid value"), "v2.0 and later"),
        (500, status("failed calling webhook"), "webhook"),
    ],
)
def test_a_refusal_says_what_to_do(server: Server, jobs: KubernetesJobs, code: int, body: str, said: str) -> None:
    server.refusals["POST"] = code, body
    with pytest.raises(LimnerError, match=re.escape(said)) as caught:
        jobs.finish(manifest())
    assert caught.value.why, "what the server said"


def test_a_job_that_somebody_deletes_is_an_error(server: Server, jobs: KubernetesJobs) -> None:
    server.looks = [lambda job: server.jobs.clear()]
    with pytest.raises(LimnerError, match="has been deleted while it was watched"):
        jobs.finish(manifest())


def test_a_server_that_is_away_for_a_moment_is_waited_for(server: Server, jobs: KubernetesJobs) -> None:
    def away(job: Json) -> None:
        server.refusals["GET"] = 503, status("etcd is away")
        threading.Timer(0.2, server.refusals.clear).start()

    server.looks = [away, nothing, becomes("Complete")]
    jobs.finish(manifest())
    assert len([verb for verb, _ in server.said if verb == "GET"]) > 4


def test_a_server_that_stays_away_is_an_error(server: Server, jobs: KubernetesJobs) -> None:
    server.refusals["GET"] = 503, status("etcd is away")
    with pytest.raises(LimnerError, match=r"(?s)does not answer.*etcd is away.*takes up the same TrainJob"):
        jobs.finish(manifest())


def test_nodes_that_nobody_has_are_told_of_and_given_up(server: Server, jobs: KubernetesJobs, told: list[str]) -> None:
    condition = {"type": "PodScheduled", "reason": "Unschedulable", "message": "0/3 nodes: insufficient nvidia.com/gpu"}
    server.pods = [{"metadata": {"name": "node-0"}, "status": {"conditions": [condition]}}]
    with pytest.raises(LimnerError, match=r"(?s)does not get started.*insufficient nvidia\.com/gpu.*fewer nodes"):
        jobs.finish(manifest())
    assert len([line for line in told if "no node takes the pod node-0" in line]) == 1, "once, not at each look"
    assert not server.jobs, "it would start one day, watched by nobody"


def test_nodes_that_come_late_are_waited_for(server: Server, jobs: KubernetesJobs, told: list[str]) -> None:
    waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}
    server.pods = [{"metadata": {"name": "node-0"}, "status": {"containerStatuses": [waiting]}}]
    server.looks = [nothing, nothing, lambda job: server.pods.clear(), becomes("Complete")]
    jobs.finish(manifest())
    assert "ImagePullBackOff: no such image" in told[1]


def test_who_may_not_see_pods_can_train_all_the_same(server: Server, jobs: KubernetesJobs) -> None:
    selector = f"pods?labelSelector=jobset.sigs.k8s.io%2Fjobset-name%3D{NAME}"
    server.refusals[f"GET {selector}"] = 403, status("pods is forbidden")
    server.looks = [nothing, becomes("Complete")]
    jobs.finish(manifest())
    assert ("GET", f"/api/v1/namespaces/team-a/{selector}") in server.said


def test_a_signal_deletes_the_job(server: Server, jobs: KubernetesJobs, told: list[str]) -> None:
    server.looks = [nothing, lambda job: os.kill(os.getpid(), signal.SIGTERM)]
    with pytest.raises(SystemExit, match="143"):
        jobs.finish(manifest())
    assert not server.jobs
    assert "told to end" in told[-1]


def test_without_a_cluster_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "nothing"))
    with pytest.raises(LimnerError, match="There is no Kubernetes cluster"):
        KubernetesJobs().finish(manifest())
