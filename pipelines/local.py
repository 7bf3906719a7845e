"""A pipeline on this machine: each step in a process of its own, as on a cluster it has a pod."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kfp import local

from pipelines import load
from pipelines.placement import Placement

HERE = Placement(train_retries=2, retries=2, wait="1s")
"""Whoever waits in front of the machine wants to see an error soon."""


def run_here(pipeline: str, arguments: Mapping[str, Any], *, root: Path, placement: Placement = HERE) -> Path:
    """Run all steps of a pipeline; returns the folder, new in `root`, where each step's outputs lie.

    Raises RuntimeError where the pipeline fails.
    """
    root.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(prefix=f"{pipeline}-", dir=root.resolve()))
    with tempfile.TemporaryDirectory(prefix="limner-workspace-") as workspace:  # kfp deletes it, too
        # Without a virtual environment of its own a step sees this one, with limner in it.
        runner = local.SubprocessRunner(use_venv=False)
        local.init(runner, pipeline_root=str(own), workspace_root=workspace)
        known = load(pipeline, placement)
        # The runner finds no defaults inside an exit handler.
        defaults = {name: one.default for name, one in known.component_spec.inputs.items() if one.optional}
        known(**{**defaults, "gpus": 0, **arguments})
    (made,) = own.iterdir()
    return made


def verdict_of(folder: Path) -> str:
    """What the gate decided; empty where the pipeline did not come so far."""
    for found in folder.rglob("gate/executor_output.json"):
        return str(json.loads(found.read_text(encoding="utf-8"))["parameterValues"]["Output"])
    return ""
