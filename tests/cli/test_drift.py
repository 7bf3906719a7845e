"""limner drift as a person meets it."""

import json
import shutil

import pytest

from limner.packing import PackedDataset
from tests.drifting import add_reference, clouds, save


@pytest.fixture(scope="module")
def export(tiny_pipeline, tmp_path_factory):
    """A generator of printed digits, with the features of its training pictures."""
    folder = tmp_path_factory.mktemp("drift") / "export"
    shutil.copytree(tiny_pipeline / "exports" / "tiny-gan", folder)
    return add_reference(folder, PackedDataset(tiny_pipeline / "data" / "prepared" / "tiny"))


def test_a_drift_is_told_and_the_status_is_0(say, export, tmp_path):
    said = say("drift", export, save(tmp_path / "new", clouds(60, 3)))
    assert said.status == 0, said.err
    assert said.out.startswith("drift\n  The 60 pictures are not a sample of what the model was trained on: p = 0.001")
    assert "kd_pixels" in said.out
    assert "0000.png" in said.out or "furthest from any training picture" in said.out


def test_scripts_get_status_3_for_a_drift(say, export, tmp_path):
    folder = save(tmp_path / "new", clouds(60, 3))
    assert say("drift", export, folder, "--fail-on-drift", "--json").status == 3


def test_scripts_get_status_0_where_nothing_drifts(say, export, tiny_pipeline):
    said = say("drift", export, tiny_pipeline / "data" / "prepared" / "tiny", "--fail-on-drift", "--json")
    assert said.status == 0, said.err
    assert said.document["verdict"] == "no drift"
    assert said.document["protocol"]["features"] == "pixels"


def test_json_and_the_file_say_the_same(say, export, tmp_path):
    said = say("drift", export, save(tmp_path / "new", clouds(12, 3)), "--json", "--out", tmp_path / "drift.json")
    assert said.status == 0, said.err
    assert said.document == json.loads((tmp_path / "drift.json").read_text())
    assert len(said.document["furthest"]) == 5


def test_what_was_left_out_is_told_on_standard_error(say, export, tmp_path):
    folder = save(tmp_path / "new", clouds(60, 3))
    (folder / "0003.png").write_bytes(b"no picture")
    said = say("drift", export, folder)
    assert said.status == 0
    assert "Left out: 0003.png (not a picture" in said.err
    assert "Note: 1 pictures could not be used." in said.err


def test_no_such_model_is_the_users_mistake(say, tmp_path):
    said = say("drift", tmp_path / "nowhere", tmp_path)
    assert said.status == 2
    assert "Error: " in said.err
