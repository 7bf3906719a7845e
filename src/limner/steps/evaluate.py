"""Judge a trained model: its last and its best moment, with the protocol, and a report to look at."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limner.data import judged_batches, refuse_other_task
from limner.evaluation import Evaluation, evaluate_pictures, frechet_name, write_metrics
from limner.features import Extractor
from limner.lineage import read_lineage, write_lineage
from limner.packing import PackedDataset
from limner.ports import Ports
from limner.reference import Reference, open_extractor, open_reference
from limner.settings import EvaluateSettings, MethodSettings, ModelSettings
from limner.steps.output import replaced
from limner.tasks import Pictures
from limner.trained import WEIGHTS, TrainedModel, Which, draw, open_trained


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate` made; `metrics` are those of the chosen moment."""

    output: Path
    metrics: dict[str, float]
    chosen: Which
    run_id: str


@dataclass(frozen=True)
class Judged:
    """Pictures of one moment of the model, and what was found."""

    images: Tensor
    evaluation: Evaluation


def evaluate(
    settings: ModelSettings[MethodSettings], *, name: str, dataset: Path, model: Path, output: Path, ports: Ports
) -> Evaluated:
    """Judge the last and the best product of the model in `model`; write metrics.json and report.html into `output`.

    The one with the lower Frechet distance is chosen for export. The same seed gives the same metrics.json.
    """
    packed = PackedDataset(dataset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained, lineage = open_trained(model, device=device), read_lineage(model)
    refuse_other_task(packed, task=trained.method.task)
    extractor = open_extractor(
        settings.evaluate, packed, cache=ports.cache, device=device, weights_elsewhere=ports.extractor_weights
    )
    reference = open_reference(packed, extractor, cache=ports.cache)
    batches = list(judged_batches(packed, count=settings.evaluate.samples, seed=settings.evaluate.seed, device=device))
    judge = Bench(settings.evaluate, trained, batches, reference, extractor)
    last = judge.judge("last")
    best = last if _same_weights(model) else judge.judge("best")
    distance = frechet_name(extractor)
    chosen: Which = "best" if best.evaluation.metrics[distance] <= last.evaluation.metrics[distance] else "last"
    judged = {"best": best, "last": last}
    run_id = lineage.get("run_id", "")
    with replaced(output) as folder:
        write_metrics(folder / "metrics.json", chosen=chosen, best=best.evaluation, last=last.evaluation)
        shutil.copy2(model / "curves.csv", folder / "curves.csv")
        write_lineage(folder, {**lineage, "step": "evaluate", "weights": chosen})
    metrics = dict(judged[chosen].evaluation.metrics)
    images_seen = int(lineage.get("images_seen") or 0)
    with ports.tracker.run(name, run_id=run_id) as tracked:
        tracked.metrics({f"evaluate/{key}": value for key, value in metrics.items()}, images_seen=images_seen)
        tracked.tags({f"protocol.{key}": value for key, value in best.evaluation.protocol.items()})
        tracked.file(output / "metrics.json")
        tracked.file(output / "report.html")
    return Evaluated(output, metrics, chosen, run_id)


@dataclass(frozen=True)
class Bench:
    """All that two moments of a model are judged with alike."""

    settings: EvaluateSettings
    trained: TrainedModel
    batches: list[Pictures]
    reference: Reference
    extractor: Extractor

    def judge(self, which: Which) -> Judged:
        """Draw the moment's pictures and judge them."""
        images = draw(self.trained.method, self.trained.product(which), self.batches, seed=self.settings.seed)
        labels = (
            None
            if self.batches[0].labels is None
            else torch.cat([b.labels for b in self.batches if b.labels is not None])
        )
        evaluation = evaluate_pictures(
            images, labels, reference=self.reference, extractor=self.extractor, settings=self.settings
        )
        return Judged(images, evaluation)


def _same_weights(model: Path) -> bool:
    return (model / "best" / WEIGHTS).read_bytes() == (model / "last" / WEIGHTS).read_bytes()
