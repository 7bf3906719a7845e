"""The champion's figures on other data, so that a model which learnt from these can beat it."""

import json
from dataclasses import replace
from hashlib import sha256

import pytest
import torch
from safetensors.torch import save

from limner.adapters import connect
from limner.packing import PackedDataset
from limner.ports import ModelVersion
from limner.promotion import decide
from limner.steps.evaluate import evaluate
from limner.steps.prepare import prepare
from limner.steps.rejudge import rejudge
from tests.mlflow_stand import database, third_party_warnings, write_export

pytestmark = third_party_warnings


@pytest.fixture
def settings(catalog):
    settings = catalog.model("toy")
    return settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"features": "pixels"})})


@pytest.fixture
def registry_ports(tmp_path, tmp_path_factory):
    return replace(connect(tracking_uri=database(tmp_path, tmp_path_factory)), cache=tmp_path / "cache")


@pytest.fixture
def champion(registry_ports, trained_folder, tmp_path):
    """Registered with figures from other data."""
    weights = (trained_folder / "best" / "model.safetensors").read_bytes()
    export = write_export(tmp_path / "export", digest=sha256(weights).hexdigest(), weights=weights)
    found = ModelVersion("toy", "", (), {"fd_pixels": 50.0}, {"reference": "old"}, sha256(weights).hexdigest())
    version = registry_ports.registry.register(found, export, run_id="")
    registry_ports.registry.promote(version, instead_of=None, reason="It is the first.")
    return version


@pytest.fixture
def more_data(catalog, tmp_path):
    """The dataset with another share held out, so that it is another one."""
    settings = catalog.dataset("shapes").model_copy(update={"validation": 0.1})
    prepare(settings, name="shapes", output=tmp_path / "more")
    return tmp_path / "more"


def test_a_model_of_new_data_is_held_until_the_champion_is_judged_on_them(
    settings, registry_ports, champion, more_data, trained_folder, tmp_path
):
    (trained_folder / "journal.jsonl").write_text("")
    (trained_folder / "curves.csv").write_text("images\n")
    output = tmp_path / "evaluation"
    judged = evaluate(
        settings, name="toy", dataset=more_data, model=trained_folder, output=output, ports=registry_ports
    )
    protocol = json.loads((output / "metrics.json").read_text())["protocol"]
    better = {**judged.metrics, "fd_pixels": 0.0}
    candidate = ModelVersion("toy", "2", (), better, protocol, "8" * 64)
    registry = registry_ports.registry
    assert decide(candidate, registry.champion("toy"), settings.promote).verdict == "hold"
    said = rejudge(settings, name="toy", dataset=more_data, ports=registry_ports)
    assert said == "Champion version 1 was judged on these data."
    now = registry.champion("toy")
    assert (now.number, now.protocol["reference"]) == ("1", PackedDataset(more_data).digest)
    assert decide(candidate, now, settings.promote).verdict == "promote"


def test_without_a_champion_there_is_nothing_to_judge(settings, registry_ports, dataset):
    assert rejudge(settings, name="toy", dataset=dataset, ports=registry_ports) == "There is no champion yet."


def test_a_champion_that_was_registered_by_hand_keeps_its_figures(settings, registry_ports, champion, dataset):
    class ByHand(type(registry_ports.registry)):
        def champion(self, name):
            return ModelVersion(name, "1")

    ports = replace(registry_ports, registry=ByHand(registry_ports.registry.server))
    assert "was registered by hand" in rejudge(settings, name="toy", dataset=dataset, ports=ports)


def test_a_champion_of_another_network_keeps_its_figures(settings, registry_ports, tmp_path, dataset):
    weights = save({"other.weight": torch.zeros(1)})
    export = write_export(tmp_path / "export", digest=sha256(weights).hexdigest(), weights=weights)
    found = ModelVersion("toy", "", (), {"fd_pixels": 50.0}, {"reference": "old"}, sha256(weights).hexdigest())
    version = registry_ports.registry.register(found, export, run_id="")
    registry_ports.registry.promote(version, instead_of=None, reason="It is the first.")
    assert "keeps its figures" in rejudge(settings, name="toy", dataset=dataset, ports=registry_ports)
    assert registry_ports.registry.champion("toy").metrics == {"fd_pixels": 50.0}
