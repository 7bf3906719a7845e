"""The engine and the image, built once: everything here needs them. `make test-containers` runs it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import engine as engines
from tests.containers.engine import COMMIT, Engine, Image


def _mirror_of_pypi() -> str:
    """As the Makefile finds it for .venv."""
    for name in ("UV_DEFAULT_INDEX", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return os.environ[name]
    said = subprocess.run(["pip", "config", "get", "global.index-url"], capture_output=True, text=True, check=False)
    return said.stdout.strip() if said.returncode == 0 else ""


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with engines.running() as running:
        yield running


@pytest.fixture(scope="session")
def image(engine: Engine) -> Iterator[Image]:
    # kfp's local runner trusts an image with `python` in its name.
    name, index = "limner-python:test", _mirror_of_pypi()
    arguments = {"GIT_COMMIT": COMMIT, "GIT_DIRTY": "false"} | ({"UV_DEFAULT_INDEX": index} if index else {})
    with engines.base_image(engine) as base:
        engine.build(Path(__file__).parents[2], name, arguments | {"BASE_IMAGE": base})
        try:
            yield Image(name, engine, index)
        finally:
            engine("image", "rm", "--force", name, check=False)
