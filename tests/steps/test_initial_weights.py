"""Fine-tuning: a training that begins with the weights of a model that exists."""

import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from limner.adapters.untracked import UntrackedRegistry
from limner.errors import LimnerError
from limner.lineage import file_sha256, read_lineage
from limner.packing import PackedDataset
from limner.steps.initial_weights import start_from
from limner.steps.train import build, train, training_shape

SHORT = {"kimg": 0.016, "ema_half_life_kimg": 0.0}


@pytest.fixture
def export(trained_folder, tmp_path):
    """An export's folder, as far as weights go."""
    folder = tmp_path / "export"
    shutil.copytree(trained_folder / "best", folder)
    return folder


@pytest.fixture
def begin(catalog, dataset, ports):
    def begin(init, ports=ports):
        settings = catalog.model("toy")
        settings = settings.model_copy(update={"train": settings.train.model_copy(update={"init": init})})
        method = build(settings, training_shape(settings, PackedDataset(dataset)), torch.device("cpu"))
        random = {name: value.clone() for name, value in method.networks.state_dict().items()}
        return start_from(settings, method, ports=ports), method, random

    return begin


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_product_gets_the_weights_and_the_opponent_keeps_its_own(begin, export):
    settings, method, random = begin(str(export))
    assert same(load_file(export / "model.safetensors"), method.product().state_dict())
    now = method.networks.state_dict()
    changed = {name.split(".")[0] for name in now if not torch.equal(now[name], random[name])}
    assert changed == {"generator"}
    assert settings.train.init == f"sha256:{file_sha256(export / 'model.safetensors')}", "an alias may move"


def test_without_a_name_nothing_changes(begin, catalog):
    settings, method, random = begin("")
    assert settings == catalog.model("toy")
    assert same(random, method.networks.state_dict())


def test_a_registered_model_is_fetched_from_the_registry(begin, export, ports):
    class Registry(UntrackedRegistry):
        def fetch(self, address, folder):
            assert address == "models:/toy@champion"
            return shutil.copytree(export, folder / "export")

    _, method, _ = begin("models:/toy@champion", replace(ports, registry=Registry()))
    assert same(load_file(export / "model.safetensors"), method.product().state_dict())
    with pytest.raises(LimnerError, match="cannot be had without a registry"):
        begin("models:/toy@champion")


def test_a_place_without_weights_is_refused(begin, tmp_path):
    with pytest.raises(LimnerError, match=r"(?s)which has no weights.*limner export"):
        begin(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(LimnerError, match="cannot be read"):
        begin(str(tmp_path))


def test_weights_of_another_network_are_refused(begin, export, catalog):
    weights = load_file(export / "model.safetensors")
    weights.pop(next(name for name in weights if name.endswith("weight")))
    from safetensors.torch import save_file

    save_file(weights, export / "model.safetensors")
    with pytest.raises(LimnerError, match="do not fit the network"):
        begin(str(export))


def test_a_training_goes_on_from_them_and_is_a_run_of_its_own(catalog, dataset, ports, export, tmp_path):
    def run(name, **changes):
        settings = catalog.model("toy")
        settings = settings.model_copy(update={"train": settings.train.model_copy(update={**SHORT, **changes})})
        output = tmp_path / name
        train(settings, name="toy", dataset=dataset, output=output, scratch=tmp_path / "runs", ports=ports)
        assert read_lineage(output)["step"] == "train"
        return load_file(output / "last" / "model.safetensors")

    first = load_file(export / "model.safetensors")
    anew, tuned = run("anew"), run("tuned", init=str(export))
    floats = [name for name, value in first.items() if value.is_floating_point()]

    def distance(weights):
        return sum(float((weights[name] - first[name]).abs().sum()) for name in floats)

    assert distance(tuned) < 0.2 * distance(anew), "one step leads not far from where it began"
