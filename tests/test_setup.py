"""What a stranger meets first: the lock, the Makefile, CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@pytest.fixture(scope="module")
def pins(project: Path) -> list[Requirement]:
    return [Requirement(line) for line in (project / "requirements.lock").read_text().splitlines()]


def test_the_lock_names_versions_and_no_places(pins: list[Requirement]) -> None:
    assert not [pin for pin in pins if pin.url or not str(pin.specifier).startswith("==")]


def test_the_lock_has_what_the_project_asks_for(project: Path, pins: list[Requirement]) -> None:
    document = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [
        *document["dependencies"],
        *document["optional-dependencies"]["pipeline"],
        *document["optional-dependencies"]["efficientnet"],
        *document["optional-dependencies"]["dev"],
    ]
    locked = {}
    for pin in pins:
        if pin.marker is None or pin.marker.evaluate():
            locked[canonicalize_name(pin.name)] = str(pin.specifier).removeprefix("==")
    for requirement in (Requirement(each) for each in asked if not each.startswith("limner[")):
        assert locked[canonicalize_name(requirement.name)] in requirement.specifier, "make lock"


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words], cwd=folder, env=ours, capture_output=True, text=True, check=False, timeout=60
    )


def test_make_alone_lists_the_commands(project: Path) -> None:
    said = make(project)
    assert said.returncode == 0
    for command in ("run", "test", "check", "smoke", "ui", "help"):
        assert f"make {command} " in said.stdout


def test_make_says_which_python_it_needs(project: Path, tmp_path: Path) -> None:
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy(project / name, tmp_path / name)
    said = make(tmp_path, "test", "PYTHON=python-of-nowhere")
    assert said.returncode != 0
    assert "There is no python-of-nowhere. Install Python 3.11 or newer" in said.stderr
    assert not (tmp_path / ".venv").exists()


def test_ci_runs_make_test(project: Path) -> None:
    assert os.access(project / ".ci" / "run", os.X_OK)
    assert "make test" in (project / ".ci" / "run").read_text(encoding="utf-8")
