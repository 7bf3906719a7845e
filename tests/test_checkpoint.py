"""Checkpoints on disk: whole or not there, exact, written meanwhile, and never of another run."""

import hashlib
import json
import subprocess
import sys
import textwrap
import threading

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, RMSprop

from limner.checkpoint import Checkpoints, flat
from limner.errors import LimnerError


class Memory:
    """Something small of our own that is neither a network nor an optimiser."""

    def __init__(self):
        self.state = {}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state_dict):
        self.state = state_dict


OPTIMIZERS = {
    "fused adam": lambda p: Adam(p, lr=0.1, fused=True),
    "adam": lambda p: Adam(p, lr=torch.tensor(0.1), amsgrad=True),
    "sgd with momentum": lambda p: SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: RMSprop(p, lr=0.1, centered=True),
}


class Odd(nn.Module):
    """A weight in bfloat16 under two names, and a buffer without dimensions."""

    def __init__(self, value):
        super().__init__()
        self.one = self.other = nn.Parameter(torch.randn(4, dtype=torch.bfloat16))
        self.register_buffer("scalar", torch.tensor(float(value)))


class Player:
    """A network with all that is peculiar, its optimiser, and a memory."""

    def __init__(self, optimizer="fused adam", *, seed=0, memory_format=torch.channels_last):
        torch.manual_seed(seed)
        self.network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), Odd(seed))
        self.network.to(memory_format=memory_format)
        self.optimizer = OPTIMIZERS[optimizer](list(self.network[:3].parameters()))
        self.memory = Memory()

    def parts(self):
        return {"network": self.network, "optimizer": self.optimizer, "memory": self.memory}

    def step(self, number):
        x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(number))
        self.network[:3](x).square().mean().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def steps(self, *numbers):
        for number in numbers:
            self.step(number)
        return self


def same(one, other):
    """Equal to the bit, types and shapes included."""
    if isinstance(one, torch.Tensor):
        # As bytes, or NaN would not equal itself.
        raw = [v.detach().contiguous().reshape(-1).view(torch.uint8) for v in (one, other)]
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(*raw)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


def same_parts(one, other):
    return all(same(part.state_dict(), other.parts()[name].state_dict()) for name, part in one.parts().items())


def opened(folder, *, keep=2, written=lambda: None, **identity):
    return Checkpoints(folder, identity=identity or {"seed": 0}, keep=keep, written=written)


def save(folder, *steps, player=None, **details):
    with opened(folder, **details) as checkpoints:
        for step in steps:
            checkpoints.save((player or Player()).parts(), {"step": step})


def restore(folder, *, player=None, **details):
    with opened(folder, **details) as checkpoints:
        return checkpoints.restore((player or Player()).parts())


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("before", [0, 3])
def test_everything_comes_back_to_the_bit_and_goes_on_as_if_never_interrupted(tmp_path, optimizer, before):
    player = Player(optimizer).steps(*range(before))
    with opened(tmp_path) as checkpoints:
        checkpoints.save(player.parts(), {"step": before, "images": 4, "best": None})
    other = Player(optimizer, seed=1).steps(7)
    assert restore(tmp_path, player=other) == {"step": before, "images": 4, "best": None}
    assert same_parts(player, other)
    assert same_parts(player.steps(10, 11), other.steps(10, 11))


def test_what_is_not_a_network_comes_back_as_it_was(tmp_path):
    player, other = Player(), Player()
    player.memory.state = {
        "empty": {}, "nothing": None, 3: (1, [2.5, "word"], True), "scalar": torch.tensor(7, dtype=torch.int16),
        "nan": torch.tensor([float("nan"), -0.0]), "none": torch.zeros(0, 3), "shared": torch.ones(1).expand(5),
    }  # fmt: skip
    save(tmp_path, 1, player=player)
    restore(tmp_path, player=other)
    assert same(player.memory.state, other.memory.state)


def test_momentum_that_no_step_has_touched_yet_stays_none(tmp_path):
    player, other = Player("sgd with momentum"), Player("sgd with momentum", seed=1)
    player.optimizer.state[player.network[0].weight]["momentum_buffer"] = None
    save(tmp_path, 1, player=player)
    restore(tmp_path, player=other)
    assert other.optimizer.state[other.network[0].weight]["momentum_buffer"] is None


@pytest.mark.parametrize(
    ("then", "now"),
    [(torch.channels_last, torch.contiguous_format), (torch.contiguous_format, torch.channels_last)],
)
def test_a_run_may_go_on_in_another_memory_layout(tmp_path, then, now):
    """A fused step takes weights and moments as flat memory: in two layouts it would mix them up without a word."""
    player = Player(memory_format=then).steps(0, 1)
    save(tmp_path, 1, player=player)
    other = Player(seed=1, memory_format=now)
    restore(tmp_path, player=other)
    assert same_parts(player, other)
    assert other.network[2].weight.is_contiguous(memory_format=now)
    for parameter, state in other.optimizer.state.items():
        assert state["exp_avg"].stride() == state["exp_avg_sq"].stride() == parameter.stride()
    player.step(2)
    other.step(2)
    torch.testing.assert_close(other.network[2].weight, player.network[2].weight, rtol=1e-3, atol=1e-4)


def test_training_may_go_on_while_a_checkpoint_is_written(tmp_path):
    player, go_on = Player().steps(0), threading.Event()
    player.memory.state = {"list": [torch.zeros(3)]}
    state = {"step": 1, "nested": {"best": 1.0}}
    with opened(tmp_path, written=lambda: go_on.wait(60)) as checkpoints:
        checkpoints.save({"network": player.network}, {"step": 0})
        checkpoints._thread.submit(go_on.wait, 60)  # the writer is busy: what follows is written after the changes
        threading.Timer(0.2, go_on.set).start()
        checkpoints.save(player.parts(), state)
        before = Player().steps(0)
        before.memory.state = {"list": [torch.zeros(3)]}
        player.step(1)
        player.memory.state["list"][0].add_(1)
        state["nested"]["best"] = 2.0
    other = Player(seed=1)
    assert restore(tmp_path, player=other) == {"step": 1, "nested": {"best": 1.0}}
    assert same_parts(before, other)


def test_one_thread_writes_and_a_second_save_waits_for_the_first(tmp_path):
    go_on, threads = threading.Event(), []

    def written():
        threads.append(threading.current_thread())
        assert go_on.wait(60)

    with opened(tmp_path, written=written) as checkpoints:
        parts = Player().parts()
        checkpoints.save(parts, {"step": 1})  # returns though its writer is held up
        second = threading.Thread(target=checkpoints.save, args=(parts, {"step": 2}))
        second.start()
        second.join(0.3)
        assert second.is_alive()
        go_on.set()
        second.join(60)
    assert len(threads) == 2
    assert threads[0] is threads[1] is not threading.current_thread()
    assert names(tmp_path) == ["step-000000001.0", "step-000000002.0"]


def test_without_a_checkpoint_there_is_nothing_to_restore(tmp_path):
    assert restore(tmp_path / "none") is None


def test_the_newest_is_restored_and_the_old_ones_are_deleted(tmp_path):
    save(tmp_path, 1, 2, 10)
    assert names(tmp_path) == ["step-000000002.0", "step-000000010.0"]
    assert restore(tmp_path) == {"step": 10}


def test_a_later_save_of_the_same_step_counts_as_newer(tmp_path):
    with opened(tmp_path, keep=2) as checkpoints:
        for number in range(12):
            checkpoints.save(Player().parts(), {"step": 5, "number": number})
    assert names(tmp_path) == ["step-000000005.10", "step-000000005.11"]
    assert restore(tmp_path) == {"step": 5, "number": 11}


@pytest.mark.parametrize("damage", ["truncate", "flip", "no states", "no manifest", "half manifest", "other json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, caplog):
    save(tmp_path, 1, 2)
    newest = tmp_path / "step-000000002.0"
    weights, manifest = newest / "weights.safetensors", newest / "manifest.json"
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "flip":
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    elif damage == "no states":
        (newest / "states.pt").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    else:
        manifest.write_text("[]" if damage == "other json" else manifest.read_text()[:20])
    assert restore(tmp_path) == {"step": 1}
    assert "step-000000002.0 is damaged" in caplog.text


def test_a_write_that_was_cut_off_is_ignored_and_swept_away_by_the_next(tmp_path):
    save(tmp_path, 1)
    (tmp_path / "step-000000002.0.partial").mkdir()
    assert restore(tmp_path) == {"step": 1}
    save(tmp_path, 3)
    assert names(tmp_path) == ["step-000000001.0", "step-000000003.0"]


def test_other_settings_or_other_data_are_refused_with_each_difference(tmp_path):
    save(tmp_path, 1, batch=64, data="abc")
    with pytest.raises(LimnerError, match=r"(?s)batch: 64 then, 32 now; data: 'abc' then, 'abd' now.*begin anew"):
        restore(tmp_path, batch=32, data="abd")


def test_another_versions_checkpoint_is_refused_instead_of_beginning_anew(tmp_path):
    save(tmp_path, 1)
    folder = tmp_path / "step-000000001.0"
    folder = folder.rename(tmp_path / "step-000000001")  # as format 1 called it
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["parts"]
    (folder / "manifest.json").write_text(json.dumps(manifest | {"schema": 1}))
    with pytest.raises(LimnerError, match=r"(?s)another version.*format is 1.*reads format 2.*begin anew"):
        restore(tmp_path)
    save(tmp_path, 1)
    assert restore(tmp_path) == {"step": 1}


def test_parts_that_are_not_those_that_were_saved_are_refused(tmp_path):
    save(tmp_path, 1)
    with opened(tmp_path) as checkpoints:
        player = Player()
        with pytest.raises(LimnerError, match=r"(?s)does not fit.*It has memory, network, optimizer, not network\."):
            checkpoints.restore({"network": player.network})
        with pytest.raises(LimnerError, match="does not fit"):
            checkpoints.restore(player.parts() | {"network": nn.Linear(2, 2)})
        with pytest.raises(LimnerError, match="does not fit"):
            checkpoints.restore(player.parts() | {"optimizer": Adam(nn.Linear(2, 2).parameters())})


def test_a_state_that_could_not_be_read_again_is_refused_when_it_is_saved(tmp_path):
    player = Player()
    player.memory.state = {"a": [1, {2}]}
    with opened(tmp_path) as checkpoints:
        with pytest.raises(TypeError, match=r"memory\.a\.1 is a set"):
            checkpoints.save(player.parts(), {"step": 1})
        with pytest.raises(TypeError, match="not JSON serializable"):
            checkpoints.save({}, {"step": 1, "path": tmp_path})


def test_nothing_in_a_checkpoint_runs_code_when_it_is_read(tmp_path):
    """States are read with weights_only: a pickle that calls something is refused."""
    save(tmp_path, 1)
    folder = tmp_path / "step-000000001.0"

    class Malicious:
        def __reduce__(self):
            return (print, ("run",))

    torch.save({"memory": Malicious()}, folder / "states.pt")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["states.pt"] = hashlib.sha256((folder / "states.pt").read_bytes()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(LimnerError, match=r"(?s)states\.pt is not a file that Limner wrote.*weights_only"):
        restore(tmp_path)


@pytest.mark.parametrize("surfaces", ["save", "wait", "restore", "close"])
def test_an_error_of_the_writer_surfaces_once_at_the_next_call(tmp_path, surfaces):
    def written():
        if len(names(tmp_path)) == 1:
            raise ZeroDivisionError("the mirror broke")

    checkpoints = opened(tmp_path, written=written)
    parts = Player().parts()
    checkpoints.save(parts, {"step": 1})
    arguments = {"save": (parts, {"step": 2}), "restore": (parts,)}
    with pytest.raises(ZeroDivisionError, match="the mirror broke"):
        getattr(checkpoints, surfaces)(*arguments.get(surfaces, ()))
    checkpoints.wait()
    checkpoints.close()


def test_leaving_the_context_raises_the_writers_error_but_never_in_place_of_another(tmp_path, caplog):
    occupied = tmp_path / "a-file"
    occupied.write_text("")
    with pytest.raises(LimnerError, match=r"(?s)could not be written to .*a-file.*Make room"):
        save(occupied, 1)

    def interrupted():
        with opened(occupied) as checkpoints:
            checkpoints.save(Player().parts(), {"step": 1})
            raise KeyboardInterrupt("first")

    with pytest.raises(KeyboardInterrupt, match="first"):
        interrupted()
    assert "The last checkpoint is lost: A checkpoint could not be written" in caplog.text


@pytest.mark.parametrize("large", ["network", "memory"])
def test_a_full_disk_ends_the_run_with_the_reason_and_leaves_the_checkpoint_before(tmp_path, large):
    """The kernel's limit on the size of a file stands in for the disk: writing fails half way through."""
    program = f"""
        import resource, sys
        from pathlib import Path
        sys.path.insert(0, {str(tmp_path)!r})
        import torch
        from limner.checkpoint import Checkpoints
        from limner.errors import LimnerError
        class Memory:
            def state_dict(self): return {{"a": torch.zeros({1_000_000 if large == "memory" else 1})}}
        parts = {{"network": torch.nn.Linear(1000, {1000 if large == "network" else 1}), "memory": Memory()}}
        checkpoints = Checkpoints(Path({str(tmp_path / "checkpoints")!r}), identity={{}}, keep=2)
        checkpoints.save(parts, {{"step": 1}})
        checkpoints.wait()
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        checkpoints.save(parts, {{"step": 2}})
        try:
            checkpoints.close()
        except LimnerError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "could not be written to" in done.stdout
    assert "MB are free there" in done.stdout
    assert names(tmp_path / "checkpoints") == ["step-000000001.0"]


def test_a_process_killed_at_any_moment_leaves_a_whole_checkpoint(tmp_path):
    """Ten times SIGKILL in the midst of saving: the newest whole checkpoint has one step's values throughout."""
    program = f"""
        import os, random, signal, time
        from pathlib import Path
        import torch
        from limner.checkpoint import Checkpoints
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        class Memory:
            value = torch.zeros(300_000)
            def state_dict(self): return {{"value": self.value}}
            def load_state_dict(self, state): self.value = state["value"]
        folder = Path({str(tmp_path / "checkpoints")!r})
        pick, found, cut_off, parent = random.Random(), [], 0, os.getpid()
        for _ in range(10):
            if not (child := os.fork()):
                checkpoints = Checkpoints(folder, identity={{}}, keep=2)
                parts = {{"network": torch.nn.Linear(500, 500), "memory": Memory()}}
                step = (checkpoints.restore(parts) or {{"step": 0}})["step"]
                while os.getppid() == parent:
                    step += 1
                    parts["memory"].value.fill_(step)
                    for parameter in parts["network"].parameters():
                        parameter.data.fill_(step)
                    checkpoints.save(parts, {{"step": step}})
            while not list(folder.glob("step-*[0-9]")):  # the very first has to be there
                time.sleep(0.01)
            time.sleep(pick.uniform(0.05, 0.25))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            cut_off += any(folder.glob("*.partial"))
            parts = {{"network": torch.nn.Linear(500, 500), "memory": Memory()}}
            step = Checkpoints(folder, identity={{}}, keep=2).restore(parts)["step"]
            assert (parts["memory"].value == step).all()
            assert all((parameter == step).all() for parameter in parts["network"].parameters())
            found.append(step)
        assert found == sorted(found) and found[-1] > 10, found
        print("cut off", cut_off)
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "cut off 0" not in done.stdout, "no kill hit a write: the test shows nothing"


def test_settings_are_flattened_to_dotted_names():
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": None}) == {"a.b": 1, "a.c.d": [1, 2], "e": None}
