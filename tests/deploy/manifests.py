"""What has to be true of a manifest: the checks, apart from the manifests that they are made on."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from ruamel.yaml import YAML

Json = dict[str, Any]
SCHEMAS = Path(__file__).parents[1] / "schemas"
OURS = {"TrainJob": "train_job", "InferenceService": "inference_service", "Kustomization": "kustomization"}
SECRETS = {
    "limner-s3": {
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
        "MLFLOW_S3_ENDPOINT_URL",
    },
    "limner-mlflow": {
        *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
        "MLFLOW_EXPERIMENT_NAME",
    },
    "limner-postgresql": {"password"},
}
"""The secrets and their keys: the contract between deploy/, the pipelines and docs."""
IDENTITY = {"MLFLOW_S3_ENDPOINT_URL": "AWS_ENDPOINT_URL", "POSTGRES_PASSWORD": "password", "PGPASSWORD": "password"}
"""Environment variables that are not called like their key."""


def documents(path: Path) -> list[Json]:
    return [each for each in YAML(typ="safe").load_all(path.read_text(encoding="utf-8")) if each]


def faults(document: Json) -> list[str]:
    """All that is wrong with a manifest, in words; nothing for a good one."""
    return [*_of_schema(document), *(fault for pod in pods(document) for fault in _of_pod(pod)), *_of_names(document)]


def schema_faults(document: Json, name: str) -> list[str]:
    schema = json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def pods(document: Any) -> Iterator[Json]:
    """All pod specs inside."""
    if isinstance(document, dict):
        if "containers" in document:
            yield document
        for value in document.values():
            yield from pods(value)


def secret_references(document: Any) -> Iterator[Json]:
    """All environment variables that come from secrets: {"variable", "name", "key", "optional"}."""
    if isinstance(document, dict):
        if "valueFrom" in document and "secretKeyRef" in document["valueFrom"]:
            yield {"variable": document["name"], **document["valueFrom"]["secretKeyRef"]}
        for value in document.values():
            yield from secret_references(value)
    elif isinstance(document, list):
        for value in document:
            yield from secret_references(value)


def _of_schema(document: Json) -> list[str]:
    if schema := OURS.get(document.get("kind", "")):
        found = schema_faults(document, schema)
        if document["kind"] != "InferenceService":
            return found
        containers = [{"name": "x", **each} for spec in pods(document) for each in spec["containers"]]
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": containers}}
        return found + (_of_kubernetes(pod) if containers else [])
    return _of_kubernetes(document)


def _of_kubernetes(document: Json) -> list[str]:
    try:
        kubernetes_validate.validate(copy.deepcopy(document), kubernetes_validate.latest_version(), strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [f"{'.'.join(map(str, getattr(error, 'path', ())))}: {error.message}"]
    return []


def _of_pod(pod: Json) -> list[str]:
    found = []
    of_pod = pod.get("securityContext", {})
    volumes = {volume["name"] for volume in pod.get("volumes", ())}
    for container in [*pod.get("initContainers", ()), *pod["containers"]]:
        name, own = container.get("name", "?"), container.get("securityContext", {})
        tag = container.get("image", "").rpartition("/")[2].partition(":")[2]
        if "@sha256:" not in container.get("image", "") and tag in ("", "latest"):
            found.append(f"{name}: image {container.get('image')!r} has no fixed tag")
        if not own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) or own.get("runAsUser", of_pod.get("runAsUser")) in (
            0,
            None,
        ):
            found.append(f"{name}: may run as root")
        if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
            found.append(f"{name}: may gain rights")
        if own.get("seccompProfile", of_pod.get("seccompProfile", {})).get("type") != "RuntimeDefault":
            found.append(f"{name}: has no seccomp profile")
        resources = container.get("resources", {})
        if not {"cpu", "memory"} <= resources.get("requests", {}).keys() or "memory" not in resources.get("limits", {}):
            found.append(f"{name}: says not what it needs")
        if len({each["name"] for each in container.get("env", ())}) < len(container.get("env", ())):
            found.append(f"{name}: sets a variable twice")
        ports = {port.get("name"): port["containerPort"] for port in container.get("ports", ())}
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container.get(kind, {}).get("httpGet", {}).get("port")
            if asked is not None and asked not in {*ports, *ports.values()}:
                found.append(f"{name}: {kind} asks a port {asked!r} that there is not")
        found += [
            f"{name}: mounts {mount['name']!r}, which is no volume"
            for mount in container.get("volumeMounts", ())
            if mount["name"] not in volumes | pod.get("_claims", set())
        ]
    return found


def _of_names(document: Json) -> list[str]:
    found = []
    for each in secret_references(document):
        if each["name"] not in SECRETS:
            found.append(f"{each['variable']}: there is no secret {each['name']!r}")
        elif each["key"] not in SECRETS[each["name"]]:
            found.append(f"{each['variable']}: the secret {each['name']} has no key {each['key']!r}")
        elif each["key"] != IDENTITY.get(each["variable"], each["variable"]):
            found.append(f"{each['variable']}: comes from the key {each['key']}")
    if document.get("kind") == "Secret":
        found.append("a secret is part of the manifests")
    if document.get("kind") in ("Deployment", "StatefulSet"):
        labels = document["spec"]["template"]["metadata"]["labels"]
        if not document["spec"]["selector"]["matchLabels"].items() <= labels.items():
            found.append("the selector does not find its own pods")
    return found
