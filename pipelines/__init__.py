"""Kubeflow pipelines: how the components hang together. `python -m pipelines --help` says what they can do."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.placement import Placement

PIPELINES = ("train_and_promote", "train_on_nodes", "sweep", "retrain", "stylize_batch")


def load(name: str, placement: Placement) -> Any:
    """One of PIPELINES, with what is decided at compile time."""
    return import_module(f"pipelines.{name}").build(placement)
