"""Where things lie when no option says otherwise: the same folders that dvc.yaml names."""

from __future__ import annotations

import os
from pathlib import Path

from limner.cli.options import PARAMS


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


def find_exported(model: str) -> Path:
    """The folder of the model that `--model` names: an export directory, or one fetched from the model registry.

    MLflow is asked for models:/ addresses alone. Raises LimnerError where there is no such model.
    """
    from limner.adapters import CACHE, connect, user_cache
    from limner.steps.find_export import find_export

    cache = Path(os.environ.get("LIMNER_CACHE") or (CACHE if PARAMS.is_file() else user_cache()))
    return find_export(model, registry=lambda: connect(cache=cache).registry, cache=cache)
