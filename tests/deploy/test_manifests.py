"""The manifests in deploy/, offline: against the schemas of their kinds, and against each other."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from limner.train_job import MLFLOW_KEYS, S3_KEYS
from tests.deploy.manifests import SECRETS, Json, documents, faults, pods, secret_references
from tests.mlflow_stand import third_party_warnings

DEPLOY = Path(__file__).parents[2] / "deploy"
FOLDERS = sorted(path.parent for path in DEPLOY.glob("*/kustomization.yaml"))
MANIFESTS = sorted(path for folder in FOLDERS for path in folder.glob("*.yaml"))


def load(name: str) -> Json:
    (document,) = documents(DEPLOY / name)
    if document["kind"] == "StatefulSet":  # volumes of its own
        pod = document["spec"]["template"]["spec"]
        claims = {claim["metadata"]["name"] for claim in document["spec"]["volumeClaimTemplates"]}
        pod["volumes"] = [*pod["volumes"], *({"name": name, "emptyDir": {}} for name in sorted(claims))]
    return document


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.relative_to(DEPLOY)))
def test_a_manifest_has_no_faults(path: Path) -> None:
    assert len(documents(path)) == 1, "one object a file"
    assert faults(load(str(path.relative_to(DEPLOY)))) == []


def test_folders_are_one_deep_and_all_files_in_them_are_listed() -> None:
    assert {path.name for path in FOLDERS} == {"base", "kserve", "kserve-limner", "recurring", "train-jobs"}
    for folder in FOLDERS:
        (kustomization,) = documents(folder / "kustomization.yaml")
        there = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        assert sorted([*kustomization["resources"], "kustomization.yaml"]) == there


def test_no_manifest_names_a_namespace() -> None:
    """It is the one that they are applied to."""
    assert not [path.name for path in MANIFESTS if "namespace" in documents(path)[0].get("metadata", {})]


def test_a_kustomization_replaces_what_is_there() -> None:
    for folder in FOLDERS:
        (kustomization,) = documents(folder / "kustomization.yaml")
        text = "".join((folder / name).read_text(encoding="utf-8") for name in kustomization["resources"])
        for image in kustomization.get("images", ()):
            assert f"image: {image['name']}:" in text
        for patch in kustomization.get("patches", ()):
            for operation in documents_of(patch["patch"]):
                (target,) = [d for d in map(only, folder.glob("*.yaml")) if d["kind"] == patch["target"]["kind"]]
                assert target["metadata"]["name"] == patch["target"]["name"]
                assert at(target, operation["path"]) is not None


def documents_of(text: str) -> list[Json]:
    from ruamel.yaml import YAML

    return list(YAML(typ="safe").load(text))


def only(path: Path) -> Json:
    return documents(path)[0]


def at(document: Json, pointer: str) -> object:
    found: object = document
    for word in pointer.strip("/").split("/"):
        found = found[int(word)] if isinstance(found, list) else found[word]  # type: ignore[index]
    return found


@third_party_warnings
def test_mlflow_is_asked_by_its_names_in_the_cluster_and_no_other() -> None:
    from mlflow.server.security_utils import is_allowed_host_header

    (container,) = load("base/mlflow-deployment.yaml")["spec"]["template"]["spec"]["containers"]
    service = load("base/mlflow-service.yaml")
    env = {each["name"]: each.get("value", "team-a") for each in container["env"]}
    allowed = env["MLFLOW_SERVER_ALLOWED_HOSTS"].replace("$(NAMESPACE)", env["NAMESPACE"]).split(",")
    name, (port,) = service["metadata"]["name"], [each["port"] for each in service["spec"]["ports"]]
    for host in (name, f"{name}.team-a", f"{name}.team-a.svc", f"{name}.team-a.svc.cluster.local", "localhost"):
        assert is_allowed_host_header(allowed, f"{host}:{port}")
    assert is_allowed_host_header(allowed, "localhost:8000"), "kubectl port-forward"
    for host in (f"{name}.team-b:5000", "evil.example.org:5000", f"{name}.team-a.evil.example.org:5000"):
        assert not is_allowed_host_header(allowed, host)
    # $(NAMESPACE) is replaced by what is defined above it only.
    names = [each["name"] for each in container["env"]]
    assert names.index("NAMESPACE") < names.index("MLFLOW_SERVER_ALLOWED_HOSTS")


def test_services_and_policies_find_their_pods() -> None:
    labels = {}
    for name in ("base/mlflow-deployment.yaml", "base/postgresql-stateful-set.yaml"):
        document = load(name)
        labels[document["metadata"]["name"]] = document["spec"]["template"]["metadata"]["labels"]
        (container,) = document["spec"]["template"]["spec"]["containers"]
        service = load(name.partition("-")[0] + "-service.yaml")
        assert service["spec"]["selector"].items() <= labels[service["metadata"]["name"]].items()
        assert {p["targetPort"] for p in service["spec"]["ports"]} <= {p["name"] for p in container["ports"]}
        assert {p["port"] for p in service["spec"]["ports"]} == {p["containerPort"] for p in container["ports"]}
    policy = load("base/postgresql-network-policy.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= labels["limner-postgresql"].items()
    (rule,) = policy["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"].items() <= labels["limner-mlflow"].items()


def test_mlflow_and_its_database_know_each_other() -> None:
    pod = load("base/mlflow-deployment.yaml")["spec"]["template"]["spec"]
    database = load("base/postgresql-stateful-set.yaml")["spec"]["template"]["spec"]["containers"][0]
    env = {each["name"]: each.get("value") for each in database["env"]}
    uri = f"postgresql://{env['POSTGRES_USER']}@limner-postgresql:5432/{env['POSTGRES_DB']}"
    assert f"--backend-store-uri={uri}" in pod["containers"][0]["args"]
    words = " ".join(pod["initContainers"][0]["command"])
    assert f"--host limner-postgresql --username {env['POSTGRES_USER']} --dbname {env['POSTGRES_DB']}" in words


def test_the_examples_of_secrets_have_the_names_and_keys_that_are_asked_for() -> None:
    examples = {each["metadata"]["name"]: each for each in documents(DEPLOY / "secrets.example.yaml")}
    assert examples.keys() == SECRETS.keys()
    for name, example in examples.items():
        assert example["stringData"].keys() <= SECRETS[name]
        assert faults(example) == ["a secret is part of the manifests"], "it is good but for that"
    needed = {
        (each["name"], each["key"])
        for path in MANIFESTS
        for each in secret_references(documents(path)[0])
        if not each.get("optional")
    }
    assert not [(name, key) for name, key in needed if key not in examples[name]["stringData"]]
    text = (DEPLOY / "secrets.example.yaml").read_text(encoding="utf-8")
    assert len(re.findall("REPLACE-ME", text)) == 3, "what is secret is not filled in"


def test_a_train_job_takes_the_same_keys() -> None:
    assert set(S3_KEYS) | {"MLFLOW_S3_ENDPOINT_URL"} == SECRETS["limner-s3"], "the last is made of another"
    assert set(MLFLOW_KEYS) <= SECRETS["limner-mlflow"]


def test_the_pipelines_take_the_same_keys() -> None:
    placement = pytest.importorskip("pipelines.placement")
    assert set(placement.S3_KEYS) == SECRETS["limner-s3"]
    assert set(placement.MLFLOW_KEYS) == SECRETS["limner-mlflow"]


def container_of(document: Json) -> Json:
    return next(pods(document))["containers"][0]


Fault = tuple[str, Callable[[Json], object], str]
PLANTED: dict[str, Fault] = {
    "a misspelt field": (
        "base/mlflow-deployment.yaml",
        lambda d: container_of(d).update(livenessprobe=container_of(d).pop("livenessProbe")),
        "livenessprobe",
    ),
    "a wrong type": ("base/mlflow-deployment.yaml", lambda d: d["spec"].update(replicas="one"), "one"),
    "a latest tag": (
        "base/mlflow-deployment.yaml",
        lambda d: container_of(d).update(image="limner-python:latest"),
        "no fixed tag",
    ),
    "no tag": ("base/postgresql-stateful-set.yaml", lambda d: container_of(d).update(image="postgres"), "no fixed tag"),
    "a secret that is not ours": (
        "base/postgresql-stateful-set.yaml",
        lambda d: container_of(d)["env"][2]["valueFrom"]["secretKeyRef"].update(name="postgres"),
        "there is no secret 'postgres'",
    ),
    "a key that is not there": (
        "kserve-limner/inference-service.yaml",
        lambda d: container_of(d)["env"][1]["valueFrom"]["secretKeyRef"].update(key="MLFLOW_URI"),
        "has no key 'MLFLOW_URI'",
    ),
    "the wrong key": (
        "base/mlflow-deployment.yaml",
        lambda d: [
            each["valueFrom"]["secretKeyRef"].update(key="AWS_ACCESS_KEY_ID")
            for each in container_of(d)["env"]
            if each["name"] == "AWS_SECRET_ACCESS_KEY"
        ],
        "comes from the key AWS_ACCESS_KEY_ID",
    ),
    "root": (
        "base/mlflow-deployment.yaml",
        lambda d: next(pods(d))["securityContext"].update(runAsUser=0),
        "may run as root",
    ),
    "a container that may gain rights": (
        "recurring/cron-job.yaml",
        lambda d: container_of(d)["securityContext"].update(allowPrivilegeEscalation=True),
        "may gain rights",
    ),
    "no resources": ("base/mlflow-deployment.yaml", lambda d: container_of(d).pop("resources"), "what it needs"),
    "a mount of nothing": (
        "recurring/cron-job.yaml",
        lambda d: container_of(d)["volumeMounts"][0].update(name="paramters"),
        "no volume",
    ),
    "a probe of another port": (
        "base/mlflow-deployment.yaml",
        lambda d: container_of(d)["readinessProbe"]["httpGet"].update(port="htttp"),
        "that there is not",
    ),
    "a selector that finds nothing": (
        "base/mlflow-deployment.yaml",
        lambda d: d["spec"]["selector"]["matchLabels"].update({"app.kubernetes.io/name": "mlflow"}),
        "does not find its own pods",
    ),
    "a misspelt field of KServe": (
        "kserve/inference-service.yaml",
        lambda d: d["spec"]["predictor"]["model"].update(storageURI="s3://bucket/x"),
        "storageURI",
    ),
    "a wrong type of KServe": (
        "kserve/inference-service.yaml",
        lambda d: d["spec"]["predictor"].update(minReplicas="1"),
        "minReplicas",
    ),
    "a model and containers": (
        "kserve-limner/inference-service.yaml",
        lambda d: d["spec"]["predictor"].update(model={"modelFormat": {"name": "mlflow"}}),
        "valid under each of",
    ),
    "a misspelt field of a container in KServe": (
        "kserve-limner/inference-service.yaml",
        lambda d: container_of(d).update(arguments=[]),
        "arguments",
    ),
    "a misspelt field of kustomize": (
        "base/kustomization.yaml",
        lambda d: d.update(ressources=d.pop("resources")),
        "ressources",
    ),
}


@pytest.mark.parametrize(("name", "plant", "said"), PLANTED.values(), ids=PLANTED.keys())
def test_a_planted_fault_is_found(name: str, plant: Callable[[Json], object], said: str) -> None:
    document = copy.deepcopy(load(name))
    plant(document)
    assert [fault for fault in faults(document) if said in fault], faults(document)
