"""Judge a trained model: its last and its best moment, with the protocol, and a report to look at."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from limner.card_files import FACTS, PICTURES, SAMPLES
from limner.data import refuse_other_task
from limner.drift import FILE_NAME as DRIFT_REFERENCE
from limner.drift import write_reference
from limner.evaluation import Evaluation, write_metrics
from limner.journal import read_journal
from limner.lineage import file_sha256, read_lineage, write_lineage
from limner.packing import PackedDataset
from limner.ports import Ports
from limner.report import Exhibits, ReportContent, render_report
from limner.settings import EvaluateSettings, MethodSettings, ModelSettings
from limner.steps.bench import Bench, Judged, growth_sheet
from limner.steps.champion import beside_champion
from limner.steps.judge_pictures import open_picture_bench
from limner.steps.judge_transfer import open_transfer_bench
from limner.steps.output import replaced
from limner.tasks import TRANSLATION
from limner.trained import WEIGHTS, TrainedModel, Which, open_trained

CARD_SAMPLES = 640
"""Pixels; a narrower sheet is enlarged for the model card."""


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` made; `metrics` are those of the chosen moment."""

    output: Path
    metrics: dict[str, float]
    chosen: Which
    run_id: str


def evaluate(
    settings: ModelSettings[MethodSettings], *, name: str, dataset: Path, model: Path, output: Path, ports: Ports
) -> Evaluated:
    """Judge the last and the best product of the model in `model`; write metrics.json and report.html into `output`.

    The one with the lower error, where the method learns from pairs, or else the lower Frechet distance, is chosen for
    export. The same seed gives the same metrics.json, whatever the registry says. Beside it lie what the model card
    and the drift check need to know.
    """
    packed = PackedDataset(dataset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained, lineage = open_trained(model, device=device), read_lineage(model)
    refuse_other_task(packed, task=trained.method.task)
    bench = open_bench(settings.evaluate, packed, trained, ports=ports)
    last = bench.judge("last")
    best = last if _same_weights(trained) else bench.judge("best")
    judged: dict[Which, Judged] = {"best": best, "last": last}
    chosen = min(judged, key=lambda which: judged[which].evaluation.metrics[bench.first_metric])
    metrics, run_id = dict(judged[chosen].evaluation.metrics), lineage.get("run_id", "")
    digest = file_sha256(model / chosen / WEIGHTS)  # which weights the figures are of
    exhibits = bench.exhibits(judged[chosen], chosen)
    rival, note = beside_champion(
        settings.promote.registered_name or name,
        judged[chosen],
        chosen,
        digest=digest,
        bench=bench,
        registry=ports.registry,
    )
    with replaced(output) as folder:
        write_metrics(folder / "metrics.json", chosen=chosen, best=best.evaluation, last=last.evaluation)
        content = ReportContent(
            name=name,
            chosen=chosen,
            metrics={which: found.evaluation.metrics for which, found in judged.items()},
            protocol=best.evaluation.protocol,
            notes=best.evaluation.notes,
            exhibits=exhibits,
            journal=read_journal(model / "journal.jsonl"),
            lineage=lineage,
            distances=_distances(judged[chosen].evaluation),
            growth=growth_sheet(model / "samples", shape=packed.shape(), layers=bench.layers),
            rival=rival,
            rival_note=note,
        )
        (folder / "report.html").write_text(render_report(content), encoding="utf-8")
        _write_facts(
            folder / PICTURES, packed, exhibits, notes=best.evaluation.notes, dataset=lineage.get("dataset", "")
        )
        write_reference(folder / DRIFT_REFERENCE, packed, judged_by=bench.extractor)
        shutil.copy2(model / "curves.csv", folder / "curves.csv")
        record = {"step": "evaluate", "weights": chosen, "export_digest": digest}
        write_lineage(folder, lineage | record)
    if not run_id:  # the training was not tracked
        return Evaluated(output, metrics, chosen, run_id)
    with ports.tracker.run(name, run_id=run_id) as tracked:
        figures = {f"evaluate/{key}": value for key, value in metrics.items()}
        tracked.metrics(figures, images_seen=int(lineage.get("images_seen") or 0))
        tracked.tags({f"protocol.{key}": value for key, value in best.evaluation.protocol.items()})
        tracked.file(output / "metrics.json")
        tracked.file(output / "report.html")
    return Evaluated(output, metrics, chosen, run_id)


def open_bench(settings: EvaluateSettings, packed: PackedDataset, trained: TrainedModel, *, ports: Ports) -> Bench:
    """All that the moments of this model are judged with, on this dataset."""
    of_task = open_transfer_bench if trained.method.task in TRANSLATION else open_picture_bench
    return of_task(settings, packed, trained, ports=ports)


def _write_facts(
    folder: Path, packed: PackedDataset, exhibits: Exhibits, *, notes: Sequence[str], dataset: str
) -> None:
    """What the model card says beside the figures: of the data, of what went wrong; and a sheet of pictures."""
    folder.mkdir()
    manifest, specimen = packed.manifest, exhibits.specimen
    facts = {
        "dataset": dataset,
        "digest": packed.digest,
        "licence": manifest.licence,
        "source": _source(manifest.settings.get("source", {})),
        "classes": packed.classes("source" if "source" in packed.domains else None),
        "counts": {d: {name: split.count for name, split in r.splits.items()} for d, r in manifest.domains.items()},
        "rejected": {d: sum(r.rejected.values()) for d, r in manifest.domains.items()},
        "notes": notes,
        "warnings": [check.sentence for check in exhibits.safeguards if not check.fine],
        "samples": " ".join(filter(None, (specimen.words, specimen.caption))) if specimen else "",
    }
    text = json.dumps(facts, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / FACTS).write_text(text + "\n", encoding="utf-8")
    if specimen:
        (folder / SAMPLES).write_bytes(specimen.png(least=CARD_SAMPLES))


def _source(described: Mapping[str, Any]) -> str:
    """The kind of a dataset's source, in words; of two domains those of both."""
    kind = str(described.get("kind", "unknown"))
    sides = [_source(described[side]) for side in ("source", "target") if isinstance(described.get(side), Mapping)]
    return f"{kind}: {' to '.join(sides)}" if sides else kind


def _distances(found: Evaluation) -> dict[str, NDArray[np.float64]]:
    """How far pictures are from the training pictures, grey levels."""
    held_out = {} if found.validation_distances is None else {"held-out real": found.validation_distances}
    return {"generated": found.nearest_distances, **held_out}


def _same_weights(trained: TrainedModel) -> bool:
    best, last = (trained.weights(which).read_bytes() for which in ("best", "last"))
    return best == last
