"""What is sent to a cluster: arguments, runs, schedules; kfp's own client against a server that stands for Kubeflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from limner.errors import LimnerError
from limner.lineage import directory_md5
from limner.steps import open_catalog
from limner.steps.prepare import prepare
from pipelines.__main__ import app
from pipelines.arguments import CONTENTS, run_arguments
from tests import s3_stand
from tests.pipelines import kubeflow_stand
from tests.pipelines.local_runs import run

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")  # kfp's own client

IMAGE = f"registry.example.org/limner-python@sha256:{'0' * 64}"


@pytest.fixture
def kubeflow() -> Iterator[kubeflow_stand.Kubeflow]:
    with kubeflow_stand.server() as stand:
        yield stand


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with s3_stand.server() as address:
        yield address


def command(*words: str) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


# -- arguments --------------------------------------------------------------------------------------------------------


def arguments(tiny_params: Path, *words: str, pipeline: str = "train_and_promote", **more: Any) -> dict[str, Any]:
    return run_arguments(pipeline, "tiny-gan", params=tiny_params, overrides=(), trials=None, words=words, **more)


def test_settings_and_parameters_become_the_arguments_in_their_own_types(tiny_params: Path) -> None:
    found = arguments(
        tiny_params, "gpus=0", "cpu=8", "tolerations=[{key: gpu, operator: Exists}]", "node_selector={a: b}"
    )
    assert found["settings"] == open_catalog(tiny_params).to_json("tiny-gan")
    assert (found["gpus"], found["cpu"]) == (0, "8")
    assert found["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert found["node_selector"] == {"a": "b"}


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("gpu=2", "no parameter 'gpu'.*gpus"),
        ("gpus", "not of the form NAME=VALUE"),
        ("gpus=two", "gpus has to be of the kind Integer"),
        ("tolerations={", "not valid YAML"),
        ("node_selector=[]", "node_selector has to be of the kind Dict"),
    ],
)
def test_a_wrong_parameter_is_refused(tiny_params: Path, word: str, problem: str) -> None:
    with pytest.raises(LimnerError, match=f"(?s){problem}"):
        arguments(tiny_params, word)


def test_more_gpus_than_micro_batches_are_refused_before_a_pod_waits_for_them(tiny_params: Path) -> None:
    with pytest.raises(LimnerError, match=r"(?s)cannot be shared out among 2 processes.*micro_batch to 16"):
        arguments(tiny_params, "gpus=2")


def test_parameters_that_are_missing_are_named(tiny_params: Path) -> None:
    with pytest.raises(LimnerError, match="needs dataset_md5, remote"):
        arguments(tiny_params, pipeline="retrain")
    with pytest.raises(LimnerError, match="A sweep needs its trials"):
        arguments(tiny_params, pipeline="sweep")


# -- data -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(
    tiny_params: Path, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3_server: str
) -> str:
    """The current folder has a DVC repository whose dataset comes from files of this machine; the name of a bucket."""
    bucket = s3_stand.bucket(monkeypatch, s3_server)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(project / "tests" / "golden", tmp_path / "data" / "raw")
    document = YAML(typ="safe").load(tiny_params.read_text())
    _draw(tmp_path / "pictures")
    document["datasets"]["tiny"]["source"] = {"kind": "folder", "path": "pictures"}
    document["models"]["tiny-gan"]["method"]["conditional"] = False
    with (tmp_path / "params.yaml").open("w") as file:
        YAML().dump(document, file)
    prepare(open_catalog().dataset("tiny"), name="tiny", output=Path("data/prepared/tiny"))
    md5 = directory_md5(Path("data/prepared/tiny"))
    (tmp_path / "dvc.lock").write_text(json.dumps({"stages": {"prepare@tiny": {"outs": [{"md5": md5}]}}}))
    for words in (["init", "--quiet", "--no-scm"], ["remote", "add", "--default", "storage", f"s3://{bucket}/dvc"]):
        assert run("dvc", *words, cwd=tmp_path).returncode == 0
    return bucket


def _draw(folder: Path) -> None:
    import numpy as np
    from PIL import Image

    folder.mkdir()
    for number in range(20):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def _push(bucket: str, md5: str) -> None:
    import boto3

    key = f"dvc/{CONTENTS.format(md5[:2], md5[2:])}"
    boto3.Session().client("s3").put_object(Bucket=bucket, Key=key, Body=b"[]")


def on_cluster() -> dict[str, Any]:
    return arguments(Path("params.yaml"), on_cluster=True)


def test_data_of_this_machine_are_named_by_md5_and_remote(repository: str) -> None:
    md5 = directory_md5(Path("data/prepared/tiny"))
    _push(repository, md5)
    found = on_cluster()
    assert (found["dataset_md5"], found["remote"]) == (md5, f"s3://{repository}/dvc")


def test_data_that_were_not_pushed_are_refused(repository: str) -> None:
    with pytest.raises(LimnerError, match=r"(?s)does not have the dataset tiny.*dvc push"):
        on_cluster()


def test_data_that_are_not_what_dvc_lock_says_are_refused(repository: str) -> None:
    _push(repository, directory_md5(Path("data/prepared/tiny")))
    Path("data/prepared/tiny/more").write_text("")
    with pytest.raises(LimnerError, match=r"(?s)is not what dvc.lock says.*dvc repro"):
        on_cluster()


def test_data_that_dvc_does_not_know_or_cannot_share_are_refused(repository: str) -> None:
    run("dvc", "remote", "modify", "storage", "url", "/somewhere", cwd=Path.cwd())
    with pytest.raises(LimnerError, match="which a cluster cannot reach"):
        on_cluster()
    Path("dvc.lock").unlink()
    with pytest.raises(LimnerError, match=r"dvc\.lock does not know the dataset tiny"):
        on_cluster()


def test_data_that_are_in_the_image_need_no_name(tiny_params: Path) -> None:
    assert "dataset_md5" not in arguments(tiny_params, on_cluster=True)


# -- the cluster ------------------------------------------------------------------------------------------------------


def test_submit_sends_pipeline_and_arguments(kubeflow: kubeflow_stand.Kubeflow, tiny_params: Path) -> None:
    words = ("submit", "tiny-gan", "--params", tiny_params, "--host", kubeflow.address, "--image", IMAGE)
    done = command(*words, "--with", "gpus=0")
    assert done.exit_code == 0, done.exception
    assert done.output.splitlines()[-1] == kubeflow_stand.RUN
    (sent,) = kubeflow.asked["POST runs"]
    assert sent["display_name"] == "train_and_promote tiny-gan"
    assert sent["experiment_id"] == kubeflow_stand.EXPERIMENT
    parameters = sent["runtime_config"]["parameters"]
    assert parameters["gpus"] == 0
    assert json.loads(parameters["settings"])["models"].keys() == {"tiny-gan"}
    assert IMAGE in json.dumps(sent["pipeline_spec"])


def test_schedule_sends_cron_and_never_runs_beside_itself(kubeflow: kubeflow_stand.Kubeflow, tiny_params: Path) -> None:
    data = ("--with", "dataset_md5=s3://bucket/tiny.md5", "--with", "remote=s3://bucket/dvc")
    words = ("schedule", "tiny-gan", "--params", tiny_params, "--host", kubeflow.address, "--image", IMAGE, *data)
    done = command(*words, "--cron", "0 0 3 * * *")
    assert done.exit_code == 0, done.exception
    assert done.output.splitlines()[-1] == kubeflow_stand.SCHEDULE
    (sent,) = kubeflow.asked["POST recurringruns"]
    assert sent["trigger"]["cron_schedule"]["cron"] == "0 0 3 * * *"
    assert str(sent["max_concurrency"]) == "1"
    assert sent["no_catchup"] is True
    assert sent["runtime_config"]["parameters"]["dataset_md5"] == "s3://bucket/tiny.md5"
    five = command(*words, "--cron", "0 3 * * *")
    assert "has 5 fields" in str(five.exception)


def test_status_lists_the_tasks_in_order_and_fails_with_the_run(kubeflow: kubeflow_stand.Kubeflow) -> None:
    done = command("status", kubeflow_stand.RUN, "--host", kubeflow.address)
    assert done.exit_code == 1
    assert [line.split() for line in done.output.splitlines()[-2:]] == [
        ["SUCCEEDED", "prepare"],
        ["FAILED", "train:", "OOMKilled"],
    ]
    as_json = json.loads(command("status", kubeflow_stand.RUN, "--host", kubeflow.address, "--json").output)
    assert as_json["state"] == "FAILED"


def test_what_kubeflow_refuses_is_told_in_words(kubeflow: kubeflow_stand.Kubeflow, tiny_params: Path) -> None:
    kubeflow.refuse = "runs"
    words = ("submit", "tiny-gan", "--params", tiny_params, "--host", kubeflow.address, "--image", IMAGE)
    assert "this user may not create runs" in str(command(*words).exception)
    assert "does not tell of the run other" in str(command("status", "other", "--host", kubeflow.address).exception)


def test_a_cluster_that_is_not_there_is_told_in_words(tiny_params: Path) -> None:
    words = ("submit", "tiny-gan", "--params", tiny_params, "--image", IMAGE)
    assert "No cluster is named" in str(command(*words).exception)
    assert "does not answer" in str(command(*words, "--host", "http://127.0.0.1:9").exception)


# -- pointers ---------------------------------------------------------------------------------------------------------


def test_publish_writes_the_md5_where_scheduled_runs_look(repository: str) -> None:
    from limner.adapters.dvc_cache import resolve_md5

    pointer = f"s3://{repository}/limner/tiny.md5"
    done = command("publish", "tiny", pointer)
    assert done.exit_code == 0, done.exception
    assert resolve_md5(pointer) == directory_md5(Path("data/prepared/tiny"))
