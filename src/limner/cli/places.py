"""Where things lie when no option says otherwise: the same folders that dvc.yaml names."""

from __future__ import annotations

from pathlib import Path


def dataset(name: str) -> Path:
    """A packed dataset."""
    return Path("data/prepared", name)


def model(name: str) -> Path:
    """A trained model."""
    return Path("models", name)


def evaluation(name: str) -> Path:
    """The metrics and the report of a model."""
    return Path("reports", name)


def export(name: str) -> Path:
    """An exported model."""
    return Path("exports", name)


def promotion(name: str) -> Path:
    """What became of a model in the registry."""
    return Path("promotions", name)


def scratch(name: str) -> Path:
    """Checkpoints and journal of a training that is under way."""
    return Path("runs", name)
