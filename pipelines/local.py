"""The pipeline on this machine: each step in a process of its own, as on a cluster it has a pod."""

from __future__ import annotations

import tempfile
from pathlib import Path

from kfp import local

from pipelines.train_and_promote import train_and_promote


def run_here(model: str, *, settings: str, root: Path) -> str:
    """Run all steps; returns the verdict of the promotion. Outputs lie in a new folder of `root`.

    Raises RuntimeError where a step fails.
    """
    with tempfile.TemporaryDirectory(prefix="limner-workspace-") as workspace:  # kfp deletes it, too
        # Without a virtual environment of its own a step sees this one, with limner in it.
        local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(root), workspace_root=workspace)
        task = train_and_promote(model=model, settings=settings)
    return str(task.outputs["Output"])
