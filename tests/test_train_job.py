"""The manifest of a TrainJob, as a pure function."""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from limner.errors import LimnerError
from limner.train_job import ATTEMPT, Nodes, job_key, job_name, train_job
from tests.deploy.manifests import SECRETS, faults, schema_faults, secret_references

DIGEST, KEY = "d" * 64, "0123456789ab"
NODES = Nodes(
    image="registry.example.org/limner-python@sha256:" + "a" * 64,
    count=3,
    processes=2,
    cpu="8",
    memory="32Gi",
    gpus="2",
    place="s3://bucket/runs",
)


def job(settings: str = "{}", *, model: str = "digits-gan", nodes: Nodes = NODES, run: str = "run-1"):
    return train_job(settings, model=model, key=KEY, dataset=DIGEST, nodes=nodes, kubeflow_run=run)


def env(manifest) -> dict[str, str]:
    return {each["name"]: each["value"] for each in manifest["spec"]["trainer"]["env"] if "value" in each}


def test_it_is_what_the_published_schema_asks_for():
    assert faults(job()) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"numProcesses": 2}, "numProcesses"),
        ({"numNodes": "3"}, "numNodes"),
        ({"resourcesPerNode": {"limits": {"cpu": "many"}}}, "many"),
        ({"podTemplateOverrides": []}, "podTemplateOverrides"),
    ],
)
def test_a_planted_fault_is_found(change, said):
    broken = copy.deepcopy(job())
    broken["spec"]["trainer"].update(change)
    assert [fault for fault in schema_faults(broken, "train_job") if said in fault]


def test_every_node_runs_torchrun_and_trainer_says_who_the_others_are():
    trainer = job()["spec"]["trainer"]
    assert trainer["command"] == ["torchrun", "-m", "limner", "train-node"]
    assert trainer["args"] == ["digits-gan", "--place", "s3://bucket/runs", "--key", KEY, "--dataset", DIGEST]
    assert (trainer["numNodes"], trainer["numProcPerNode"]) == (3, 2)
    assert not [name for name in env(job()) if name.startswith("PET_")], "Trainer's webhook refuses them"


def test_resources_are_asked_for_in_full():
    asked = {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2"}
    assert job()["spec"]["trainer"]["resourcesPerNode"] == {"requests": asked, "limits": asked}
    without = job(nodes=replace(NODES, gpus="0"))["spec"]["trainer"]["resourcesPerNode"]
    assert without["limits"] == {"cpu": "8", "memory": "32Gi"}


def test_secrets_are_named_and_none_is_needed():
    found = list(secret_references(job(nodes=replace(NODES, s3_secret="limner-s3"))))
    assert {each["name"] for each in found} == {"limner-s3", "limner-mlflow"}
    assert all(each["optional"] for each in found)
    keys = {each["key"] for each in found if each["name"] == "limner-s3"}
    assert keys == SECRETS["limner-s3"] - {"MLFLOW_S3_ENDPOINT_URL"}, "the last is made of the address of S3"


def test_settings_arrive_as_they_are():
    settings = json.dumps({"models": {"a": {"note": "$(PATH) costs 5$ or $$"}}})
    sent = env(job(settings))["LIMNER_SETTINGS"]
    as_kubernetes_reads_it = re.sub(r"\$\$|\$\(\w+\)", lambda found: "$" if found[0] == "$$" else "REPLACED", sent)
    assert as_kubernetes_reads_it == settings


def test_the_same_training_has_the_same_name_and_another_one_another():
    key = job_key("{}", dataset=DIGEST, version="0.1.0")
    assert key == job_key("{}", dataset=DIGEST, version="0.1.0")
    others = [("{ }", DIGEST, "0.1.0"), ("{}", "e" * 64, "0.1.0"), ("{}", DIGEST, "0.2.0")]
    assert len({key, *(job_key(s, dataset=d, version=v) for s, d, v in others)}) == 4


def test_what_may_change_between_attempts_does_not_change_the_name():
    first, second = job(), job(nodes=replace(NODES, image="other@sha256:1", count=5), run="run-2")
    assert first["metadata"]["name"] == second["metadata"]["name"] == f"limner-digits-gan-{KEY}"
    assert second["metadata"]["annotations"] == {ATTEMPT: "run-2"}


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=300))
@example("a-very-long-name-" * 20)
def test_any_model_name_gives_a_good_name_and_label(model):
    name = job_name(model, KEY)
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", name)
    assert len(f"{name}-node-0-9999-abcde") <= 63, "the pods' names grow out of it"
    assert schema_faults(job(model=model), "train_job") == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": ""}, "no image"),
        ({"place": "/kfp-workspace"}, "all of them reach; '/kfp-workspace' is none"),
        ({"count": 0}, "0 is too few"),
        ({"processes": 0}, "0 is too few"),
        ({"processes": 4}, "4 processes on a node do not share 2 GPUs"),
    ],
)
def test_nodes_that_cannot_be_are_refused(change, said):
    with pytest.raises(LimnerError, match=said):
        job(nodes=replace(NODES, **change))
