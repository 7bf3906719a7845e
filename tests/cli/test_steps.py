from __future__ import annotations

from pathlib import Path

import pytest


@pytest.mark.usefixtures("_in_pipeline")
class TestPlaces:
    @pytest.fixture
    def _in_pipeline(self, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tiny_pipeline)

    @pytest.mark.parametrize(
        "path",
        [
            "data/prepared/tiny/manifest.json",
            "models/tiny-gan/curves.csv",
            "reports/tiny-gan/metrics.json",
            "reports/tiny-gan/report.html",
            "exports/tiny-gan/model.safetensors",
            "promotions/tiny-gan/promotion.json",
        ],
    )
    def test_each_step_puts_its_result_into_its_usual_place(self, path: str) -> None:
        assert Path(path).is_file()

    def test_training_leaves_no_checkpoints_behind(self) -> None:
        assert not [path for path in Path("runs/tiny-gan").rglob("*") if path.is_file()]


def test_prepare_prints_its_result(say, tiny_params: Path, tmp_path: Path) -> None:
    said = say("prepare", "tiny", "--params", tiny_params, "--output", tmp_path / "packed")
    assert said.status == 0
    assert "digest" in said.out
    assert "pictures/train 18" in said.out


def test_json_is_the_whole_result(say, tiny_params: Path, tmp_path: Path) -> None:
    said = say("prepare", "tiny", "--params", tiny_params, "--output", tmp_path / "packed", "--json")
    assert said.document["output"] == str(tmp_path / "packed")
    assert sum(said.document["counts"].values()) + said.document["rejected"] == 200


def test_every_option_of_a_place_is_followed(say, tiny_params: Path, tiny_pipeline: Path, tmp_path: Path) -> None:
    options = ("--params", tiny_params, "--no-track", "--json")
    data = ("--dataset", tiny_pipeline / "data/prepared/tiny")
    words = ("train", "tiny-gan", *data, "--output", tmp_path / "model", "--scratch", tmp_path / "scratch", *options)
    assert say(*words).document["output"] == str(tmp_path / "model")
    words = ("evaluate", "tiny-gan", *data, "--model", tmp_path / "model", "--output", tmp_path / "report", *options)
    assert say(*words).document["output"] == str(tmp_path / "report")
    judged = ("--evaluation", tmp_path / "report")
    words = ("export", "tiny-gan", *judged, "--model", tmp_path / "model", "--output", tmp_path / "export", *options)
    assert say(*words).document["output"] == str(tmp_path / "export")
    words = (
        "promote",
        "tiny-gan",
        *judged,
        "--export",
        tmp_path / "export",
        "--output",
        tmp_path / "verdict",
        *options,
    )
    assert say(*words).document["output"] == str(tmp_path / "verdict")
    assert not Path("models").exists()


def test_a_step_without_its_input_says_which_command_makes_it(say, tiny_params: Path) -> None:
    said = say("train", "tiny-gan", "--params", tiny_params, "--no-track")
    assert said.status == 2
    assert "limner prepare" in said.err


@pytest.fixture
def rehearsal(monkeypatch: pytest.MonkeyPatch, tiny_params: Path, tiny_pipeline: Path) -> tuple[str | Path, ...]:
    monkeypatch.setattr("limner.steps.rehearse.SECONDS", 0.05)
    return (
        "train",
        "tiny-gan",
        "--dry-run",
        "--params",
        tiny_params,
        "--dataset",
        tiny_pipeline / "data/prepared/tiny",
    )


def test_a_rehearsal_tells_what_training_would_take_and_leaves_nothing(say, rehearsal: tuple[str | Path, ...]) -> None:
    said = say(*rehearsal)
    assert said.status == 0
    for word in ("parameters", "generator", "discriminator", "memory gib", "images per second", "minutes", "steps"):
        assert word in said.out
    document = say(*rehearsal, "--json").document
    assert document["parameters"].keys() == {"generator", "discriminator"}
    assert document["minutes"]["steps"] > 0
    assert not list(Path.cwd().iterdir())


def test_only_the_first_process_rehearses(
    say, rehearsal: tuple[str | Path, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    said = say(*rehearsal)
    assert (said.status, said.out) == (0, "")
