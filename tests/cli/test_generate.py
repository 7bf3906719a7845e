from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def model(tiny_pipeline: Path) -> Path:
    return tiny_pipeline / "exports" / "tiny-gan"


def test_generate_saves_each_picture_and_a_sheet_of_all(say, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "pictures"
    said = say("generate", "--model", model, "--count", "5", "--out", out)
    assert said.status == 0, said.err
    assert sorted(path.name for path in out.iterdir()) == [*(f"{number:05d}.png" for number in range(5)), "grid.png"]
    with Image.open(out / "00004.png") as picture, Image.open(out / "grid.png") as sheet:
        assert picture.size == (16, 16)
        assert picture.mode == "L"
        assert sheet.size == (3 * 16, 2 * 16)
        fifth = np.asarray(sheet)[16:, 16:32]
        assert np.array_equal(fifth, np.asarray(picture))


def test_the_same_seed_gives_the_same_pictures(say, model: Path, tmp_path: Path) -> None:
    for name, seed in (("a", "1"), ("b", "1"), ("c", "2")):
        say("generate", "--model", model, "--count", "2", "--seed", seed, "--out", tmp_path / name)
    a, b, c = ((tmp_path / name / "00001.png").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_generate_again_replaces_its_own_pictures(say, model: Path, tmp_path: Path) -> None:
    say("generate", "--model", model, "--count", "5", "--out", tmp_path / "out")
    said = say("generate", "--model", model, "--count", "2", "--out", tmp_path / "out", "--json")
    assert said.document == {"output": str(tmp_path / "out"), "count": 2, "seed": 0, "label": None}
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_generate_leaves_other_peoples_files_alone(say, model: Path, tmp_path: Path) -> None:
    (tmp_path / "holiday.png").write_bytes(b"precious")
    said = say("generate", "--model", model, "--out", tmp_path)
    assert said.status == 2
    assert "Name another folder with --out." in said.err
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.png"]


def test_a_folder_without_a_model_is_refused(say, tmp_path: Path) -> None:
    said = say("generate", "--model", tmp_path, "--out", tmp_path / "out")
    assert said.status == 2
    assert "limner export MODEL" in said.err
    assert not (tmp_path / "out").exists()
