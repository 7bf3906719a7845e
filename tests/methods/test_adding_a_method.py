"""Adding a method is adding one file: a toy one, in a folder of its own, goes through the real steps."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import limner.methods
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.errors import LimnerError
from limner.inference import open_model
from limner.journal import read_journal
from limner.methods import method_settings
from limner.params import Catalog
from limner.ports import Ports
from limner.steps.evaluate import evaluate
from limner.steps.export import export
from limner.steps.prepare import prepare
from limner.steps.train import build, train
from limner.tasks import PictureShape

TOY = '''
"""A least-squares GAN (arXiv:1611.04076) of two linear layers."""

import math
from typing import Literal

import torch
from torch import nn

from limner.losses import least_squares_discriminator_loss, least_squares_generator_loss
from limner.game import mean_terms
from limner.optimise import AdamSettings, OptimizerSettings, build_optimizer, descend
from limner.settings import MethodSettings


class Params(MethodSettings):
    name: Literal["toy_lsgan"]
    latent: int = 4
    optimizer: OptimizerSettings = AdamSettings(learning_rate=1e-3)


class Generator(nn.Module):
    def __init__(self, latent, shape):
        super().__init__()
        size = (shape.channels, shape.height, shape.width)
        self.layers = nn.Sequential(nn.Linear(latent, math.prod(size)), nn.Tanh(), nn.Unflatten(1, size))

    def forward(self, latent):
        return self.layers(latent)


class Method:
    task: Literal["pictures"] = "pictures"

    def __init__(self, params, shape):
        self._latent = params.latent
        pixels = shape.channels * shape.height * shape.width
        critic = nn.Sequential(nn.Flatten(), nn.Linear(pixels, 1), nn.Flatten(0))
        self.networks = nn.ModuleDict({"generator": Generator(params.latent, shape), "critic": critic})
        self.optimizers = {k: build_optimizer(params.optimizer, net.parameters()) for k, net in self.networks.items()}

    def step(self, parts, moment):
        generator, critic, told = self.networks["generator"], self.networks["critic"], []

        def critic_losses():
            for part in parts:
                with torch.no_grad():
                    fake = generator(**self.product_inputs(part.batch, part.rng))
                loss = least_squares_discriminator_loss(critic(part.batch.images), critic(fake))
                told.append({"loss/discriminator": loss.detach()})
                yield loss

        def generator_losses():
            for part in parts:
                fake = critic(generator(**self.product_inputs(part.batch, part.rng)))
                loss = least_squares_generator_loss(fake, fake)
                told.append({"loss/generator": loss.detach()})
                yield loss

        moved = descend(critic_losses(), self.optimizers["critic"], player="discriminator")
        moved |= descend(generator_losses(), self.optimizers["generator"], player="generator")
        return mean_terms(told) | moved

    def product(self):
        return self.networks["generator"]

    def product_inputs(self, batch, rng):
        return {"latent": torch.randn(len(batch.images), self._latent, generator=rng, device=batch.images.device)}

    def realness(self, batch, results=None):
        return self.networks["critic"](batch.images if results is None else results)
'''


class Cut(Exception):
    """Ends a run without warning."""


@pytest.fixture
def _toy(tmp_path, monkeypatch):
    """The one file, in a folder that the package of the methods also looks into."""
    folder = tmp_path / "more_methods"
    folder.mkdir()
    (folder / "toy_lsgan.py").write_text(TOY)
    monkeypatch.setattr(limner.methods, "__path__", [*limner.methods.__path__, str(folder)])
    yield
    sys.modules.pop("limner.methods.toy_lsgan", None)
    vars(limner.methods).pop("toy_lsgan", None)


@pytest.fixture
def catalog():
    train = {"kimg": 0.64, "batch": 16, "log_kimg": 0.16, "sample_kimg": 0.32, "checkpoint_kimg": 0.32}
    model = {
        "dataset": "digits",
        "method": {"name": "toy_lsgan", "latent": 6},
        "train": train | {"precision": "fp32", "micro_batch": 8},
        "evaluate": {"features": "pixels", "samples": 40, "judge_samples": 20},
    }
    digits = {
        "source": {"kind": "printed-digits", "count": 100},
        "image": {"size": 16, "channels": 1},
        "validation": 0.2,
    }
    return Catalog(
        {"datasets": {"digits": digits}, "models": {"toy": model}},
        origin="params.yaml",
        method_settings=method_settings,
    )


@pytest.fixture
def run(catalog, tmp_path):
    """Train it into a folder of that name."""
    prepare(catalog.dataset("digits"), name="digits", output=tmp_path / "digits")

    def go(output, *, progress=lambda *_: None):
        ports = Ports(UntrackedTracker(), UntrackedRegistry(), progress=progress, cache=tmp_path / "cache")
        return train(
            catalog.model("toy"), name="toy", dataset=tmp_path / "digits", output=tmp_path / output,
            scratch=tmp_path / "runs", ports=ports,
        )  # fmt: skip

    return go


def weights(folder: Path):
    return load_file(folder / "last" / "model.safetensors")


@pytest.mark.usefixtures("_toy")
def test_a_method_of_one_file_trains(catalog, run):
    folder = run("model").output
    shape = PictureShape(channels=1, height=16, width=16, classes=10)
    before = build(catalog.model("toy"), shape, torch.device("cpu")).product().state_dict()
    assert before.keys() == weights(folder).keys()
    assert not any(torch.equal(value, before[name]) for name, value in weights(folder).items())
    lines = [line["metrics"] for line in read_journal(folder / "journal.jsonl")]
    assert len(lines) == 4
    assert all(line["update/generator"] > 0 and line["update/discriminator"] > 0 for line in lines)
    assert lines[-1]["loss/discriminator"] < lines[0]["loss/discriminator"]
    assert (folder / "samples" / "000000640.png").is_file()


@pytest.mark.usefixtures("_toy")
def test_it_goes_on_after_an_interruption_as_if_there_had_been_none(run):
    def cut(images, total, figures):
        if images > 320:
            raise Cut

    whole = weights(run("whole").output)
    with pytest.raises(Cut):
        run("resumed", progress=cut)
    resumed = run("resumed").output
    assert [line["event"] for line in read_journal(resumed / "journal.jsonl") if "event" in line] == ["resumed"]
    assert all(torch.equal(value, whole[name]) for name, value in weights(resumed).items())


@pytest.mark.usefixtures("_toy")
def test_its_product_is_judged_and_exported(catalog, run, tmp_path):
    ports = Ports(UntrackedTracker(), UntrackedRegistry(), progress=lambda *_: None, cache=tmp_path / "cache")
    settings, model = catalog.model("toy"), run("model").output
    judged = evaluate(
        settings, name="toy", dataset=tmp_path / "digits", model=model, output=tmp_path / "report", ports=ports
    )
    assert np.isfinite(judged.metrics["fd_pixels"])
    exported = export(
        settings, name="toy", model=model, evaluation=tmp_path / "report", output=tmp_path / "export", ports=ports
    )
    assert exported.parity.keys() == {"pt2", "onnx"}
    open_model(exported.output)


def test_without_its_file_there_is_no_such_method(catalog):
    with pytest.raises(LimnerError, match="There is no training method 'toy_lsgan'"):
        catalog.model("toy")
