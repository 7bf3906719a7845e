import hashlib
import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow.artifacts
import pytest

from limner.adapters.mlflow_packaging import NEEDED_TO_SERVE
from limner.adapters.mlflow_registry import MlflowRegistry
from limner.adapters.mlflow_server import MlflowServer
from limner.adapters.mlflow_tracker import MlflowTracker
from limner.errors import LimnerError
from limner.inference import open_model
from limner.ports import ModelVersion
from tests.mlflow_stand import third_party_warnings, write_export

pytestmark = third_party_warnings
DIGEST = hashlib.sha256(b"none").hexdigest()  # of the weights that `write_export` writes
PROTOCOL = {"features": "classifier", "samples": "2000"}


@pytest.fixture
def registry(server: MlflowServer) -> MlflowRegistry:
    return MlflowRegistry(server)


@pytest.fixture
def run_id(server: MlflowServer) -> str:
    with MlflowTracker(server).run("digits-gan") as run:
        run.params({"train.batch": "64"})
        run.metrics({"quick/fd_classifier": 4.0, "evaluate/fd_classifier": 3.5}, images_seen=400)
    return run.id


@pytest.fixture
def export(tmp_path: Path) -> Path:
    return write_export(tmp_path / "exports" / "digits-gan", digest=DIGEST)


def candidate(digest: str = DIGEST, **metrics: float) -> ModelVersion:
    return ModelVersion("digits", "", (), metrics or {"fd_classifier": 3.5, "recall": 0.5}, PROTOCOL, digest)


def test_name_without_versions_has_no_champion(registry):
    assert registry.champion("digits") is None


def test_model_without_the_alias_has_no_champion(registry, export, run_id):
    registry.register(candidate(), export, run_id=run_id)
    assert registry.champion("digits") is None


def test_registered_and_promoted_version_comes_back_as_the_champion(registry, export, run_id):
    version = registry.register(candidate(), export, run_id=run_id)
    assert version == replace(candidate(), number="1")
    registry.promote(version, instead_of=None, reason="It is the first.")
    assert registry.champion("digits") == replace(candidate(), number="1", aliases=("champion",))


def test_version_tells_where_it_comes_from(server, registry, export, run_id):
    registry.register(candidate(), export, run_id=run_id)
    stored = server.client.get_model_version("digits", "1")
    assert stored.run_id == run_id
    assert json.loads(stored.tags["limner.metrics"]) == {"fd_classifier": 3.5, "recall": 0.5}
    assert json.loads(stored.tags["limner.protocol"]) == PROTOCOL
    assert stored.tags["limner.export_digest"] == DIGEST
    assert stored.tags["limner.dataset_digest"] == "d" * 64
    assert stored.tags["limner.limner_version"]


def test_metrics_are_attached_to_the_model_and_not_drawn_twice_in_the_run(server, registry, export, run_id):
    registry.register(candidate(fd_classifier=3.5, recall=0.5, kid=math.nan), export, run_id=run_id)
    (model,) = server.client.search_logged_models([server.find_experiment()])
    assert model.source_run_id == run_id
    assert str(model.status) == "READY"
    assert model.params["train.batch"] == "64"
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "digits", "version": 1}]
    assert {metric.key: metric.value for metric in model.metrics} == {"evaluate/fd_classifier": 3.5, "recall": 0.5}
    history = server.client.get_metric_history(run_id, "evaluate/fd_classifier")
    assert [(metric.step, metric.value) for metric in history] == [(400, 3.5)]
    assert set(server.client.get_run(run_id).data.metrics) == {
        "quick/fd_classifier",
        "evaluate/fd_classifier",
        "recall",
    }
    outputs = server.client.get_run(run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]


def test_same_export_again_is_the_same_version_with_the_newest_figures(server, registry, export, run_id):
    first = registry.register(candidate(fd_classifier=3.5), export, run_id=run_id)
    registry.promote(first, instead_of=None, reason="first")
    again = registry.register(candidate(fd_classifier=3.0), export, run_id=run_id)
    assert again == replace(candidate(fd_classifier=3.0), number="1", aliases=("champion",))
    assert registry.champion("digits").metrics == {"fd_classifier": 3.0}
    assert len(server.client.search_model_versions("name = 'digits'")) == 1
    assert len(server.client.search_logged_models([server.find_experiment()])) == 1


def test_other_export_is_another_version(registry, export, run_id, tmp_path):
    registry.register(candidate(), export, run_id=run_id)
    other = write_export(tmp_path / "other", digest="2" * 64)
    assert registry.register(candidate("2" * 64), other, run_id=run_id).number == "2"


@pytest.mark.parametrize("unknown", ["", "0" * 32])
def test_model_of_an_unknown_run_is_registered_without_one(server, registry, export, unknown):
    assert registry.register(candidate(), export, run_id=unknown).number == "1"
    assert not server.client.get_model_version("digits", "1").run_id


def test_costs_are_those_of_the_files_that_are_stored(server, registry, tmp_path):
    costs = {"latency_ms": 12.5, "size_mib": 3.0, "parity": 1e-5}
    export = write_export(tmp_path / "export", digest=DIGEST, costs=costs)
    assert registry.register(candidate(), export, run_id="").costs == costs
    assert json.loads(server.client.get_model_version("digits", "1").tags["limner.costs"]) == costs
    again = write_export(tmp_path / "again", digest=DIGEST, costs={**costs, "latency_ms": 1.0})
    assert registry.register(candidate(), again, run_id="").costs == costs
    assert registry.versions("digits")[0].costs == costs


def test_version_is_described_by_its_model_card(server, registry, export, tmp_path):
    (export / "card").mkdir()
    (export / "card" / "SHORT.md").write_text("# Digits\n\nThey are drawn.\n")
    registry.register(candidate(), export, run_id="")
    assert "They are drawn." in server.client.get_model_version("digits", "1").description
    (export / "card" / "SHORT.md").write_text("# Digits\n\nThey are painted.\n")
    registry.register(candidate(), export, run_id="")
    assert "They are painted." in server.client.get_model_version("digits", "1").description


def test_versions_are_listed_with_their_aliases_the_newest_first(server, registry):
    server.client.create_registered_model("digits")
    for _ in range(11):
        server.client.create_model_version("digits", "/somewhere")
    server.client.set_registered_model_alias("digits", "champion", "2")
    found = registry.versions("digits")
    assert [version.number for version in found] == [str(number) for number in range(11, 0, -1)]
    assert [version.aliases for version in found if version.aliases] == [("champion",)]
    assert registry.names() == ("digits",)


def test_name_that_ends_like_a_lock_is_refused(server, registry, export):
    with pytest.raises(LimnerError, match="Limner uses this ending itself"):
        registry.register(replace(candidate(), name="digits.promoting"), export, run_id="")
    assert not server.client.search_registered_models()


def test_version_that_was_registered_by_hand_has_no_figures(server, registry):
    server.client.create_registered_model("digits")
    server.client.create_model_version("digits", "/somewhere")
    server.client.set_registered_model_alias("digits", "champion", "1")
    assert registry.champion("digits") == ModelVersion("digits", "1", ("champion",))


def test_failed_upload_leaves_no_version(server, registry, tmp_path, run_id):
    export = write_export(tmp_path / "export", digest=DIGEST)
    (tmp_path / "mlartifacts").write_text("a file where the artifacts should go")
    with pytest.raises(LimnerError, match=r"cannot be used[\s\S]*mlartifacts"):
        registry.register(candidate(), export, run_id=run_id)
    assert not server.client.search_model_versions("name = 'digits'")
    (model,) = server.client.search_logged_models([server.find_experiment()])
    assert str(model.status) == "FAILED"


def test_dead_registry_is_an_error_that_says_what_to_do(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    registry = MlflowRegistry(MlflowServer("http://user:secret@127.0.0.1:9"))
    with pytest.raises(LimnerError, match=r"registry at http://127.0.0.1:9 cannot be used[\s\S]*--no-track") as caught:
        registry.champion("digits")
    assert "secret" not in str(caught.value)


def test_refusal_is_not_taken_for_an_empty_registry(registry):
    with pytest.raises(LimnerError, match="cannot be used"):
        registry.champion("a/b")  # MLflow has no slash in names


ELSEWHERE = """
import json, sys
import mlflow
import numpy as np
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/digits@champion")
nothing = {"inputs": np.empty(0, object)}
pictures = model.predict(nothing, params={"count": 5, "seed": 3})
one_class = model.predict(nothing, params={"count": 2, "seed": 3, "label": 2})
import limner
print(json.dumps({
    "pictures": pictures.tolist(), "dtype": str(pictures.dtype), "one_class": one_class.tolist(),
    "default": list(model.predict(nothing).shape), "limner": limner.__file__, "loaded": sorted(sys.modules),
}))
"""


@pytest.fixture
def served(server, registry, run_id, tmp_path) -> tuple[Path, dict]:
    """A registered model, and what it does in a process that knows nothing but the registry."""
    export = write_export(tmp_path / "export", digest=DIGEST, program=True)
    registry.promote(registry.register(candidate(), export, run_id=run_id), instead_of=None, reason="first")
    environment = {**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    found = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, server.uri],
        capture_output=True, text=True, check=False, env=environment, cwd=tmp_path, timeout=300,
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    return export, json.loads(found.stdout.splitlines()[-1])


def test_registered_model_runs_elsewhere_without_pickle_and_without_our_package(served, server, monkeypatch):
    export, result = served
    expected = open_model(export)
    assert result["dtype"] == "uint8"
    assert result["pictures"] == expected.generate(5, seed=3).tolist()
    assert result["one_class"] == expected.generate(2, seed=3, label=2).tolist()
    assert result["default"] == [1, 8, 8, 1]
    assert "/code/limner/" in result["limner"]  # the copy that travels with the model

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    folder = Path(mlflow.artifacts.download_artifacts("models:/digits/1"))
    assert not [path.name for path in folder.rglob("*.pkl")]
    required = [line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()]
    assert required == list(NEEDED_TO_SERVE)
    other = {"safetensors", "torchvision", "onnx", "onnxruntime", "mlxtend", "ruamel", "typer", "dvc", "kfp"}
    assert not other & set(result["loaded"])


# -- fetching ---------------------------------------------------------------------------------------------------------


def test_a_version_is_fetched_as_it_was_exported(registry, export, run_id, tmp_path):
    version = registry.register(candidate(), export, run_id=run_id)
    registry.promote(version, instead_of=None, reason="It is the first.")
    for address in ("models:/digits@champion", "models:/digits/1"):
        place = tmp_path / address.replace("/", "_")
        place.mkdir()
        found = registry.fetch(address, place)
        assert found.is_relative_to(place)
        assert {path.name: path.read_bytes() for path in found.iterdir()} == {
            path.name: path.read_bytes() for path in export.iterdir()
        }


@pytest.mark.parametrize("address", ["models:/digits@champion", "models:/digits/9", "models:/nobody/1"])
def test_a_version_that_does_not_exist_is_told_in_words(registry, export, run_id, tmp_path, address):
    registry.register(candidate(), export, run_id=run_id)
    with pytest.raises(LimnerError, match=f"(?s)has no {address}.*Promote a model first"):
        registry.fetch(address, tmp_path)


def test_the_champion_tells_which_data_it_was_trained_on(registry, export, run_id):
    record = json.loads((export / "lineage.json").read_text())
    (export / "lineage.json").write_text(json.dumps({**record, "dataset_md5": f"{'a' * 32}.dir"}))
    version = registry.register(candidate(), export, run_id=run_id)
    registry.promote(version, instead_of=None, reason="It is the first.")
    assert registry.champion("digits").dataset_md5 == f"{'a' * 32}.dir"
    assert registry.trained_on("digits", f"{'a' * 32}.dir").number == "1"
    assert registry.trained_on("digits", f"{'b' * 32}.dir") is None


@pytest.mark.parametrize("address", ["digits", "models:/digits", "models:/digits/latest", "models:/digits/1/2", "1"])
def test_address_that_names_no_version_is_refused(registry, tmp_path, address):
    with pytest.raises(LimnerError, match=r"names no version[\s\S]*models:/NAME@ALIAS"):
        registry.fetch(address, tmp_path)


def stored_file(tmp_path: Path, name: str) -> Path:
    (found,) = (tmp_path / "mlartifacts").rglob(f"artifacts/*/{name}")
    return found


def test_version_whose_weights_were_changed_in_the_store_is_refused(registry, export, tmp_path):
    registry.register(candidate(), export, run_id="")
    stored_file(tmp_path, "model.safetensors").write_bytes(b"other")
    with pytest.raises(LimnerError, match=r"models:/digits/1 was changed in the store[\s\S]*its model.safetensors is"):
        registry.fetch("models:/digits/1", tmp_path / "fetched")


def test_version_whose_files_were_all_changed_in_the_store_is_refused(registry, export, tmp_path):
    registry.register(candidate(), export, run_id="")
    weights, config = (stored_file(tmp_path, name) for name in ("model.safetensors", "config.json"))
    weights.write_bytes(b"other")
    document = json.loads(config.read_text())
    document["files"]["model.safetensors"] = hashlib.sha256(b"other").hexdigest()
    config.write_text(json.dumps(document))
    with pytest.raises(LimnerError, match=r"models:/digits/1 was changed in the store[\s\S]*Roll back"):
        registry.fetch("models:/digits/1", tmp_path / "fetched")
