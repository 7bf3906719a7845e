"""The stylizing job: what it holds, what it records, and what one bad picture does to the others."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limner.errors import LimnerError
from limner.inference import open_translator
from limner.picture_places import RECORD, FolderDestination, find_pictures, name_results
from limner.sources import Refused
from limner.steps.stylize import WAITING_SHARE, Observer, StylizeOptions, _Job, stylize
from tests.translators import export_translator

MIB = 2**20


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_translator(export_translator(tmp_path_factory.mktemp("translator")), precision="fp32")


def draw(folder: Path, sizes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, (width, height) in enumerate(sizes):
        pixels = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:03}.png")
    return folder


def run(folder: Path, model, out: Path, *, memory: int = 2**31, observer: Observer | None = None, change=list):
    search = find_pictures([str(folder)], max_megapixels=100, stores={})
    return stylize(
        change(search.pictures),
        name_results(search, None),
        model=model,
        destination=FolderDestination(out),
        options=StylizeOptions(memory=memory),
        observer=observer,
    )


def record(out: Path):
    return json.loads((out / RECORD).read_bytes())["results"]


def test_large_files_are_not_held_while_they_wait(model, tmp_path):
    folder = draw(tmp_path / "photos", [(600, 500), (40, 30)])
    job = _Job(model, FolderDestination(tmp_path / "out"), StylizeOptions(memory=12 * MIB), Observer(), 2)
    large, small = (
        job.load(found, "a.png") for found in find_pictures([str(folder)], max_megapixels=1, stores={}).pictures
    )
    assert (large.picture, large.content) == (None, b"")
    assert small.picture is not None


def test_a_large_picture_that_changes_while_it_waits_is_refused(model, tmp_path, monkeypatch):
    folder = draw(tmp_path / "photos", [(600, 500)])
    load = _Job.load

    def slow(self, found, name):
        waiting = load(self, found, name)
        draw(folder, [(600, 501)])
        return waiting

    monkeypatch.setattr(_Job, "load", slow)
    told: list[LimnerError] = []
    result = run(folder, model, tmp_path / "out", memory=12 * MIB, observer=Observer(refused=told.append))
    assert (result.done, result.refused) == (0, 1)
    assert "changed while it waited" in told[0].why


def test_what_waits_is_bounded_by_bytes(model, tmp_path, monkeypatch):
    monkeypatch.setattr("limner.steps.stylize._workers", lambda: 1)
    folder, memory = draw(tmp_path / "photos", [(200 + number, 200) for number in range(24)]), 8 * MIB
    # So little that all of them could wait for others of their size.
    model = replace(model, traits=replace(model.traits, bytes_per_pixel=1.0))
    most, take = [], _Job.take

    def watched(self, waiting, pool):
        take(self, waiting, pool)
        most.append(
            max(
                sum(waiting.nbytes for bucket in self._buckets.values() for waiting in bucket),
                sum(entry[2] for entry in self._encoding),
            )
        )

    monkeypatch.setattr(_Job, "take", watched)
    assert run(folder, model, tmp_path / "out", memory=memory).done == 24
    assert memory // WAITING_SHARE // 2 < max(most) <= memory // WAITING_SHARE


def test_scaling_up_makes_a_picture_large(model, tmp_path):
    (found,) = find_pictures([str(draw(tmp_path / "photos", [(40, 30)]))], max_megapixels=1, stores={}).pictures
    for short_side, is_large in ((None, False), (600, True)):
        options = StylizeOptions(memory=12 * MIB, short_side=short_side)
        job = _Job(model, FolderDestination(tmp_path / "out"), options, Observer(), 1)
        assert (job.load(found, "a.png").picture is None) == is_large


def test_a_picture_that_cannot_be_fetched_does_not_stop_the_others(model, tmp_path):
    def gone() -> bytes:
        raise Refused("unreadable", "AccessDenied")

    folder = draw(tmp_path / "photos", [(40, 30)] * 3)
    result = run(folder, model, tmp_path / "out", change=lambda found: [replace(found[0], fetch=gone), *found[1:]])
    assert (result.done, result.refused) == (2, 1)


def test_the_longer_the_record_takes_the_rarer_it_is_written(model, tmp_path, monkeypatch):
    folder = draw(tmp_path / "photos", [(20 + number, 20) for number in range(8)])
    written, write = [], FolderDestination.write

    def slow(self, name, content):
        if name == RECORD:
            written.append(name)
            time.sleep(1)
        write(self, name, content)

    monkeypatch.setattr(FolderDestination, "write", slow)
    monkeypatch.setattr("limner.steps.stylize.MOST_WAITING", 0)
    assert run(folder, model, tmp_path / "out").done == 8
    assert len(written) == 2  # the first result, and the end
    assert sorted(record(tmp_path / "out")) == [f"{number:03}.png" for number in range(8)]


def test_two_jobs_into_one_folder_keep_each_others_records(model, tmp_path, monkeypatch):
    first, second = draw(tmp_path / "first", [(40, 30)]), draw(tmp_path / "second", [(40, 30)] * 2)
    (second / "000.png").unlink()
    out, take = tmp_path / "out", _Job.take

    def meanwhile(self, waiting, pool):
        monkeypatch.setattr(_Job, "take", take)
        run(second, model, out)
        take(self, waiting, pool)

    monkeypatch.setattr(_Job, "take", meanwhile)
    run(first, model, out)
    assert sorted(record(out)) == ["000.png", "001.png"]
    assert (run(first, model, out).skipped, run(second, model, out).skipped) == (1, 1)
