"""One model from its packed dataset to the registry: the tasks that all pipelines which train share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.evaluate import evaluate
from components.export import export
from components.gate import gate
from components.promote import promote
from components.train import train
from pipelines.placement import Placement, Where, place, place_heavy


@dataclass(frozen=True)
class Judged:
    """A model that is trained and judged."""

    trained: Any
    evaluation: Any


def train_and_judge(
    what: Mapping[str, Any],
    *,
    dataset: Any,
    checkpoints: Any,
    placement: Placement,
    where: Where,
    judge_champion: Any = False,
    scratch: str = dsl.WORKSPACE_PATH_PLACEHOLDER,
) -> Judged:
    """Train the model that `what` names by `model` and `settings`, and evaluate it."""
    trained = train(
        **what,
        dataset=dataset,
        scratch=scratch,
        checkpoints=checkpoints,
        processes=where.gpus,
        kubeflow_run=dsl.PIPELINE_JOB_ID_PLACEHOLDER,
        resources=where.words(where.gpus),
    )
    place_heavy(trained, placement, where, gpus=where.gpus)
    return judge(
        what,
        trained.outputs["trained"],
        dataset=dataset,
        judge_champion=judge_champion,
        placement=placement,
        where=where,
    )


def judge(
    what: Mapping[str, Any], trained: Any, *, dataset: Any, judge_champion: Any, placement: Placement, where: Where
) -> Judged:
    """Evaluate a trained model."""
    judged = evaluate(
        **what,
        dataset=dataset,
        trained=trained,
        judge_champion=judge_champion,
        resources=where.words(where.evaluation_gpus),
    )
    place_heavy(judged, placement, where, gpus=where.evaluation_gpus)
    return Judged(trained, judged.outputs["evaluation"])


def gate_and_promote(what: Mapping[str, Any], judged: Judged, *, placement: Placement, where: Where) -> None:
    """Export and register a judged model unless it is rejected, and promote it if it is better."""
    verdict = gate(**what, evaluation=judged.evaluation)
    place(verdict, placement, where)
    # `hold` goes on: the version is registered without becoming the champion, as with `dvc repro`. The local runner
    # of kfp 2.17 tests single unnamed outputs only, and skips the branch for any other without an error.
    with dsl.If(verdict.outputs["Output"] != "reject", name="unless-rejected"):
        exported = export(**what, trained=judged.trained, evaluation=judged.evaluation)
        promoted = promote(**what, evaluation=judged.evaluation, exported=exported.outputs["exported"])
        place(exported, placement, where)
        place(promoted, placement, where)
