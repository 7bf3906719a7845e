"""Checkpoints on disk: whole or not there, and never of another run."""

import json

import pytest
import torch

from limner.averaging import Average
from limner.checkpoint import Checkpoints, flat
from limner.errors import LimnerError
from limner.methods import Moment
from limner.methods.gan import Method, Params
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape


def game(seed=0):
    torch.manual_seed(seed)
    method = Method(Params(name="gan"), PictureShape(1, 16, 16, classes=0))
    method.networks.to(memory_format=torch.channels_last)
    average = Average(method.product(), half_life_images=100, ramp=1.0)
    method.step(Pictures(torch.rand(4, 1, 16, 16)), Moment(0, 0, 1, generator(seed)))
    return method, average


def checkpoints(folder, *, keep=2, **identity):
    return Checkpoints(folder, identity=identity or {"seed": 0}, keep=keep)


def test_everything_comes_back(tmp_path):
    method, average = game()
    checkpoints(tmp_path).save(method, average, {"step": 1, "images": 4})
    other, other_average = game(seed=1)
    assert checkpoints(tmp_path).restore(other, other_average) == {"step": 1, "images": 4}
    for mine, theirs in ((method.networks, other.networks), (average.network, other_average.network)):
        for name, value in mine.state_dict().items():
            assert torch.equal(value, theirs.state_dict()[name]), name
    for name, optimizer in method.optimizers.items():
        for index, state in optimizer.state_dict()["state"].items():
            for key, value in state.items():
                assert torch.equal(value, other.optimizers[name].state_dict()["state"][index][key]), (name, key)


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    assert checkpoints(tmp_path / "none").restore(*game()) is None


def test_the_newest_is_restored_and_the_old_ones_are_deleted(tmp_path):
    method, average = game()
    for step in (1, 2, 10):
        checkpoints(tmp_path).save(method, average, {"step": step})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000000002", "step-000000010"]
    assert checkpoints(tmp_path).restore(method, average) == {"step": 10}


@pytest.mark.parametrize("damage", ["truncate", "flip", "no manifest", "half manifest"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage):
    method, average = game()
    for step in (1, 2):
        checkpoints(tmp_path).save(method, average, {"step": step})
    newest = tmp_path / "step-000000002"
    weights, manifest = newest / "weights.safetensors", newest / "manifest.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text(manifest.read_text()[:20])
    assert checkpoints(tmp_path).restore(method, average) == {"step": 1}


def test_a_write_that_was_cut_off_is_ignored_and_replaced(tmp_path):
    method, average = game()
    checkpoints(tmp_path).save(method, average, {"step": 1})
    (tmp_path / "step-000000002.partial").mkdir()
    assert checkpoints(tmp_path).restore(method, average) == {"step": 1}
    checkpoints(tmp_path).save(method, average, {"step": 2})
    assert checkpoints(tmp_path).restore(method, average) == {"step": 2}


def test_other_settings_or_other_data_are_refused_with_each_difference(tmp_path):
    method, average = game()
    checkpoints(tmp_path, batch=64, data="abc").save(method, average, {"step": 1})
    with pytest.raises(LimnerError, match=r"(?s)batch: 64 then, 32 now; data: 'abc' then, 'abd' now.*begin anew"):
        checkpoints(tmp_path, batch=32, data="abd").restore(method, average)


def test_nothing_in_a_checkpoint_runs_code_when_it_is_read(tmp_path):
    """The optimisers' file is read with weights_only: a pickle that calls something is refused."""
    method, average = game()
    checkpoints(tmp_path).save(method, average, {"step": 1})
    folder = tmp_path / "step-000000001"

    class Malicious:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"generator": Malicious()}, folder / "optimizers.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    import hashlib

    manifest["files"]["optimizers.pt"] = hashlib.sha256((folder / "optimizers.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(Exception, match="weights_only"):
        checkpoints(tmp_path).restore(method, average)


def test_settings_are_flattened_to_dotted_names():
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": [1, 2], "e": None}
