"""The command line as a person meets it: words in, text and a status out."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from limner.cli.app import app, run


@dataclass(frozen=True)
class Said:
    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Said]]:
    """`say("train", "tiny-gan")` runs `limner train tiny-gan` in this process."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*words: str | Path, program: typer.Typer = app) -> Said:
        monkeypatch.setattr(sys, "argv", ["limner", *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run(program, "limner")
        return Said(int(stopped.value.code or 0), *capfd.readouterr())

    yield call
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def tiny_pipeline(tiny_params: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the five steps have run for `tiny-gan`, untracked."""
    folder, before = tmp_path_factory.mktemp("pipeline"), Path.cwd()
    (folder / "params.yaml").write_bytes(tiny_params.read_bytes())
    os.chdir(folder)
    try:
        for words in (
            ["prepare", "tiny"],
            *([step, "tiny-gan", "--no-track"] for step in ("train", "evaluate", "export", "promote")),
        ):
            typer.main.get_command(app).main(words, prog_name="limner", standalone_mode=False)
    finally:
        os.chdir(before)
    return folder
