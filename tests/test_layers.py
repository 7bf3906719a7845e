"""The shape of the house: floors, sizes, names."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from pipelines import PIPELINES

CODE = ("src", "components", "pipelines")
NOT_AN_ANSWER = {"base", "common", "core", "helper", "helpers", "manager", "misc", "util", "utils"}


def files(project: Path) -> list[Path]:
    return [path for folder in CODE for path in sorted((project / folder).rglob("*.py"))]


def test_nothing_imports_upwards(project: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    found = subprocess.run([lint, "--no-cache"], cwd=project, capture_output=True, text=True, check=False, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr


def test_no_file_is_longer_than_400_lines(project: Path) -> None:
    long = {path.name: lines for path in files(project) if (lines := len(path.read_text().splitlines())) > 400}
    assert not long


def test_the_training_loop_fits_on_one_page(project: Path) -> None:
    """Whatever is added to the engine, who reads `train` sees a whole run at once."""
    module = ast.parse((project / "src" / "limner" / "training_loop.py").read_text())
    (loop,) = [node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "train"]
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno + 1 <= 60


def test_every_name_says_where_something_is(project: Path) -> None:
    assert not [
        path
        for path in files(project)
        if NOT_AN_ANSWER & set(path.stem.split("_")) or path.parent.name in NOT_AN_ANSWER
    ]


def test_folders_are_two_deep_at_most(project: Path) -> None:
    package = project / "src" / "limner"
    assert not [path for path in package.rglob("*.py") if len(path.relative_to(package).parts) > 2]


def test_shells_stay_thin(project: Path) -> None:
    """Components, and the pipelines that wire them; what compiles, checks and submits them is a program of its own."""
    shells = [*(project / "components").glob("*.py"), *(project / "pipelines" / f"{name}.py" for name in PIPELINES)]
    assert not [path.name for path in shells if len(path.read_text().splitlines()) > 110]
