"""Sweeps, schedules and batches under the local runner. Beside test_run_local, because each file has a worker."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from PIL import Image

from limner.adapters import connect
from limner.adapters.dvc_cache import publish
from limner.adapters.object_store import S3Store
from limner.lineage import read_lineage
from limner.ports import ModelVersion
from limner.steps import open_catalog
from limner.steps.prepare import prepare
from tests import s3_stand
from tests.dvc_stand import push
from tests.mlflow_stand import third_party_warnings
from tests.pipelines.local_runs import SHORT, LocalRun, client, metrics, opened, returned, tasks_of
from tests.translators import export_translator

pytestmark = [pytest.mark.pipeline, third_party_warnings]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> LocalRun:
    """A folder with an MLflow of its own; all runs of a module share the registry."""
    return opened(tmp_path_factory)


def test_a_sweep_promotes_the_best_of_its_trials(local: LocalRun, tiny_params: Path) -> None:
    trials = local.folder / "trials.yaml"
    trials.write_text(json.dumps({"model": "tiny-gan", "grid": {"train.seed": [3, 4]}}))
    other = ("--set", "models.tiny-gan.promote.registered_name=swept")
    folder, _ = local("tiny-gan", "--params", tiny_params, *SHORT, *other, "--pipeline", "sweep", "--trials", trials)
    judged = sorted(folder.rglob("evaluate*/evaluation"))
    values = {path: metrics(path)[metrics(path)["chosen"]]["fd_pixels"] for path in judged}
    assert len(values) == 2
    (best,) = folder.rglob("choose/best_evaluation")
    winner = min(values, key=values.__getitem__)
    assert metrics(best) == metrics(winner)
    seed = json.loads(returned(folder, "choose"))["models"]["tiny-gan"]["train"]["seed"]
    assert str(seed) == read_lineage(winner)["seed"]
    assert str(client(local).get_model_version_by_alias("swept", "champion").version) == "1"


# -- schedules and batches --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """Environment that leads to an S3 server with the bucket `limner`."""
    with s3_stand.server() as address:
        environment = {**s3_stand.SETTINGS, "AWS_ENDPOINT_URL": address}
        with pytest.MonkeyPatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            boto3.Session().client("s3").create_bucket(Bucket="limner")
        yield environment


@pytest.mark.slow
def test_a_scheduled_run_trains_on_new_data_and_skips_known_ones(
    local: LocalRun, s3: dict[str, str], tiny_params: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    again = LocalRun(tmp_path, {**local.environment, **s3})
    prepare(open_catalog(tiny_params).dataset("tiny"), name="tiny", output=tmp_path / "repository" / "tiny")
    md5 = push(tmp_path / "repository", "tiny", remote="s3://limner/dvc")["tiny"]
    publish(md5, "s3://limner/tiny.md5")
    data = ("--with", "dataset_md5=s3://limner/tiny.md5", "--with", "remote=s3://limner/dvc")
    words = ("tiny-gan", "--params", tiny_params, *SHORT, "--pipeline", "retrain", *data)
    other = ("--set", "models.tiny-gan.promote.registered_name=retrained")
    first, _ = again(*words, *other)
    assert (returned(first, "probe"), returned(first, "gate")) == ("train", "promote")
    champion = client(local).get_model_version_by_alias("retrained", "champion")
    assert champion.tags["limner.dataset_md5"] == md5
    second, said = again(*words, *other)
    assert returned(second, "probe") == "skip"
    assert tasks_of(second) == {"resolve", "probe", "close-runs"}
    assert f"Version 1 was trained on {md5}." in said
    seed = "datasets.tiny.source.seed=1"
    changed = open_catalog(tiny_params, [seed]).dataset("tiny")
    prepare(changed, name="tiny", output=tmp_path / "repository" / "new")
    publish(push(tmp_path / "repository", "new", remote="s3://limner/dvc")["new"], "s3://limner/tiny.md5")
    third, said = again(*words, *other, "--set", seed)
    assert returned(third, "probe") == "train"
    assert "Champion version 1 was judged on these data." in said
    assert "was measured in another way" not in (third / "gate" / "decision").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_batch_of_pictures_gets_the_style_of_the_champion(
    local: LocalRun, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    registry = connect(tracking_uri=local.environment["MLFLOW_TRACKING_URI"]).registry
    version = registry.register(ModelVersion("style", "", (), {}, {}, "5" * 64), export_translator(tmp_path), run_id="")
    registry.promote(version, instead_of=None, reason="It is the first.")
    bucket = boto3.Session().client("s3")
    for number in range(5):
        file = io.BytesIO()
        Image.new("RGB", (24, 20), (40 * number, 90, 200)).save(file, "PNG")
        bucket.put_object(Bucket="limner", Key=f"photos/{number}.png", Body=file.getvalue())
    places = ("source=s3://limner/photos", "destination=s3://limner/painted", "parts=2")
    words = [word for place in places for word in ("--with", place)]
    again = LocalRun(tmp_path, {**local.environment, **s3})
    folder, said = again("models:/style@champion", "--pipeline", "stylize_batch", *words)
    assert returned(folder, "add-up") == 0
    assert "5 stylized, 0 skipped, 0 refused" in said
    assert set(S3Store("s3://limner/painted").sizes("")) >= {f"{number}.png" for number in range(5)}
