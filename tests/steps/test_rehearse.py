"""`limner train --dry-run`: what it tells is of the real thing, and nothing is left of it."""

import dataclasses
import itertools
import tempfile
from pathlib import Path

import pytest
import torch

from limner.errors import LimnerError
from limner.packing import PackedDataset
from limner.steps import rehearse as module
from limner.steps.prepare import prepare
from limner.steps.rehearse import rehearse
from limner.steps.train import build


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.05)


@pytest.fixture
def settings(catalog):
    return catalog.model("toy")


def with_train(settings, **changes):
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


def content(folder):
    return {path.relative_to(folder): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_the_figures_are_those_of_the_networks_and_the_rate(settings, dataset, ports):
    found = rehearse(settings, dataset=dataset, ports=ports)
    method = build(settings, PackedDataset(dataset).shape(), torch.device("cpu"))
    assert found.parameters == {
        name: sum(p.numel() for p in method.networks[name].parameters()) for name in ("generator", "discriminator")
    }
    assert (found.device, found.precision) == ("cpu", "float32")
    assert found.images_per_second > 0
    assert 0 < found.memory_gib < 100
    assert found.minutes["steps"] == pytest.approx(320 / found.images_per_second / 60)
    assert found.minutes.keys() == {"steps", "samples", "checkpoints"}
    assert all(minutes > 0 for minutes in found.minutes.values())


def test_the_size_is_that_of_one_full_checkpoint(settings, dataset, ports):
    """Weights, their average, and two running means of Adam for each: the first of a run has no such means yet."""
    found = rehearse(settings, dataset=dataset, ports=ports)
    weights = 4 * (3 * sum(found.parameters.values()) + found.parameters["generator"]) / 2**20
    assert weights < found.checkpoint_mib < 1.3 * weights + 0.1
    for keep in (1, 3):
        again = rehearse(with_train(settings, keep_checkpoints=keep), dataset=dataset, ports=ports)
        assert again.checkpoint_mib == pytest.approx(found.checkpoint_mib, rel=0.01)


def test_a_checkpoint_costs_the_loop_the_copy_and_not_the_disk(settings, dataset, ports, monkeypatch):
    monkeypatch.setattr("limner.checkpoint._flushed_sha256", slowly("limner.checkpoint._flushed_sha256"))
    monkeypatch.setattr("limner.checkpoint._load", slowly("limner.checkpoint._load"))
    seconds = 60 * rehearse(settings, dataset=dataset, ports=ports).minutes["checkpoints"] / 2
    assert seconds < 0.5


def slowly(name):
    """That function, half a second late."""
    import time

    from limner import checkpoint

    function = getattr(checkpoint, name.rpartition(".")[2])

    def late(*words, **options):
        time.sleep(0.5)
        return function(*words, **options)

    return late


@pytest.mark.parametrize("deterministic", [True, False])
def test_nothing_is_changed(settings, dataset, ports, deterministic, temporary):
    before = content(dataset), torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    rehearse(with_train(settings, deterministic=deterministic, judge_kimg=0.08), dataset=dataset, ports=ports)
    assert content(dataset) == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert torch.are_deterministic_algorithms_enabled() == before[2]
    assert not list(Path.cwd().iterdir())
    assert not ports.cache.exists()
    assert not list(temporary.iterdir())


def test_nobody_is_told_and_nothing_is_recorded(settings, dataset, ports):
    told = []
    silent = dataclasses.replace(
        ports, tracker=None, registry=None, progress=lambda *_: told.append(1), notice=told.append
    )
    rehearse(settings, dataset=dataset, ports=silent)
    assert not told


@pytest.mark.parametrize("wanted", [True, False])
def test_determinism_is_rehearsed_as_it_will_be(settings, dataset, ports, wanted, monkeypatch):
    seen, advance = [], module.advance

    def noting(run, state):
        seen.append(torch.are_deterministic_algorithms_enabled())
        advance(run, state)

    monkeypatch.setattr(module, "advance", noting)
    rehearse(with_train(settings, deterministic=wanted), dataset=dataset, ports=ports)
    assert set(seen) == {wanted}


@pytest.mark.parametrize(
    ("part", "spoil"),
    [
        ("networks", lambda run: next(run.method.networks.parameters()).data.add_(1)),
        ("average", lambda run: next(run.average.network.parameters()).data.add_(1)),
        ("generator's optimiser", lambda run: step_counter(run.method.optimizers["generator"]).add_(1)),
        ("discriminator's optimiser", lambda run: run.method.optimizers["discriminator"].param_groups[0].update(lr=1)),
    ],
)
def test_what_does_not_come_back_is_named(settings, dataset, ports, part, spoil, monkeypatch):
    calls, resume = itertools.count(), module.resume

    def spoiling(run):
        state = resume(run)
        if next(calls):  # not at the beginning
            spoil(run)
        return state

    monkeypatch.setattr(module, "resume", spoiling)
    with pytest.raises(LimnerError, match=f"(?s)did not come back as it was saved.*Not the same: {part}\\."):
        rehearse(settings, dataset=dataset, ports=ports)


def step_counter(optimizer):
    return next(iter(optimizer.state.values()))["step"]


def test_a_checkpoint_that_is_not_read_is_noticed(settings, dataset, ports, monkeypatch):
    calls, resume = itertools.count(), module.resume
    monkeypatch.setattr(module, "resume", lambda run: None if next(calls) else resume(run))
    with pytest.raises(LimnerError, match="Not the same: networks, average, generator's optimiser"):
        rehearse(settings, dataset=dataset, ports=ports)


def test_a_dataset_of_another_kind_is_refused(catalog, settings, ports, pictures, tmp_path):
    source, target = {"kind": "class-folders", "path": str(pictures)}, {"kind": "printed-digits", "count": 20}
    source["kind"] = "folder"  # without labels, as the classes of both sides would have to be the same
    two = catalog.dataset("shapes").model_validate(
        {"source": {"kind": "unpaired", "source": source, "target": target}, "image": {"size": 16, "channels": 1}}
    )
    prepare(two, name="two", output=tmp_path / "two")
    with pytest.raises(LimnerError, match="needs a dataset of the kind 'pictures', but this one is 'unpaired'"):
        rehearse(settings, dataset=tmp_path / "two", ports=ports)


def test_a_missing_dataset_is_told(settings, ports, tmp_path):
    with pytest.raises(LimnerError, match="limner prepare"):
        rehearse(settings, dataset=tmp_path / "nowhere", ports=ports)
