"""Choose the best of several judged models, such as the trials of a sweep."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from limner.errors import LimnerError
from limner.lineage import read_lineage
from limner.ports import ModelVersion
from limner.promotion import compared_metric, unlike_protocols
from limner.settings import MethodSettings, ModelSettings
from limner.steps.gate import judged_model


@dataclass(frozen=True)
class Chosen:
    """Which one it is, by its place in the list, and all of them as a table in Markdown."""

    best: int
    metric: str
    values: tuple[float, ...]
    table: str


def choose(settings: Sequence[ModelSettings[MethodSettings]], *, name: str, evaluations: Sequence[Path]) -> Chosen:
    """Compare judged models of one name by the metric of the first one's policy; the earlier one wins a tie.

    One whose metric is no number never wins. Raises LimnerError where none has a usable value, and where they were
    judged under different protocols.
    """
    if not evaluations or len(settings) != len(evaluations):
        raise LimnerError(f"There are settings of {len(settings)} models and evaluations of {len(evaluations)}.")
    policy = settings[0].promote
    models = [judged_model(name, each, digest=read_lineage(each).get("export_digest", "")) for each in evaluations]
    for number, model in enumerate(models[1:], start=2):
        if unlike := unlike_protocols(model.protocol, models[0].protocol):
            raise LimnerError(
                f"Trial {number} was judged in another way than the first: {'; '.join(unlike)}.",
                why="So their figures say nothing about each other.",
                fix="Let trials change what is trained, and none of them how it is judged.",
            )
    metric = compared_metric(models[0].metrics, policy)
    values = tuple(model.metrics.get(metric, math.nan) for model in models)
    usable = [place for place, value in enumerate(values) if math.isfinite(value)]
    if not usable:
        raise LimnerError(
            f"None of the {len(models)} trials has a usable {metric or 'metric'}.",
            fix="Look at their reports; name the metric to compare as promote.metric.",
        )
    sign = 1 if policy.better == "lower" else -1
    best = min(usable, key=lambda place: sign * values[place])
    return Chosen(best, metric, values, _table(name, models, metric, values, best))


def _table(name: str, models: Sequence[ModelVersion], metric: str, values: Sequence[float], best: int) -> str:
    others = sorted({key for model in models for key in model.metrics} - {metric})
    head = ["trial", metric, *others]
    rows = [
        [f"{place + 1}{' (best)' if place == best else ''}", *(_figure(model.metrics.get(key)) for key in head[1:])]
        for place, model in enumerate(models)
    ]
    lines = [head, ["---"] * len(head), *rows]
    return f"# {name}: {len(values)} trials\n\n" + "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"
