"""A run's copy in an object store: what is there lets another machine go on, at any moment."""

import json
import shutil
import subprocess
import sys
import textwrap
import threading

import pytest
from torch import nn

from limner.adapters.object_store import S3Store
from limner.checkpoint import Checkpoints
from limner.errors import LimnerError
from limner.mirror import PATIENCE, Mirror
from tests import s3_stand


@pytest.fixture(scope="module")
def address():
    with s3_stand.server() as address:
        yield address


class Recorded(S3Store):
    """Remembers what it is asked to do; after `patience` changes it fails."""

    def __init__(self, url):
        super().__init__(url)
        self.done = []
        self.patience = 10**9

    def change(self, *what):
        if self.patience == 0:
            raise LimnerError("The store is away.", why="pulled plug")
        self.patience -= 1
        self.done.append(what)

    def put(self, key, path):
        self.change("put", key.removeprefix("run/"))
        super().put(key, path)

    def delete(self, keys):
        keys = list(keys)
        self.change("delete", *[key.removeprefix("run/") for key in keys])
        super().delete(keys)


@pytest.fixture
def store(address, monkeypatch):
    return Recorded(f"s3://{s3_stand.bucket(monkeypatch, address)}/runs")


@pytest.fixture
def here(tmp_path):
    return tmp_path / "here"


@pytest.fixture
def elsewhere(tmp_path):
    return tmp_path / "elsewhere"


def network(value=0.0):
    made = nn.Linear(3, 3)
    for parameter in made.parameters():
        nn.init.constant_(parameter, value)
    return made


def save(folder, *steps, written=lambda: None, value=None):
    """Checkpoints whose weights are all `value`, or the step."""
    with Checkpoints(folder / "checkpoints", identity={}, keep=2, written=written) as checkpoints:
        for step in steps:
            checkpoints.save({"network": network(step if value is None else value)}, {"step": step})


def restore(folder):
    """Step of the newest whole checkpoint, and the one value of all its weights."""
    found = network()
    with Checkpoints(folder / "checkpoints", identity={}, keep=2) as checkpoints:
        state = checkpoints.restore({"network": found})
    values = {float(v) for tensor in found.state_dict().values() for v in tensor.flatten()}
    assert len(values) == 1
    return state and (state["step"], values.pop())


def write(folder, name, content="x"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def content(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def keys(store):
    return {key.removeprefix("run/") for key in store.sizes("run/")}


def mirror(folder, store):
    return Mirror(folder, store, prefix="run")


def checkpoint_files(*names):
    files = ("weights.safetensors", "states.pt", "manifest.json")
    return {f"checkpoints/{name}/{file}" for name in names for file in files}


def test_another_machine_gets_the_same_bytes(store, here, elsewhere):
    save(here, 1, 2)
    write(here, "journal.jsonl", '{"images": 4}\n')
    write(here, "run.json", "{}")
    write(here, "samples/000000004.png")
    mirror(here, store).push()
    assert mirror(elsewhere, store).pull()
    assert content(elsewhere) == content(here)
    assert restore(elsewhere) == (2, 2.0)


def test_manifests_are_the_last_to_come_and_the_first_to_go(store, here):
    mine = mirror(here, store)
    save(here, 1, 2)
    write(here, "journal.jsonl")
    mine.push()
    puts = [name for what, name in store.done]
    assert set(puts) == {"journal.jsonl"} | checkpoint_files("step-000000001.0", "step-000000002.0")
    assert puts[-2:] == [f"checkpoints/step-00000000{n}.0/manifest.json" for n in (1, 2)]
    store.done.clear()
    save(here, 3)
    mine.push()
    assert [what for what, *_ in store.done] == ["put", "put", "put", "delete"]
    assert store.done[2] == ("put", "checkpoints/step-000000003.0/manifest.json")
    assert store.done[3][1] == "checkpoints/step-000000001.0/manifest.json"
    assert keys(store) == set(content(here))


def test_only_what_is_new_or_has_changed_is_sent(store, here):
    mine = mirror(here, store)
    save(here, 1, 2)
    journal = write(here, "journal.jsonl", "1\n")
    mine.push()
    store.done.clear()
    mine.push()
    assert store.done == []
    with journal.open("a") as file:
        file.write("2\n")
    mine.push()
    assert store.done == [("put", "journal.jsonl")]
    store.delete(["run/journal.jsonl"])
    store.done.clear()
    mine.push()
    assert store.done == [("put", "journal.jsonl")], "what the store has lost is sent again"


def test_a_process_that_goes_on_does_not_send_again_what_an_earlier_one_did(store, here, elsewhere):
    save(here, 1, 2)
    write(here, "run.json")
    mirror(here, store).push()
    store.done.clear()
    mirror(here, store).push()
    assert store.done == [("put", "run.json")]
    store.done.clear()
    moved = mirror(elsewhere, store)
    moved.pull()
    moved.push()
    assert store.done == []


def test_a_checkpoint_that_takes_the_name_of_another_never_mixes_with_it(store, here, elsewhere):
    """A deleted checkpoint's name is given anew: files of the same names and sizes, with other bytes."""
    save(here, 1, 2)
    mirror(here, store).push()
    shutil.rmtree(here / "checkpoints/step-000000002.0")
    save(here, 2, value=7.0)
    store.done.clear()
    store.patience = 2  # the manifest goes, one file comes, and the machine is lost
    mirror(here, store).push()
    assert store.done[0] == ("delete", "checkpoints/step-000000002.0/manifest.json")
    mirror(elsewhere, store).pull()
    assert restore(elsewhere) == (1, 1.0)
    store.patience = 100
    mirror(here, store).push()
    mirror(elsewhere, store).pull()
    assert restore(elsewhere) == (2, 7.0)


@pytest.mark.parametrize("name", ["checkpoints/step-000000009.0.partial/manifest.json", "journal.rewound", ".best.x/a"])
def test_what_is_not_finished_is_never_sent(store, here, name):
    write(here, name)
    write(here, "run.json")
    mirror(here, store).push()
    assert keys(store) == {"run.json"}


def test_a_push_that_is_cut_off_anywhere_leaves_a_whole_checkpoint(store, here, tmp_path):
    """After every possible number of changes in the store, another machine finds the older or the newer one."""
    whole = 0
    for allowed in range(100):
        folder, mine = tmp_path / f"run-{allowed}", None
        store.patience = 10**9
        mine = mirror(folder, store)
        mine.clear()
        write(folder, "journal.jsonl", "1\n")
        save(folder, 1, 2)
        mine.push()
        save(folder, 3, 4)
        write(folder, "journal.jsonl", "12\n")
        store.done.clear()
        store.patience = allowed
        mine.push()
        other = tmp_path / f"other-{allowed}"
        mirror(other, store).pull()
        found = restore(other)
        assert found in [(2, 2.0), (3, 3.0), (4, 4.0)]
        whole += found == (4, 4.0)
        if store.patience:  # it was not cut off: all was done
            break
    assert allowed > 7
    assert whole > 1
    assert content(other) == content(folder)


def test_a_push_that_was_cut_off_is_made_up_for_by_the_next(store, here, elsewhere, caplog):
    mine = mirror(here, store)
    save(here, 1, 2)
    store.patience = 3
    mine.push()
    assert "did not reach the object store" in caplog.text
    assert "pulled plug" in caplog.text
    assert not mirror(elsewhere, store).pull()
    store.patience = 100
    mine.push()
    assert keys(store) == set(content(here))


def test_a_hiccup_is_forgiven_and_a_lasting_failure_ends_the_run(store, here):
    mine = mirror(here, store)
    for number in range(2 * PATIENCE):  # never so many in a row
        write(here, "journal.jsonl", "1" * number)
        store.patience = number % (PATIENCE - 1)
        mine.push()
    store.patience = 0
    with pytest.raises(LimnerError, match=r"(?s)3 attempts in a row.*pulled plug.*goes on from the newest"):
        save(here, 1, 2, 3, 4, 5, 6, written=mine.push)
    assert restore(here)[0] < 6, "training stopped where it failed"


def test_pull_takes_only_what_is_newer(store, here, elsewhere):
    save(here, 1, 2)
    write(here, "journal.jsonl", "theirs")
    mirror(here, store).push()
    for steps, fetched in (((), True), ((1,), True), ((2,), False), ((5,), False)):
        folder = elsewhere / f"at-{len(steps) and steps[0]}"
        write(folder, "journal.jsonl", "mine")
        save(folder, *steps)
        assert mirror(folder, store).pull() is fetched
        assert (folder / "journal.jsonl").read_text() == ("theirs" if fetched else "mine")
        assert restore(folder)[0] == max(2, *steps, 0)


def test_a_damaged_checkpoint_here_is_mended_from_the_store(store, here):
    save(here, 1, 2)
    mirror(here, store).push()
    weights = here / "checkpoints/step-000000002.0/weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert mirror(here, store).pull()
    assert restore(here) == (2, 2.0)


@pytest.mark.parametrize("missing", ["manifest.json", "states.pt"])
def test_a_checkpoint_that_came_only_half_is_not_fetched(store, here, elsewhere, missing):
    save(here, 1, 2)
    mirror(here, store).push()
    store.delete([f"run/checkpoints/step-000000002.0/{missing}"])
    assert mirror(elsewhere, store).pull()
    assert restore(elsewhere) == (1, 1.0)
    assert not (elsewhere / "checkpoints/step-000000002.0").exists()


def test_a_run_killed_before_its_first_checkpoint_gets_its_tracked_run_back(store, here, elsewhere):
    write(here, "run.json", '{"run_id": "abc"}')
    mirror(here, store).push()
    assert mirror(elsewhere, store).pull()
    assert json.loads((elsewhere / "run.json").read_text()) == {"run_id": "abc"}


def test_an_empty_store_has_nothing_to_pull(store, here):
    assert not mirror(here, store).pull()
    mirror(here, store).clear()
    assert store.done == []


def test_clearing_deletes_this_run_and_no_other(store, here, elsewhere):
    save(here, 1)
    mirror(here, store).push()
    other = Mirror(here, store, prefix="run-b")
    other.push()
    mirror(here, store).clear()
    assert keys(store) == set()
    assert len(store.sizes("run-b/")) == 3
    assert not mirror(elsewhere, store).pull()


def test_a_store_that_cannot_be_read_is_an_error_at_once(here, address, monkeypatch):
    s3_stand.bucket(monkeypatch, address)
    with pytest.raises(LimnerError, match=r"(?s)s3://nowhere.*NoSuchBucket"):
        mirror(here, S3Store("s3://nowhere")).pull()


def test_a_folder_that_cannot_be_written_is_an_error_in_words(store, here, elsewhere):
    save(here, 1)
    mirror(here, store).push()
    elsewhere.write_text("a file where the folder should be")
    with pytest.raises(LimnerError, match=r"(?s)could not be copied to .*elsewhere.*Not a directory"):
        mirror(elsewhere, store).pull()


def test_a_name_that_leads_out_of_the_folder_is_refused(store, here, tmp_path):
    store.put("run/../../escaped", write(tmp_path, "a"))
    with pytest.raises(LimnerError, match="leads out of the folder"):
        mirror(here, store).pull()


def test_a_file_that_vanishes_during_a_push_is_no_failure(store, here):
    write(here, "best/a")
    vanishing = write(here, "best/b")
    mine = mirror(here, store)
    original = store.put

    def put(key, path):
        original(key, path)
        vanishing.unlink(missing_ok=True)

    store.put = put
    mine.push()
    assert mine._failures == 0
    assert keys(store) == {"best/a"}


def test_files_may_change_and_vanish_while_they_are_sent(store, here, elsewhere):
    """A journal that grows and a folder that is replaced all the time: each push sends what is there at its moment."""
    mine, stop = mirror(here, store), threading.Event()
    write(here, "journal.jsonl", "")
    save(here, 1)

    def train():
        number = 0
        while not stop.is_set():
            number += 1
            with (here / "journal.jsonl").open("a") as file:
                file.write(f"{number:09d}\n")
            for old in (here / "best").glob("*"):
                old.unlink()
            write(here, f"best/{number % 7}", "y" * number)

    training = threading.Thread(target=train)
    training.start()
    try:
        for _ in range(15):
            mine.push()
            assert mine._failures == 0
    finally:
        stop.set()
        training.join()
    mirror(elsewhere, store).pull()
    lines = (elsewhere / "journal.jsonl").read_text().splitlines()
    assert lines == [f"{number:09d}" for number in range(1, len(lines) + 1)] or len(lines[-1]) < 9
    mine.push()
    assert keys(store) == set(content(here))


def test_a_machine_lost_at_any_moment_goes_on_elsewhere_from_what_was_sent(address, store, tmp_path):
    """Five times SIGKILL in the midst of writing and sending, and the disk is gone: the next goes on from the store."""
    program = f"""
        import os, random, shutil, signal, time
        from pathlib import Path
        import torch
        from limner.adapters.object_store import S3Store
        from limner.checkpoint import Checkpoints
        from limner.mirror import Mirror
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        folder = Path({str(tmp_path / "run")!r})
        def opened():
            mirror = Mirror(folder, S3Store({store._url!r}), prefix="run")
            mirror.pull()
            return Checkpoints(folder / "checkpoints", identity={{}}, keep=2, written=mirror.push)
        pick, found, parent = random.Random(), [], os.getpid()
        for _ in range(5):
            if not (child := os.fork()):
                parts = {{"network": torch.nn.Linear(500, 500)}}
                checkpoints = opened()
                step = (checkpoints.restore(parts) or {{"step": 0}})["step"]
                while os.getppid() == parent:
                    step += 1
                    for parameter in parts["network"].parameters():
                        parameter.data.fill_(step)
                    checkpoints.save(parts, {{"step": step}})
            time.sleep(pick.uniform(0.5, 1.2))
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            shutil.rmtree(folder, ignore_errors=True)
            parts = {{"network": torch.nn.Linear(500, 500)}}
            state = opened().restore(parts)
            if state:
                assert all((parameter == state["step"]).all() for parameter in parts["network"].parameters())
            found.append(state["step"] if state else 0)
            shutil.rmtree(folder, ignore_errors=True)
        assert found == sorted(found) and found[-1] > found[0], found
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
