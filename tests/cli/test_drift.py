"""limner drift as a person meets it."""

import json

import pytest

from tests.drifting import clouds, save, write_export
from tests.packed import pack


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """200 grey clouds of 16 pixels, with 60 held out."""
    parts = {"train": (clouds(200, 1), None), "validation": (clouds(60, 2), None)}
    return pack(tmp_path_factory.mktemp("drift") / "set", {"pictures": parts})


@pytest.fixture(scope="module")
def export(packed, tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("drift") / "export", packed)


def test_a_drift_is_told_and_the_status_is_0(say, export, tmp_path):
    said = say("drift", export, save(tmp_path / "new", clouds(60, 3, brighter=60)))
    assert said.status == 0, said.err
    assert said.out.startswith("drift\n  The 60 pictures are not a sample of what the model was trained on: p = 0.001")
    assert "kd_pixels" in said.out
    assert "0000.png" in said.out or "furthest outside of the training pictures" in said.out


def test_scripts_get_status_3_for_a_drift(say, export, tmp_path):
    folder = save(tmp_path / "new", clouds(60, 3, brighter=60))
    assert say("drift", export, folder, "--fail-on-drift", "--json").status == 3


def test_scripts_get_status_0_where_nothing_drifts(say, export, packed):
    said = say("drift", export, packed.path, "--fail-on-drift", "--json")
    assert said.status == 0, said.err
    assert said.document["verdict"] == "no drift"
    assert said.document["protocol"]["features"] == "pixels"


def test_json_and_the_file_say_the_same(say, export, tmp_path):
    said = say("drift", export, save(tmp_path / "new", clouds(12, 3)), "--json", "--out", tmp_path / "drift.json")
    assert said.status == 0, said.err
    assert said.document == json.loads((tmp_path / "drift.json").read_text())
    assert len(said.document["furthest"]) == 5


def test_what_was_left_out_is_told_on_standard_error(say, export, tmp_path):
    folder = save(tmp_path / "new", clouds(60, 3, brighter=60))
    (folder / "0003.png").write_bytes(b"no picture")
    said = say("drift", export, folder)
    assert said.status == 0
    assert "Left out: 0003.png (not a picture" in said.err
    assert "Note: 1 pictures could not be used." in said.err


def test_no_such_model_is_the_users_mistake(say, tmp_path):
    said = say("drift", tmp_path / "nowhere", tmp_path)
    assert said.status == 2
    assert "Error: " in said.err


def test_many_outliers_are_named_up_to_twenty(say, export, tmp_path):
    pictures = clouds(90, 3)
    pictures[:30] = 0
    said = say("drift", export, save(tmp_path / "new", pictures), "--fail-on-drift")
    assert said.status == 3
    assert "lie outside, where 1% of held-out pictures do" in said.out
    listed = said.out.partition("furthest outside")[2].splitlines()[1:]
    assert {line.split()[1] for line in listed[:20]} <= {f"{number:04}.png" for number in range(30)}
    assert listed[-1].endswith("more; --json names all")
