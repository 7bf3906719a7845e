"""The pipeline as containers of the real image, with a real S3 server, a real MLflow on PostgreSQL, and nothing else.

The data comes from a DVC remote by its md5, after a real `dvc push`; checkpoints and artifacts go to S3. Containers
share the host's network, to reach those servers on loopback, but can look up no name and have a proxy that is not
there: whatever wanted to fetch anything else would fail.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from ruamel.yaml import YAML

from limner.adapters import connect, find_server
from limner.lineage import read_lineage
from limner.steps import open_catalog
from limner.steps.evaluate import evaluate
from limner.steps.train import train
from tests import postgres_stand, weed_stand
from tests.containers.docker_runner import steps_as_containers
from tests.containers.engine import COMMIT, Image

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(4000),
    # kfp's local runner knows no resources, and says so of every task.
    pytest.mark.filterwarnings("ignore:.*no effect in the current local runner:UserWarning"),
]

MODEL = "tiny-gan"
NOWHERE = "http://127.0.0.1:9"
NO_OTHER_NETWORK = {"HTTP_PROXY": NOWHERE, "HTTPS_PROXY": NOWHERE, "ALL_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"}
NO_OTHER_NETWORK |= {name.lower(): value for name, value in NO_OTHER_NETWORK.items()}
NO_NAMES = ["127.0.0.1"]
"""Name servers of the containers: nobody listens there."""


@dataclass(frozen=True)
class Servers:
    """What a cluster has beside Kubeflow."""

    bucket: str
    mlflow: str
    environment: Mapping[str, str]
    """Leads a step to them, and nowhere else."""


@contextmanager
def surroundings(values: Mapping[str, str]) -> Iterator[None]:
    """The environment of this process has these values, too."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder, bucket = tmp_path_factory.mktemp("servers"), "limner"
    with weed_stand.server(folder / "s3") as weed, surroundings(weed.environment), postgres_stand.cluster() as database:
        boto3.Session().client("s3").create_bucket(Bucket=bucket)
        with postgres_stand.mlflow_server(
            folder, backend=database, artifacts=f"s3://{bucket}/mlflow", environment=weed.environment
        ) as mlflow:
            leads = {**weed.environment, "MLFLOW_TRACKING_URI": mlflow, "MLFLOW_S3_ENDPOINT_URL": weed.address}
            leads |= {
                "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")
            }  # else sums come out a little different
            yield Servers(bucket, mlflow, leads | NO_OTHER_NETWORK)


@pytest.fixture(scope="module")
def repository(servers: Servers, project: Path, tiny_params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the tiny catalog, whose prepared data is in the DVC remote."""
    root = tmp_path_factory.mktemp("repository")
    shutil.copytree(project / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(project / "data" / "raw", root / "data" / "raw")
    shutil.copy(tiny_params, root / "params.yaml")
    shutil.copy(project / "dvc.yaml", root / "dvc.yaml")

    def dvc(*words: str) -> None:
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        # Its S3 library takes an empty file of settings for a missing one.
        environment = {name: value for name, value in os.environ.items() if not name.endswith("_FILE")}
        environment |= {"PATH": path, "DVC_NO_ANALYTICS": "true"}
        said = subprocess.run(
            ["dvc", *words], cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=300
        )
        assert said.returncode == 0, said.stdout + said.stderr

    dvc("init", "--quiet", "--no-scm")
    dvc("remote", "add", "--default", "storage", f"s3://{servers.bucket}/dvc")
    dvc("remote", "modify", "storage", "endpointurl", servers.environment["AWS_ENDPOINT_URL"])
    dvc("repro", "prepare@tiny")
    dvc("push", "prepare@tiny")
    return root


@pytest.fixture(scope="module")
def run(image: Image, servers: Servers, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a pipeline run that has ended well."""
    from pipelines.placement import Placement
    from pipelines.train_and_promote import build

    lock = YAML(typ="safe").load((repository / "dvc.lock").read_text(encoding="utf-8"))
    (prepared,) = lock["stages"]["prepare@tiny"]["outs"]
    root = tmp_path_factory.mktemp("kubeflow")
    pipeline = build(Placement(image=image.name, retries=0, train_retries=0))
    with steps_as_containers(image.engine.host, root, environment=dict(servers.environment), dns=NO_NAMES):
        pipeline(
            model=MODEL,
            settings=open_catalog(repository / "params.yaml").to_json(MODEL),
            dataset_md5=prepared["md5"],
            remote=f"s3://{servers.bucket}/dvc",
            checkpoints=f"s3://{servers.bucket}/checkpoints",
            gpus=0,
        )
    (folder,) = (root / "outputs").iterdir()
    return folder


@pytest.fixture(scope="module")
def direct(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation after the steps were called as functions, in this process."""
    root, dataset = tmp_path_factory.mktemp("direct"), repository / "data" / "prepared" / "tiny"
    settings, ports = open_catalog(repository / "params.yaml").model(MODEL), connect(track=False, cache=root / "cache")
    train(settings, name=MODEL, dataset=dataset, output=root / "model", scratch=root / "scratch", ports=ports)
    evaluate(settings, name=MODEL, dataset=dataset, model=root / "model", output=root / "report", ports=ports)
    return root / "report"


def figures(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return document


def test_a_container_reaches_those_servers_and_can_look_up_no_name(image: Image, servers: Servers) -> None:
    """As the steps are run."""
    settings = tuple(word for name, value in servers.environment.items() for word in ("--env", f"{name}={value}"))
    arguments = ("--network=host", *(f"--dns={server}" for server in NO_NAMES), *settings)
    reach = "import os, urllib.request as r; print(r.urlopen(os.environ['MLFLOW_TRACKING_URI'] + '/health').status)"
    assert image.run("python", "-c", reach, arguments=arguments).strip() == "200"
    with pytest.raises(AssertionError, match="gaierror"):
        image.run("python", "-c", "import socket; socket.getaddrinfo('pypi.org', 443)", arguments=arguments)


def test_the_gate_lets_it_pass_and_no_step_is_missing(run: Path) -> None:
    from pipelines.local import verdict_of

    assert verdict_of(run) == "promote"
    done = {path.parent.name for path in run.rglob("executor_output.json")}
    assert done >= {"prepare", "train", "evaluate", "gate", "export", "promote"}


def test_the_figures_are_those_of_a_direct_call_of_the_steps(run: Path, direct: Path) -> None:
    (found,) = run.rglob("evaluate/evaluation/metrics.json")
    assert figures(found.parent) == figures(direct)


def test_the_data_is_that_of_the_repository(run: Path, repository: Path) -> None:
    (found,) = run.rglob("prepare/dataset/manifest.json")
    assert found.read_bytes() == (repository / "data" / "prepared" / "tiny" / "manifest.json").read_bytes()


def test_the_registry_has_the_champion_of_one_finished_run(run: Path, servers: Servers) -> None:
    client = find_server(servers.mlflow).client
    (version,) = client.search_model_versions(f"name = '{MODEL}'")
    champion = client.get_model_version_by_alias(MODEL, "champion")
    assert str(champion.version) == str(version.version) == "1"
    (experiment,) = client.search_experiments(filter_string="name = 'limner'")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert (tracked.info.status, tracked.info.run_id) == ("FINISHED", version.run_id)
    assert tracked.data.metrics


def test_everything_that_was_made_names_the_image_and_the_commit(run: Path, image: Image) -> None:
    records = {path.parent.parent.name: read_lineage(path.parent) for path in run.rglob("lineage.json")}
    assert records.keys() >= {"train", "evaluate", "export", "promote"}
    for step in ("train", "evaluate", "export", "promote"):
        assert records[step]["git_commit"] == COMMIT, step
        assert records[step]["git_dirty"] == "false", step


def test_artifacts_lie_in_the_bucket_and_checkpoints_no_more(run: Path, servers: Servers) -> None:
    with surroundings(servers.environment):
        pages = boto3.Session().client("s3").get_paginator("list_objects_v2").paginate(Bucket=servers.bucket)
        keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
    assert any(key.startswith("mlflow/") for key in keys)
    assert not [key for key in keys if key.startswith("checkpoints/")]


def test_no_container_is_left(run: Path, image: Image) -> None:
    assert not image.engine("ps", "--all", "--quiet", "--filter", f"ancestor={image.name}").strip()


def test_a_failing_step_fails_the_pipeline(image: Image, servers: Servers, repository: Path, tmp_path: Path) -> None:
    """Here data that the remote does not have."""
    from pipelines.placement import Placement
    from pipelines.train_and_promote import build

    pipeline = build(Placement(image=image.name, retries=0, train_retries=0))
    with (
        steps_as_containers(image.engine.host, tmp_path, environment=dict(servers.environment), dns=NO_NAMES),
        pytest.raises(RuntimeError, match="prepare"),
    ):
        pipeline(
            model=MODEL,
            settings=open_catalog(repository / "params.yaml").to_json(MODEL),
            dataset_md5=f"{'0' * 32}.dir",
            remote=f"s3://{servers.bucket}/dvc",
            gpus=0,
        )
