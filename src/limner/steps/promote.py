"""Register an exported model, and make it the champion where the policy says so."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limner.errors import LimnerError
from limner.lineage import read_lineage, write_lineage
from limner.ports import ModelVersion, Ports
from limner.promotion import ALIAS, CHALLENGER, Decision, Verdict, compared_metric, decide, rolled_back
from limner.settings import MethodSettings, ModelSettings
from limner.steps.gate import judged_model
from limner.steps.output import replaced


@dataclass(frozen=True)
class Promoted:
    """What `promote` found and did. `version` and `alias` are empty where nothing is recorded.

    `alias` is `champion` where it is that now, and `challenger` where it is that.
    """

    output: Path
    verdict: Verdict
    reasons: tuple[str, ...]
    version: str
    alias: str
    run_id: str


def promote(
    settings: ModelSettings[MethodSettings], *, name: str, evaluation: Path, export: Path, output: Path, ports: Ports
) -> Promoted:
    """Register the exported model, judge it by the evaluation against the champion, and move the alias if it is better.

    Good enough by itself, it is the challenger until it becomes the champion; not where it was rolled back. The same
    model again is the same version. `output` tells what was decided and why, and what moved.
    """
    record = read_lineage(export)
    candidate = _candidate(settings.promote.registered_name or name, evaluation, record)
    run_id = record.get("run_id", "")
    version = ports.registry.register(candidate, export, run_id=run_id)
    champion, history = ports.registry.champion(version.name), ports.registry.history(version.name)
    decision, movement = decide(version, champion, settings.promote, history=history), None
    is_champion = champion is not None and champion.number == version.number
    # Registered twice at the same instant they are two versions.
    same_weights = (
        champion is not None and bool(version.export_digest) and champion.export_digest == version.export_digest
    )
    if decision.verdict == "reject" or rolled_back(history, version.number):
        ports.registry.dismiss(version)
    elif not (is_champion or same_weights):
        ports.registry.challenge(version)
    if decision.verdict == "promote" and not same_weights:
        reason = " ".join(decision.reasons)
        movement = ports.registry.promote(version, instead_of=champion, reason=reason, seen=history)
    alias = _alias(version, ports) if version.number else ""
    with replaced(output) as folder:
        document = {
            "alias": alias,
            "champion_before": _written(champion) if champion else None,
            "compared_metric": compared_metric(version.metrics, settings.promote),
            "movement": asdict(movement) if movement else None,
            "reasons": decision.reasons,
            "verdict": decision.verdict,
            "version": _written(version),
        }
        text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False)
        (folder / "promotion.json").write_text(text + "\n", encoding="utf-8")
        write_lineage(folder, {**record, "step": "promote", "model": name, "version": version.number})
    if run_id:
        with ports.tracker.run(name, run_id=run_id) as run:
            run.tags(_tags(version, decision, alias))
    return Promoted(output, decision.verdict, decision.reasons, version.number, alias, run_id)


def _alias(version: ModelVersion, ports: Ports) -> str:
    found = next(each for each in ports.registry.versions(version.name) if each.number == version.number)
    return next((alias for alias in (ALIAS, CHALLENGER) if alias in found.aliases), "")


def _candidate(registered_name: str, evaluation: Path, record: Mapping[str, str]) -> ModelVersion:
    """The exported model with the figures of the weights it was exported from."""
    digest = record.get("export_digest", "")
    if not digest:
        raise LimnerError(
            "The export does not say which weights it holds: its lineage has no export_digest.",
            fix="Export again: limner export MODEL",
        )
    candidate = judged_model(registered_name, evaluation, digest=digest)
    _refuse_other_weights(evaluation, exported=digest)
    return candidate


def _refuse_other_weights(evaluation: Path, *, exported: str) -> None:
    if read_lineage(evaluation).get("export_digest") != exported:
        raise LimnerError(
            f"The evaluation in {evaluation} is not of the weights that were exported.",
            why="So its figures are not those of the exported model.",
            fix="Evaluate and export again: limner evaluate MODEL, limner export MODEL",
        )


def _written(version: ModelVersion) -> dict[str, Any]:
    figures = {name: value if math.isfinite(value) else None for name, value in version.metrics.items()}
    return {**asdict(version), "metrics": figures}


def _tags(version: ModelVersion, decision: Decision, alias: str) -> dict[str, str]:
    return {
        "limner.version": f"{version.name}/{version.number}",
        "limner.promotion.verdict": decision.verdict,
        "limner.promotion.reasons": " ".join(decision.reasons),
        "limner.promotion.alias": alias,
    }
