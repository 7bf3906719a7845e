"""Decide what becomes of a judged model before anything is made of it; nothing is registered and nothing moved."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.ports import ModelVersion, Ports
from limner.promotion import Decision, decide
from limner.settings import MethodSettings, ModelSettings


def gate(settings: ModelSettings[MethodSettings], *, name: str, evaluation: Path, ports: Ports) -> Decision:
    """What `promote` would decide now of the model that `evaluation` judged, whatever its export will cost."""
    registered_name = settings.promote.registered_name or name
    candidate = judged_model(registered_name, evaluation, digest=read_lineage(evaluation).get("export_digest", ""))
    policy = settings.promote.model_copy(update={"budgets": {}})
    known = registered_name in ports.registry.names()
    history = ports.registry.history(registered_name) if known else ()
    return decide(candidate, ports.registry.champion(registered_name), policy, history=history)


def judged_model(registered_name: str, evaluation: Path, *, digest: str) -> ModelVersion:
    """A model with the figures of the weights that were chosen. Raises LimnerError where they are none."""
    path = evaluation / "metrics.json"
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        metrics = {name: _number(value) for name, value in document[document["chosen"]].items()}
        protocol = {name: str(value) for name, value in document["protocol"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise LimnerError(
            f"{path} is not an evaluation.", why=repr(error), fix="Evaluate first: limner evaluate MODEL"
        ) from error
    return ModelVersion(registered_name, "", (), metrics, protocol, digest)


def _number(value: float | None) -> float:
    """JSON has no NaN; null stands for a metric that could not be computed."""
    return math.nan if value is None else float(value)
