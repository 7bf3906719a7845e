from __future__ import annotations

from pathlib import Path

import pytest


def test_summary_has_data_metrics_registry_and_what_to_do_next(
    say, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_pipeline)
    document = say("summary", "--json").document["tiny-gan"]
    said = say("summary")
    assert said.status == 0
    assert document["dataset_digest"][:12] in said.out
    for metric in ("fd_pixels", "copy_share"):
        assert metric in document["metrics"]
        assert metric in said.out
    assert "precision_pixels" in document["metrics"]
    assert "precision_pixels" not in said.out, "what deserves to be seen first leaves room for the registry"
    assert "±" in said.out, "an error stands behind its figure"
    assert "_se" not in said.out
    assert document["verdict"] in said.out
    assert "make ui" in said.out
    assert "reports/tiny-gan/report.html" in said.out
    assert "limner generate --model exports/tiny-gan --count 64 --seed 0 --out generated/tiny-gan" in said.out


def test_what_to_do_with_a_translator_is_to_stylize(say, tiny_params: Path) -> None:
    for name, content in (
        ("reports/tiny-gan/metrics.json", '{"chosen": "best", "best": {"fd_pixels": 1.0}}'),
        ("exports/tiny-gan/config.json", '{"task": "unpaired"}'),
    ):
        Path(name).parent.mkdir(parents=True)
        Path(name).write_text(content, encoding="utf-8")
    said = say("summary", "--params", tiny_params)
    assert "limner stylize YOUR_PICTURES --model exports/tiny-gan --out stylized/tiny-gan" in said.out
    assert "limner generate" not in said.out


def test_summary_of_nothing_says_how_to_begin(say, tiny_params: Path) -> None:
    said = say("summary", "--params", tiny_params)
    assert said.status == 2
    assert "make run" in said.err


def test_a_damaged_result_is_named(say, tiny_params: Path) -> None:
    Path("reports/tiny-gan").mkdir(parents=True)
    Path("reports/tiny-gan/metrics.json").write_text("{", encoding="utf-8")
    said = say("summary", "--params", tiny_params)
    assert said.status == 2
    assert "metrics.json is damaged" in said.err
