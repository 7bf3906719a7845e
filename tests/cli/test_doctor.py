from __future__ import annotations

from pathlib import Path

import pytest

DIGEST = f"registry.example/limner-python@sha256:{'a' * 64}"


def test_a_finding_is_a_line_and_its_fix_the_next(say, tiny_params: Path) -> None:
    said = say("doctor", "tiny-gan", "--params", tiny_params, "--image", "limner-python:0.1.0")
    assert said.status == 0  # a tag is a warning
    lines = said.out.splitlines()
    (image,) = [number for number, line in enumerate(lines) if line.startswith("warn  image ")]
    assert "limner-python:0.1.0 is a tag" in lines[image]
    assert lines[image + 1].strip().startswith("-> Name it by its digest")
    assert any(line.startswith("ok    settings") and "models.tiny-gan" in line for line in lines)
    columns = {line.index(line[6:].split("  ")[-1].strip()) for line in lines if not line.startswith(" ")}
    assert len(columns) == 1  # aligned


def test_what_would_fail_ends_with_status_2(say, tiny_params: Path) -> None:
    said = say("doctor", "tiny-gan", "--params", tiny_params, "--processes", "1000")
    assert said.status == 2
    assert "FAIL  settings" in said.out
    assert said.err == ""


def test_quiet_tells_of_problems_only(say, tiny_params: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_IMAGE", DIGEST)
    said = say("doctor", "tiny-gan", "--params", tiny_params, "--quiet", "--json")
    assert said.status == 0
    assert {finding["status"] for finding in said.document} <= {"warning"}
    assert "ok " not in say("doctor", "tiny-gan", "--params", tiny_params, "--quiet").out


def test_json_is_the_list_of_all_findings(say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")  # a pod without a server to record in
    said = say("doctor", "--image", DIGEST, "--dataset-md5", f"{'0' * 32}.dir", "--json")
    assert said.status == 2
    found = {finding["check"]: finding for finding in said.document}
    assert found["image"] == {"check": "image", "status": "ok", "what": DIGEST, "fix": ""}
    assert found["mlflow"]["status"] == "error"
    assert found["dataset on remote"]["status"] == "skipped"
    assert {"python", "torch", "memory", "disk: results", "disk: temporary"} < set(found)


def test_the_options_lead_to_the_servers(say) -> None:
    said = say("doctor", "--kubeflow", "nowhere", "--checkpoints", "https://bucket", "--remote", "ftp://x", "--json")
    found = {finding["check"]: finding for finding in said.document}
    assert said.status == 2
    assert found["kubeflow"]["fix"].startswith("Write it with http://")


def test_nothing_is_written(say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    say("doctor")
    assert list(tmp_path.iterdir()) == []
