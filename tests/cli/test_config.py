from __future__ import annotations

from pathlib import Path

from limner.steps import catalog_from_json, open_catalog


def test_show_prints_all_settings_with_their_defaults(say, tiny_params: Path) -> None:
    said = say("config", "show", "tiny-gan", "--params", tiny_params)
    assert said.status == 0
    assert "keep_checkpoints: 2" in said.out
    assert "kind: printed-digits" in said.out


def test_show_can_be_pasted_back_as_a_catalog(say, tiny_params: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(say("config", "show", "tiny-gan", "--params", tiny_params).out, encoding="utf-8")
    assert open_catalog(copy).model("tiny-gan") == open_catalog(tiny_params).model("tiny-gan")
    assert open_catalog(copy).dataset("tiny") == open_catalog(tiny_params).dataset("tiny")


def test_show_as_json_is_what_travels_to_kubeflow(say, tiny_params: Path) -> None:
    said = say("config", "show", "tiny-gan", "--params", tiny_params, "--json")
    assert catalog_from_json(said.out).model("tiny-gan") == open_catalog(tiny_params).model("tiny-gan")


def test_set_changes_what_is_shown(say, tiny_params: Path) -> None:
    words = ("config", "show", "tiny-gan", "--params", tiny_params, "--set", "models.tiny-gan.train.batch=8", "--json")
    assert say(*words).document["models"]["tiny-gan"]["train"]["batch"] == 8


def test_an_unknown_model_is_answered_with_those_there_are(say, tiny_params: Path) -> None:
    said = say("config", "show", "tiny-gun", "--params", tiny_params)
    assert said.status == 2
    assert "Did you mean 'tiny-gan'?" in said.err
