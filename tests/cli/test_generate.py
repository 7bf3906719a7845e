from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.mlflow_stand import third_party_warnings


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
    assert said.document == {
        "output": str(tmp_path / "out"), "count": 2, "seed": 0, "label": None, "truncation": None
    }  # fmt: skip
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


def test_a_truncation_makes_other_pictures_of_the_same_seed(say, model: Path, tmp_path: Path) -> None:
    for name, words in (("whole", ()), ("cut", ("--truncation", "0.3"))):
        said = say("generate", "--model", model, "--count", "1", "--out", tmp_path / name, "--json", *words)
        assert said.document["truncation"] == (0.3 if words else None)
    assert (tmp_path / "whole" / "00000.png").read_bytes() != (tmp_path / "cut" / "00000.png").read_bytes()
    said = say("generate", "--model", model, "--truncation", "-1", "--out", tmp_path / "none")
    assert said.status == 2
    assert "Take more than 0" in said.err
    assert not (tmp_path / "none").exists()


def test_a_model_that_is_not_there_is_told_with_the_one_that_was_meant(
    say, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parents[1])
    said = say("generate", "--model", "tiny-gan", "--out", tmp_path / "out")
    assert said.status == 2
    assert "Did you mean 'exports/tiny-gan'?" in said.err
    assert say("generate", "--model", "exports/tiny-gan", "--count", "1", "--out", tmp_path / "out").status == 0


def test_a_registry_that_does_not_answer_is_told(say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    said = say("generate", "--model", "models:/tiny-gan@champion", "--out", tmp_path / "out")
    assert said.status == 2
    assert "The model registry at http://127.0.0.1:9 cannot be used." in said.err
    assert not (tmp_path / "out").exists()


def test_an_address_that_is_none_is_told_before_the_registry_is_asked(say, tmp_path: Path) -> None:
    said = say("generate", "--model", "models:/tiny-gan", "--out", tmp_path / "out")
    assert said.status == 2
    assert "models:/NAME@ALIAS or models:/NAME/VERSION" in said.err


@pytest.mark.slow
@third_party_warnings
def test_a_registered_model_is_generated_from_by_alias_and_by_version(
    say, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(model.parents[1])
    assert say("promote", "tiny-gan", "--output", tmp_path / "promoted").status == 0
    for name, address in (
        ("folder", str(model)),
        ("alias", "models:/tiny-gan@champion"),
        ("one", "models:/tiny-gan/1"),
    ):
        said = say("generate", "--model", address, "--count", "2", "--seed", "3", "--out", tmp_path / name)
        assert said.status == 0, said.err
    pictures = [(tmp_path / name / "00001.png").read_bytes() for name in ("folder", "alias", "one")]
    assert pictures[0] == pictures[1] == pictures[2]
    said = say("generate", "--model", "models:/tiny-gan@chmapion", "--out", tmp_path / "none")
    assert said.status == 2
    assert "Did you mean 'champion'?" in said.err
    program = next((tmp_path / "cache").rglob("model.pt2"))
    program.write_bytes(program.read_bytes() + b"x")
    said = say("generate", "--model", "models:/tiny-gan@champion", "--out", tmp_path / "none")
    assert said.status == 2
    assert "was changed since it was exported" in said.err
