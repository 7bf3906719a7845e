"""Pipelines under Kubeflow's local runner, as a person starts them: in a process of their own, in an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from tests.mlflow_stand import database

PROJECT = Path(__file__).parents[2]
LONGEST = 500


def surroundings(**more: str) -> dict[str, str]:
    """The environment of somebody who has activated this one."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(PROJECT), "PYTHONWARNINGS": "ignore", **more}


def run(*words: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """A command of this environment."""
    return subprocess.run(
        words, cwd=cwd, env=surroundings(**more), capture_output=True, text=True, check=False, timeout=LONGEST
    )


SHORT = ("--set", "models.tiny-gan.train.kimg=0.128", "--set", "models.tiny-gan.export.formats=[pt2]")
"""Words that make a run of the tiny catalog shorter."""


@dataclass
class LocalRun:
    """`python -m pipelines run-local`, and what came of it."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    count: int = 0

    def __call__(self, *words: str | Path, kill_training: int = 0, status: int = 0) -> tuple[Path, str]:
        """Run it; returns the folder of the outputs and what was said.

        `kill_training`: so many times the process that trains is killed as soon as it has a new checkpoint.
        """
        self.count += 1
        root = self.folder / f"run-{self.count}"
        command = [sys.executable, "-m", "pipelines", "run-local", *words, "--root", root]
        said = self.folder / f"run-{self.count}.log"
        with said.open("w") as file:
            process = subprocess.Popen(
                command, cwd=self.folder, env=surroundings(**self.environment), stdout=file, stderr=subprocess.STDOUT
            )
            if kill_training:
                assert kill_after_checkpoints(process.pid, times=kill_training) == kill_training, said.read_text()
            assert process.wait(LONGEST) == status, said.read_text()[-8000:]
        made = list(root.glob("*/*"))
        return (made[0] if made else root), said.read_text()


def opened(folders: pytest.TempPathFactory) -> LocalRun:
    """A folder with an MLflow of its own."""
    folder = folders.mktemp("local")
    return LocalRun(folder, {"MLFLOW_TRACKING_URI": database(folder, folders)})


def client(local: LocalRun) -> MlflowClient:
    """Of that MLflow."""
    return MlflowClient(local.environment["MLFLOW_TRACKING_URI"])


def kill_after_checkpoints(parent: int, *, times: int) -> int:
    """Kill the training below a process, each time when it has saved once more; returns how often that was done."""
    done, seen, until = 0, set[str](), time.monotonic() + LONGEST
    while done < times and time.monotonic() < until and psutil.pid_exists(parent):
        for child in _trainings(parent):
            scratch = _argument(child, "scratch")
            saved = (
                {str(path) for path in Path(scratch).glob("*/*/*/checkpoints/step-*/manifest.json")}
                if scratch
                else set()
            )
            if saved - seen:
                child.kill()
                seen, done = seen | saved, done + 1
                break
        time.sleep(0.02)
    return done


def _trainings(parent: int) -> list[psutil.Process]:
    try:
        children = psutil.Process(parent).children(recursive=True)
        # Not the shell around it, whose words are the same.
        pythons = [child for child in children if child.name().startswith("python")]
        return [child for child in pythons if "--function_to_execute train" in " ".join(child.cmdline())]
    except psutil.Error:
        return []


def _argument(process: psutil.Process, name: str) -> str:
    try:
        words = process.cmdline()
        given = json.loads(words[words.index("--executor_input") + 1])
        return str(given["inputs"]["parameterValues"][name])
    except (psutil.Error, ValueError, KeyError, IndexError):
        return ""


def returned(run_folder: Path, task: str) -> Any:
    """What a task returned."""
    (found,) = run_folder.rglob(f"{task}/executor_output.json")
    return json.loads(found.read_text(encoding="utf-8"))["parameterValues"]["Output"]


def tasks_of(run_folder: Path) -> set[str]:
    """Names of the tasks that ran."""
    return {found.parent.name for found in run_folder.rglob("executor_output.json")}


def metrics(folder: Path) -> dict[str, Any]:
    """What an evaluation found."""
    document: dict[str, Any] = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    return document
