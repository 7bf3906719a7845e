"""The train step: what it leaves behind, and that killing it loses nothing."""

import csv
import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from limner import training_loop
from limner.adapters.untracked import UntrackedRun
from limner.errors import LimnerError
from limner.journal import read_journal
from limner.lineage import read_lineage
from limner.packing import PackedDataset
from limner.steps.prepare import prepare
from limner.steps.train import FINISHED, train
from limner.trained import open_trained


def with_train(settings, **changes):
    return settings.model_copy(update={"train": settings.train.model_copy(update=changes)})


@pytest.fixture
def run_train(catalog, dataset, ports, tmp_path):
    def run(output="model", *, settings=None, ports=ports):
        return train(
            settings or catalog.model("toy"),
            name="toy",
            dataset=dataset,
            output=tmp_path / output,
            scratch=tmp_path / "runs",
            ports=ports,
        )

    return run


def same_weights(one, other, which="last"):
    first, second = (load_file(folder / which / "model.safetensors") for folder in (one, other))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_output_holds_the_model_its_journal_its_pictures_and_its_lineage(run_train, dataset, tmp_path):
    result = run_train()
    assert result.images_seen == 320
    names = {p.relative_to(result.output).as_posix() for p in result.output.rglob("*") if p.is_file()}
    assert names == {
        "best/model.safetensors", "last/model.safetensors", "config.json", "curves.csv", "journal.jsonl", "run.json",
        "lineage.json", "samples/000000160.png", "samples/000000320.png",
    }  # fmt: skip
    assert read_lineage(result.output)["dataset_digest"] == PackedDataset(dataset).digest == result.dataset_digest
    assert not list((tmp_path / "runs").glob("*/checkpoints")), "a finished run leaves no scratch"
    assert [line["images"] for line in read_journal(result.output / "journal.jsonl")] == [80, 160, 240, 320]
    rows = list(csv.DictReader((result.output / "curves.csv").read_text().splitlines()))
    assert [row["images"] for row in rows] == ["80", "160", "240", "320"]
    assert {"loss_generator", "loss_discriminator", "logit_real", "logit_fake"} <= rows[0].keys()


def test_two_processes_do_not_train_one_run_at_one_time(run_train, ports):
    second = []

    def meanwhile(*_):
        if not second:
            with pytest.raises(
                LimnerError, match=r"(?s)is being trained with these settings already.*another --scratch"
            ):
                run_train("other")
            second.append("refused")

    run_train(ports=dataclasses.replace(ports, progress=meanwhile))
    assert second == ["refused"]
    run_train()


def test_the_output_is_delivered_before_the_checkpoints_go(catalog, dataset, ports, tmp_path):
    def deliver(folder):
        assert (folder / "lineage.json").is_file()
        assert list((tmp_path / "runs").glob("*/checkpoints/*"))
        raise LimnerError("The store is away.")

    settings, places = catalog.model("toy"), {"output": tmp_path / "model", "scratch": tmp_path / "runs"}
    with pytest.raises(LimnerError, match="The store is away"):
        train(settings, name="toy", dataset=dataset, ports=ports, deliver=deliver, **places)
    delivered = []
    train(settings, name="toy", dataset=dataset, ports=ports, deliver=delivered.append, **places)
    assert delivered == [tmp_path / "model"]
    assert not list((tmp_path / "runs").glob("*/checkpoints"))


def test_the_sample_sheet_has_a_column_a_class_and_shows_something(run_train):
    result = run_train()
    sheet = np.asarray(Image.open(result.output / "samples" / "000000320.png"))
    assert sheet.shape == (8 * 16, 10 * 16)
    assert sheet.std() > 5


def test_the_trained_product_opens_and_generates(run_train):
    model = open_trained(run_train().output, device=torch.device("cpu"))
    images = model.product("last")(torch.randn(2, 8), torch.tensor([0, 1]))
    assert images.shape == (2, 1, 16, 16)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(run_train, catalog):
    one, two = run_train("one"), run_train("two")
    other = run_train("other", settings=with_train(catalog.model("toy"), seed=1))
    assert same_weights(one.output, two.output)
    assert not same_weights(one.output, other.output)


def test_judging_keeps_the_best_moment_and_notes_it(run_train, catalog):
    settings = with_train(catalog.model("toy"), judge_kimg=0.08)
    settings = settings.model_copy(update={"evaluate": settings.evaluate.model_copy(update={"features": "pixels"})})
    result = run_train(settings=settings)
    quick = [
        (line["metrics"]["quick/fd_pixels"], line["images"])
        for line in read_journal(result.output / "journal.jsonl")
        if "quick/fd_pixels" in line.get("metrics", {})
    ]
    assert [images for _, images in quick] == [80, 160, 240, 320]
    best, last = (load_file(result.output / which / "model.safetensors") for which in ("best", "last"))
    differ = any(not torch.equal(best[name], last[name]) for name in last)
    assert differ == (min(quick)[1] != 320)


SCRIPT = """
import sys
from pathlib import Path
from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.ports import Ports
from limner.steps import catalog_from_json
from limner.steps.train import FINISHED, train

settings, dataset, output, scratch = sys.argv[1:]
catalog = catalog_from_json(settings)
ports = Ports(UntrackedTracker(), UntrackedRegistry(), lambda *_: print("progress", flush=True))
train(catalog.model("toy"), name="toy", dataset=Path(dataset), output=Path(output), scratch=Path(scratch), ports=ports)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_run_goes_on_where_it_was_and_ends_with_the_same_weights(
    catalog, dataset, run_train, ports, tmp_path, number
):
    """SIGTERM saves at the very step; SIGKILL falls back to the last checkpoint."""
    whole = run_train("whole")
    words = [
        sys.executable,
        "-c",
        SCRIPT,
        catalog.to_json("toy"),
        str(dataset),
        str(tmp_path / "model"),
        str(tmp_path / "killed"),
    ]
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    )
    for _ in range(2 if number == signal.SIGTERM else 3):
        process.stdout.readline()
    process.send_signal(number)
    process.stdout.close()
    assert process.wait(timeout=120) in (-number, 128 + number)
    assert not (tmp_path / "model").exists(), "nothing half-written"
    (place,) = (tmp_path / "killed").iterdir()
    assert list((place / "checkpoints").glob("step-*"))

    result = train(
        catalog.model("toy"),
        name="toy",
        dataset=dataset,
        output=tmp_path / "model",
        scratch=tmp_path / "killed",
        ports=ports,
    )
    assert same_weights(whole.output, result.output)
    lines = read_journal(result.output / "journal.jsonl")
    assert [line["images"] for line in lines if "metrics" in line] == [80, 160, 240, 320]
    assert any(line.get("event") == "resumed" for line in lines)


@dataclasses.dataclass
class NotedRun(UntrackedRun):
    """Remembers what it was told."""

    told: list = dataclasses.field(default_factory=list)

    def metrics(self, values, *, images_seen):
        self.told.append(("metrics", images_seen, sorted(values)))

    def picture(self, name, pixels_HWC, *, images_seen):
        self.told.append(("picture", name, pixels_HWC.shape, images_seen))

    def dataset(self, name, *, digest, source):
        self.told.append(("dataset", name, digest, source))

    def params(self, values):
        self.told.append(("params", values))


class NotingTracker:
    """Gives the same run out again and again, and notes which run was asked for."""

    def __init__(self):
        self.noted, self.asked = NotedRun("run-1"), []

    @contextmanager
    def run(self, name, *, run_id=""):
        self.asked.append((name, run_id))
        yield self.noted


def test_the_run_is_told_its_settings_its_data_every_figure_and_every_picture(run_train, ports, dataset):
    tracker = NotingTracker()
    result = run_train(ports=dataclasses.replace(ports, tracker=tracker))
    told = tracker.noted.told
    assert result.run_id == "run-1"
    assert json.loads((result.output / "run.json").read_text()) == {"run_id": "run-1"}
    (params,) = [entry[1] for entry in told if entry[0] == "params"]
    assert params["train.kimg"] == "0.32"
    assert params["method.generator.width"] == "8"
    assert ("dataset", "shapes", PackedDataset(dataset).digest, "class-folders") in told
    assert [entry[1] for entry in told if entry[0] == "metrics"] == [80, 160, 240, 320]
    assert ("picture", "samples", (128, 160, 1), 320) in told
    figures = next(entry[2] for entry in told if entry[0] == "metrics")
    assert {"gradient/generator", "gradient/discriminator", "images_per_second", "loss/discriminator", "loss/generator",
            "memory_gib", "logit/fake", "logit/real"} <= set(figures)  # fmt: skip


def test_an_interrupted_run_goes_on_in_the_same_tracked_run(run_train, ports, catalog):
    class Stop(Exception):
        pass

    def stop_at_200(images, total, figures):
        if images > 200:
            raise Stop

    tracker = NotingTracker()
    tracked = dataclasses.replace(ports, tracker=tracker)
    with pytest.raises(Stop):
        run_train(ports=dataclasses.replace(tracked, progress=stop_at_200))
    run_train(ports=tracked)
    assert tracker.asked == [("toy", ""), ("toy", "run-1")]


def test_changed_settings_begin_a_run_of_their_own(run_train, ports, catalog):
    class Stop(Exception):
        pass

    def stop(images, total, figures):
        raise Stop

    tracker = NotingTracker()
    tracked = dataclasses.replace(ports, tracker=tracker)
    with pytest.raises(Stop):
        run_train(ports=dataclasses.replace(tracked, progress=stop))
    run_train(ports=tracked, settings=with_train(catalog.model("toy"), seed=7))
    assert tracker.asked == [("toy", ""), ("toy", "")]


def test_a_dataset_of_another_kind_is_refused(catalog, ports, pictures, tmp_path):
    source, target = {"kind": "class-folders", "path": str(pictures)}, {"kind": "printed-digits", "count": 20}
    source["kind"] = "folder"  # without labels, as the classes of both sides would have to be the same
    settings = catalog.dataset("shapes").model_validate(
        {"source": {"kind": "unpaired", "source": source, "target": target}, "image": {"size": 16, "channels": 1}}
    )
    prepare(settings, name="two", output=tmp_path / "two")
    with pytest.raises(LimnerError, match="needs a dataset of the kind 'pictures', but this one is 'unpaired'"):
        train(
            catalog.model("toy"), name="toy", dataset=tmp_path / "two", output=tmp_path / "model",
            scratch=tmp_path / "runs", ports=ports,
        )  # fmt: skip
    assert not (tmp_path / "model").exists()


def test_a_linked_output_stays_a_link(run_train, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "disk")
    run_train()
    run_train()
    assert (tmp_path / "model").is_symlink()
    assert (tmp_path / "disk" / "last" / "model.safetensors").is_file()


def test_a_resumed_run_tells_its_rate_without_the_time_before(run_train, ports, tmp_path):
    """The first interval after a resumption counts its own seconds only."""

    class Stop(Exception):
        pass

    def stop_late(images, total, figures):
        if images > 200:
            raise Stop

    with pytest.raises(Stop):
        run_train(ports=dataclasses.replace(ports, progress=stop_late))
    (manifest,) = (tmp_path / "runs").glob("*/checkpoints/step-*10.*/manifest.json")
    document = json.loads(manifest.read_text())
    document["state"]["seconds"] = 1e6
    manifest.write_text(json.dumps(document))
    result = run_train()
    lines = [line for line in read_journal(result.output / "journal.jsonl") if "metrics" in line]
    assert lines[-2]["metrics"]["images_per_second"] > 1
    assert lines[-1]["seconds"] > 1e6


class Stop(Exception):
    """Ends a run without warning."""


def stop(*words, **options):
    raise Stop


def test_a_kill_while_the_run_is_noted_leaves_the_note_before(run_train, ports, tmp_path, monkeypatch):
    """run.json is replaced, never written in place: half of it would begin another tracked run."""
    tracker = NotingTracker()
    tracked = dataclasses.replace(ports, tracker=tracker)
    with pytest.raises(Stop):
        run_train(ports=dataclasses.replace(tracked, progress=stop))
    (noted,) = (tmp_path / "runs").glob("*/run.json")

    with monkeypatch.context() as cut:
        write = Path.write_text
        cut.setattr(Path, "write_text", lambda path, text, **options: (write(path, text[:5], **options), stop()))
        with pytest.raises(Stop):
            run_train(ports=tracked)
    assert json.loads(noted.read_text()) == {"run_id": "run-1"}
    result = run_train(ports=tracked)
    assert [run_id for _, run_id in tracker.asked] == ["", "run-1", "run-1"]
    assert json.loads((result.output / "run.json").read_text()) == {"run_id": "run-1"}


class FolderStore:
    """An object store in a folder; it can be told to refuse deletions."""

    def __init__(self, folder):
        self.folder, self.refuses = folder, False

    def sizes(self, prefix):
        found = {p.relative_to(self.folder).as_posix(): p for p in self.folder.rglob("*") if p.is_file()}
        return {key: path.stat().st_size for key, path in found.items() if key.startswith(prefix)}

    def put(self, key, path):
        (self.folder / key).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, self.folder / key)

    def get(self, key, path):
        shutil.copyfile(self.folder / key, path)

    def delete(self, keys):
        if self.refuses:
            raise LimnerError("The store does not delete.", why="no right to")
        for key in keys:
            (self.folder / key).unlink(missing_ok=True)


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path / "store")


def events(result):
    return [line["event"] for line in read_journal(result.output / "journal.jsonl") if "event" in line]


def test_a_finished_run_leaves_nothing_in_scratch_and_store(run_train, ports, store, tmp_path):
    run_train(ports=dataclasses.replace(ports, store=store))
    assert not list((tmp_path / "runs").iterdir())
    assert not store.sizes("")


@pytest.mark.parametrize("where", ["store", "scratch"])
def test_a_kill_at_the_very_end_does_not_let_the_next_train_go_on_with_a_finished_run(
    run_train, ports, store, tmp_path, monkeypatch, where
):
    stored = dataclasses.replace(ports, store=store)
    with monkeypatch.context() as cut:
        if where == "store":
            cut.setattr("limner.mirror.Mirror.clear", stop)
        else:
            delete = shutil.rmtree
            cut.setattr(
                shutil, "rmtree", lambda path, **o: (stop if str(path).endswith(FINISHED) else delete)(path, **o)
            )
        with pytest.raises(Stop):
            run_train(ports=stored)
    assert (tmp_path / "model" / "lineage.json").exists(), "the output was complete"
    assert bool(store.sizes("")) == (where == "store")
    (left,) = (tmp_path / "runs").iterdir()
    assert left.suffix == FINISHED
    assert events(run_train(ports=stored)) == []
    assert not list((tmp_path / "runs").iterdir())
    assert not store.sizes("")


def test_a_store_that_does_not_delete_is_told_of_and_cleared_by_the_next_train(run_train, ports, store, tmp_path):
    told = []
    stored = dataclasses.replace(ports, store=store, notice=told.append)
    run_train("one", ports=dataclasses.replace(stored, progress=lambda seen, *_: setattr(store, "refuses", seen > 310)))
    assert told == [
        "has finished, but the object store still has its checkpoints: The store does not delete. no right to"
    ]
    (left,) = (tmp_path / "runs").iterdir()
    assert not list(left.iterdir()), "the disk is free again"
    assert store.sizes("")
    store.refuses = False
    assert events(run_train("two", ports=stored)) == []
    assert not store.sizes("")
    assert len(told) == 1


def test_every_time_the_run_goes_back_has_a_tag_of_its_own(run_train, ports, monkeypatch):
    """Also where it goes back to the same checkpoint."""
    tracker, log, lines = NotingTracker(), training_loop.log, itertools.count()
    monkeypatch.setattr(training_loop, "log", lambda *w, **k: log(*w, **k) or ("bad" if next(lines) < 2 else None))
    tags = {}
    tracker.noted.tags = tags.update
    monkeypatch.setattr("limner.guard._ADVICE", {"bad": "None."})
    run_train(ports=dataclasses.replace(ports, tracker=tracker))
    back = [name for name in tags if "went-back" in name]
    assert back == ["limner.event.000000000.went-back.1", "limner.event.000000000.went-back.2"]
