"""Jobs on a Kubernetes cluster: submitted once, watched to their end. The client is imported where it is used."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from limner.errors import LimnerError
from limner.interruption import StopRequests
from limner.ports import Notice, nobody
from limner.train_job import API_GROUP, API_VERSION, ATTEMPT, PLURAL

Json = dict[str, Any]
NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
REQUEST_SECONDS = 30
ROLE = "kubectl apply -k deploy/train-jobs -n {namespace}"
NOT_STARTING = (
    "ImagePullBackOff",
    "ErrImagePull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
)
"""Why a container waits that somebody has to do something about."""


@dataclass(frozen=True)
class Patience:
    """How long a job is waited for, in seconds."""

    between_looks: float = 10.0
    server_down: float = 600.0
    """With no answer from the API server."""
    not_starting: float = 1800.0
    """With a pod that finds no node, or whose container does not start; a cluster may add nodes meanwhile."""


@dataclass(frozen=True)
class KubernetesJobs:
    """TrainJobs in one namespace; empty: this pod's own, or the one that kubectl would use."""

    namespace: str = ""
    patience: Patience = Patience()
    notice: Notice = nobody
    sleep: Callable[[float], None] = time.sleep

    def finish(self, manifest: Mapping[str, Any]) -> None:
        """Submit a TrainJob, or take up the one of its name, and wait until it is complete.

        One that failed, or that an earlier pipeline run has finished, is submitted anew. A SIGTERM deletes the job.
        Raises LimnerError where it cannot be submitted, fails, or does not get started.
        """
        api = _Cluster(self.namespace)
        name = str(manifest["metadata"]["name"])
        # A signal must not come between creating the job and watching it.
        with StopRequests() as stop:
            try:
                self._submit(api, manifest, stop)
                self._watch(api, name, stop)
            except (SystemExit, KeyboardInterrupt):
                self.notice(f"deletes the TrainJob {name}: this step was told to end")
                with suppress(LimnerError, _NoAnswerError):
                    api.delete(name)
                raise

    def _submit(self, api: _Cluster, manifest: Mapping[str, Any], stop: StopRequests) -> None:
        name = str(manifest["metadata"]["name"])
        deadline = time.monotonic() + self.patience.server_down
        while not api.create(manifest):
            with suppress(_NoAnswerError):
                there = api.get(name)
                if there is not None and _is_ours(there, manifest):
                    self.notice(f"takes up the TrainJob {name}, which is there already")
                    if _differs(there, manifest):
                        self.notice(f"{name} keeps its own nodes and image, which are not those asked for now")
                    return
                if there is not None and "deletionTimestamp" not in there["metadata"]:
                    api.delete(name)
            if time.monotonic() > deadline:
                raise LimnerError(
                    f"An earlier TrainJob {name} does not go away.",
                    fix=f"See what holds it: kubectl describe trainjob {name} -n {api.namespace}",
                )
            self._pause(stop)
        self.notice(f"has submitted the TrainJob {name} in {api.namespace}")

    def _watch(self, api: _Cluster, name: str, stop: StopRequests) -> None:
        answered, stuck_since, told = time.monotonic(), 0.0, ""
        while True:
            stop.stop_if_asked()
            try:
                if self._has_finished(api, name):
                    return
                answered = time.monotonic()
            except _NoAnswerError as error:
                if time.monotonic() - answered > self.patience.server_down:
                    raise _unreachable(str(error)) from error
                self._pause(stop)
                continue
            trouble = next(filter(None, map(_trouble, api.pods(name))), "")
            if trouble and trouble != told:
                self.notice(f"TrainJob {name} waits: {trouble}")
            told = trouble
            stuck_since = (stuck_since or time.monotonic()) if trouble else 0.0
            if trouble and time.monotonic() - stuck_since > self.patience.not_starting:
                with suppress(_NoAnswerError):
                    api.delete(name)
                raise _stuck(name, trouble)
            self._pause(stop)

    def _has_finished(self, api: _Cluster, name: str) -> bool:
        """Raises LimnerError where it has failed, or is there no more."""
        job = api.get(name)
        if job is None:
            raise LimnerError(
                f"The TrainJob {name} has been deleted while it was watched.",
                fix="Start the step again: training goes on from the newest checkpoint.",
            )
        if failed := _condition(job, "Failed"):
            raise _failure(name, failed, namespace=api.namespace)
        done = _condition(job, "Complete")
        if done:
            self.notice(f"TrainJob {name} is complete. {done.get('message', '')}".rstrip())
        return done is not None

    def _pause(self, stop: StopRequests) -> None:
        left = self.patience.between_looks
        while left > 0 and not stop.asked:  # a handled signal does not end Python's sleep
            self.sleep(min(left, 1.0))
            left -= 1.0
        stop.stop_if_asked()


class _NoAnswerError(Exception):
    """The API server was not reached, or says that it cannot just now."""


class _Cluster:
    """The few requests that we make. A refusal that waiting does not mend is a LimnerError."""

    def __init__(self, namespace: str) -> None:
        try:
            from kubernetes import client, config
            from kubernetes.config import ConfigException
        except ModuleNotFoundError as error:
            raise LimnerError(
                "The Kubernetes client is not installed.",
                why="TrainJobs are submitted with it.",
                fix="pip install 'limner[pipeline]'",
            ) from error
        configuration = client.Configuration()
        try:
            try:
                config.load_incluster_config(configuration)
                found = NAMESPACE_FILE.read_text(encoding="utf-8").strip()
            except ConfigException:
                config.load_kube_config(client_configuration=configuration)
                found = config.list_kube_config_contexts()[1]["context"].get("namespace", "")
        except (ConfigException, OSError) as error:
            raise LimnerError(
                "There is no Kubernetes cluster to submit the TrainJob to.",
                why=str(error).splitlines()[0],
                fix="Run this step in a pod of the cluster, or name a cluster in ~/.kube/config.",
            ) from error
        self.namespace = namespace or found or "default"
        configuration.retries = False  # we wait between attempts ourselves
        connection = client.ApiClient(configuration)
        self._custom, self._core = client.CustomObjectsApi(connection), client.CoreV1Api(connection)
        self._where = (API_GROUP, API_VERSION, self.namespace, PLURAL)

    def create(self, manifest: Mapping[str, Any]) -> bool:
        """Whether the job has been created; False where there is one of that name."""
        created = self._ask("create", self._custom.create_namespaced_custom_object, *self._where, dict(manifest))
        return created is not None

    def get(self, name: str) -> Json | None:
        """The job, or None where there is none."""
        return cast("Json | None", self._ask("get", self._custom.get_namespaced_custom_object, *self._where, name))

    def delete(self, name: str) -> None:
        """Delete the job with its pods. One that is gone already is no error.

        It stays until what it made is gone: a new job of its name would take that for its own, with its result.
        """
        delete = self._custom.delete_namespaced_custom_object
        self._ask("delete", delete, *self._where, name, propagation_policy="Foreground")

    def pods(self, name: str) -> Iterable[Json]:
        """The job's pods; none where we may not see them or the server does not answer: they only explain a delay."""
        selector = f"jobset.sigs.k8s.io/jobset-name={name}"
        try:
            answer = self._ask(
                "list", self._core.list_namespaced_pod, self.namespace, label_selector=selector, _preload_content=False
            )
        except (LimnerError, _NoAnswerError):
            return ()
        return cast("list[Json]", json.loads(answer.data)["items"]) if answer is not None else ()

    def _ask(self, verb: str, request: Callable[..., Any], *words: Any, **options: Any) -> Any:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            return request(*words, **options, _request_timeout=REQUEST_SECONDS)
        except HTTPError as error:
            if verb == "create":
                raise _unreachable(str(error)) from error
            raise _NoAnswerError(str(error)) from error
        except ApiException as error:
            said = _said(error)
            if error.status == 409 or (error.status == 404 and _is_about_an_object(error, verb)):
                return None
            if error.status in (429, 500, 502, 503, 504) and verb != "create":
                raise _NoAnswerError(said) from error
            raise _refusal(error.status, said, verb=verb, namespace=self.namespace) from error


def _is_ours(job: Json, manifest: Mapping[str, Any]) -> bool:
    """Whether the job that is there will do: it still runs, or it has finished for this very pipeline run."""
    if "deletionTimestamp" in job["metadata"] or _condition(job, "Failed"):
        return False
    if not _condition(job, "Complete"):
        return True
    mine = manifest["metadata"]["annotations"][ATTEMPT]
    return bool(mine) and job["metadata"].get("annotations", {}).get(ATTEMPT) == mine


def _differs(job: Json, manifest: Mapping[str, Any]) -> bool:
    there, asked = job.get("spec", {}).get("trainer", {}), manifest["spec"]["trainer"]
    return any(there.get(field) != asked[field] for field in ("image", "numNodes", "numProcPerNode"))


def _condition(job: Json, kind: str) -> Json | None:
    conditions = job.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == kind and each["status"] == "True"), None)


def _trouble(pod: Json) -> str:
    """Why a pod does not get started, in a sentence; empty where it does."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    for condition in status.get("conditions", ()):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return f"no node takes the pod {name}: {condition.get('message', '')}"
    for container in status.get("containerStatuses", ()):
        waiting = container.get("state", {}).get("waiting", {})
        if waiting.get("reason") in NOT_STARTING:
            return f"pod {name}: {waiting['reason']}: {waiting.get('message', '')}"
    return ""


def _stuck(name: str, trouble: str) -> LimnerError:
    return LimnerError(
        f"The TrainJob {name} does not get started; it has been deleted.",
        why=trouble,
        fix="Ask for what the cluster has: fewer nodes or GPUs, less cpu or memory, an image and secrets that exist.",
    )


def _failure(name: str, condition: Json, *, namespace: str) -> LimnerError:
    reason = f"{condition.get('reason', '')}: {condition.get('message', '')}".strip(": ")
    if condition.get("reason") == "TrainingRuntimeNotSupported":
        return LimnerError(
            f"The cluster has no training runtime that the TrainJob {name} asks for.",
            why=reason,
            fix="List them: kubectl get clustertrainingruntimes; then name one of them.",
        )
    return LimnerError(
        f"The TrainJob {name} has failed.",
        why=reason,
        fix=f"See what its nodes said: kubectl logs -n {namespace} -l jobset.sigs.k8s.io/jobset-name={name} --prefix. "
        "Put that right and start the step again: it goes on from the newest checkpoint.",
    )


def _refusal(status: int, said: str, *, verb: str, namespace: str) -> LimnerError:
    problem = f"The cluster does not {verb} the TrainJob in the namespace {namespace}."
    match status:
        case 404:
            fix = (
                "Create that namespace, or name another one."
                if "namespaces" in said
                else "Install Kubeflow Trainer: https://www.kubeflow.org/docs/components/trainer/operator-guides/installation"
            )
        case 401:
            fix = "The pod's token is not accepted: see to its service account, or log in again with kubectl."
        case 403:
            fix = f"Give this pod's service account the role for TrainJobs: {ROLE.format(namespace=namespace)}"
        case 400 | 422:
            fix = "The cluster's Kubeflow Trainer wants other fields: see which version it is; v2.0 and later will do."
        case _:
            fix = "See to the API server or to the webhook it speaks of, then start the step again."
    return LimnerError(problem, why=said, fix=fix)


def _unreachable(why: str) -> LimnerError:
    return LimnerError(
        "The Kubernetes API server does not answer.",
        why=why,
        fix="See to it, then start the step again: it takes up the same TrainJob.",
    )


def _is_about_an_object(error: Any, verb: str) -> bool:
    """Whether a 404 means the job itself: a server that does not know TrainJobs at all answers without its name."""
    try:
        details = json.loads(error.body).get("details") or {}
    except (ValueError, TypeError, AttributeError):
        return False
    return verb in ("get", "delete") and details.get("kind") == PLURAL and bool(details.get("name"))


def _said(error: Any) -> str:
    try:
        return str(json.loads(error.body)["message"])
    except (ValueError, TypeError, KeyError):
        return f"{error.status} {str(error.body or error.reason).strip()}"
