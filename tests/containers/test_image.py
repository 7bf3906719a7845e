"""The image, really built: what is in it, and what must not be."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.containers.engine import COMMIT, Image

pytestmark = [pytest.mark.containers, pytest.mark.timeout(4000)]


@pytest.fixture(scope="module")
def config(image: Image) -> dict[str, Any]:
    found = image.engine.inspect(image.name)["Config"]
    assert isinstance(found, dict)
    return found


def test_it_runs_as_a_user_without_rights(image: Image, config: dict[str, Any]) -> None:
    assert config["User"] == "1000:1000"
    assert image.run("id", "-u").strip() == "1000"
    said = image.run("python", "-c", "import os; print([p for p in ('/', '/venv', '/app') if os.access(p, os.W_OK)])")
    assert said.strip() == "[]"


def test_it_puts_nothing_before_the_command(config: dict[str, Any]) -> None:
    assert not config["Entrypoint"]


def test_it_says_which_commit_it_is(image: Image, config: dict[str, Any], project: Path) -> None:
    assert json.loads(image.run("cat", "/app/BUILD_INFO.json")) == {"git_commit": COMMIT, "git_dirty": "false"}
    said = image.run("python", "-c", "from limner.lineage import code_version; print(code_version()['git_commit'])")
    assert said.strip() == COMMIT
    version = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    labels = {name.rsplit(".", 1)[-1]: value for name, value in config["Labels"].items()}
    assert labels["revision"] == COMMIT
    assert (labels["version"], labels["licenses"]) == (version, "Apache-2.0")


def test_limner_works_in_it(image: Image) -> None:
    assert "prepare" in image.run("limner", "--help")
    assert image.run() == image.run("limner", "--help")


def test_it_finds_itself_healthy(image: Image, config: dict[str, Any]) -> None:
    assert config["Healthcheck"]["Test"] == ["CMD", "limner", "doctor", "--quiet"]
    image.run("limner", "doctor", "--quiet")


def test_its_packages_are_those_of_the_lock(image: Image, project: Path) -> None:
    locked = {line.split(" ;")[0].lower() for line in (project / "requirements.lock").read_text().splitlines()}
    listed = "import importlib.metadata as m; print(*(f'{d.name}=={d.version}'.lower() for d in m.distributions()))"
    here = {name.replace("_", "-").replace(".", "-") for name in locked}
    others = [p for p in image.run("python", "-c", listed).split() if p.replace("_", "-").replace(".", "-") not in here]
    assert {name.split("==")[0] for name in others} <= {"limner", "pip", "setuptools"}


def test_it_reaches_a_database_server_and_a_gpu(image: Image) -> None:
    """As far as packages go: PostgreSQL's driver, PyTorch with CUDA."""
    said = image.run("python", "-c", "import psycopg, torch; print(torch.version.cuda)")
    assert said.strip() != "None"


def test_nothing_in_it_tells_where_packages_came_from(image: Image) -> None:
    history = image.engine("history", "--no-trunc", "--format", "{{.CreatedBy}}", image.name)
    settings = json.dumps(image.engine.inspect(image.name))
    for text in (history, settings):
        assert "UV_DEFAULT_INDEX" not in text
        assert not image.index or image.index not in text
    assert "AWS_" not in history + settings


def test_a_change_of_the_source_leaves_the_packages_layer(image: Image, project: Path) -> None:
    """Limner comes after the 5 GB, in a layer of its own."""
    sizes = image.engine("history", "--no-trunc", "--human=false", "--format", "{{.Size}} {{.CreatedBy}}", image.name)
    copies = [line for line in sizes.splitlines() if "/venv" in line and "COPY" in line]
    limner, packages = (int(line.split()[0]) for line in copies)
    assert limner < 20e6 < 1e9 < packages
