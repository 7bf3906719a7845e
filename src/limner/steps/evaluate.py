"""Judge a trained model: its last and its best moment, with the protocol, and a report to look at."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limner.data import judged_batches, refuse_other_task, showcase
from limner.evaluation import Evaluation, evaluate_pictures, frechet_name, write_metrics
from limner.features import Extractor
from limner.journal import read_journal
from limner.lineage import file_sha256, read_lineage, write_lineage
from limner.packing import PackedDataset
from limner.pixels import grid, to_uint8
from limner.ports import Ports
from limner.randomness import generator
from limner.reference import Reference, open_extractor, open_reference
from limner.report import ReportContent, Sheet, render_report
from limner.settings import EvaluateSettings, MethodSettings, ModelSettings
from limner.steps.output import replaced
from limner.tasks import Pictures
from limner.trained import WEIGHTS, TrainedModel, Which, draw, open_trained

COLUMNS, ROWS = 10, 8
NEIGHBOURS = 20
"""Pictures shown beside the training picture that is most like them: those that come nearest to one."""
PATHS, STOPS = 6, 10
"""Rows and pictures a row of the latent interpolation."""


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

    The one with the lower Frechet distance is chosen for export. The same seed gives the same metrics.json.
    """
    packed = PackedDataset(dataset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    trained, lineage = open_trained(model, device=device), read_lineage(model)
    refuse_other_task(packed, task=trained.method.task)
    bench = _open_bench(settings.evaluate, packed, trained, ports=ports)
    last = bench.judge("last")
    best = last if _same_weights(trained) else bench.judge("best")
    distance = frechet_name(bench.extractor)
    judged: dict[Which, Judged] = {"best": best, "last": last}
    chosen = min(judged, key=lambda which: judged[which].evaluation.metrics[distance])
    metrics, run_id = dict(judged[chosen].evaluation.metrics), lineage.get("run_id", "")
    with replaced(output) as folder:
        write_metrics(folder / "metrics.json", chosen=chosen, best=best.evaluation, last=last.evaluation)
        content = ReportContent(
            name=name,
            chosen=chosen,
            metrics={which: found.evaluation.metrics for which, found in judged.items()},
            protocol=best.evaluation.protocol,
            notes=best.evaluation.notes,
            sheets=_sheets(bench, packed, judged[chosen], which=chosen),
            journal=read_journal(model / "journal.jsonl"),
            lineage=lineage,
            distances=_distances(judged[chosen].evaluation),
        )
        (folder / "report.html").write_text(render_report(content), encoding="utf-8")
        shutil.copy2(model / "curves.csv", folder / "curves.csv")
        digest = file_sha256(model / chosen / WEIGHTS)  # which weights the figures are of
        write_lineage(folder, {**lineage, "step": "evaluate", "weights": chosen, "export_digest": digest})
    if not run_id:  # the training was not tracked
        return Evaluated(output, metrics, chosen, run_id)
    with ports.tracker.run(name, run_id=run_id) as tracked:
        figures = {f"evaluate/{key}": value for key, value in metrics.items()}
        tracked.metrics(figures, images_seen=int(lineage.get("images_seen") or 0))
        tracked.tags({f"protocol.{key}": value for key, value in best.evaluation.protocol.items()})
        tracked.file(output / "metrics.json")
        tracked.file(output / "report.html")
    return Evaluated(output, metrics, chosen, run_id)


@dataclass(frozen=True)
class Judged:
    """Pictures of one moment of the model, and what was found."""

    images: Tensor
    evaluation: Evaluation


@dataclass(frozen=True)
class Bench:
    """All that both moments of a model are judged with."""

    settings: EvaluateSettings
    trained: TrainedModel
    batches: Callable[[], Iterator[Pictures]]
    reference: Reference
    extractor: Extractor

    def judge(self, which: Which) -> Judged:
        """Draw the moment's pictures and judge them."""
        method = self.trained.method
        images = draw(method, self.trained.product(which), self.batches(), seed=self.settings.seed)
        first = next(self.batches())
        # Labels count only where the product is asked for them.
        asked = "labels" in method.product_inputs(first, generator(0, device=first.images.device))
        labels = torch.cat([b.labels for b in self.batches() if b.labels is not None]) if asked else None
        found = evaluate_pictures(
            images, labels, reference=self.reference, extractor=self.extractor, settings=self.settings
        )
        return Judged(images, found)


def _open_bench(settings: EvaluateSettings, packed: PackedDataset, trained: TrainedModel, *, ports: Ports) -> Bench:
    device = next(trained.method.networks.parameters()).device
    extractor = open_extractor(
        settings, packed, cache=ports.cache, device=device, weights_elsewhere=ports.extractor_weights
    )
    return Bench(
        settings=settings,
        trained=trained,
        batches=lambda: judged_batches(packed, count=settings.samples, seed=settings.seed, device=device),
        reference=open_reference(packed, extractor, cache=ports.cache),
        extractor=extractor,
    )


def _sheets(bench: Bench, packed: PackedDataset, judged: Judged, *, which: Which) -> list[Sheet]:
    method, product = bench.trained.method, bench.trained.product(which)
    examples = showcase(packed.split("train"), count=COLUMNS * ROWS, device=next(product.parameters()).device)
    made = draw(method, product, [examples], seed=bench.settings.seed)
    classes = packed.classes()
    # Columns are classes where there are as many and the product is asked for them.
    headings = classes if len(classes) == COLUMNS else ()
    asked = "labels" in method.product_inputs(examples, generator(0, device=examples.images.device))
    real, fake = grid(to_uint8(examples.images), columns=COLUMNS), grid(made, columns=COLUMNS)
    sheets = [
        Sheet("Real", "A grid of training pictures.", real, headings=headings),
        Sheet("Generated", "A grid of generated pictures.", fake, "None is chosen.", headings if asked else ()),
    ]
    inputs = method.product_inputs(
        examples, generator(bench.settings.seed, "interpolate", device=examples.images.device)
    )
    if "latent" in inputs:
        sheets.append(
            Sheet(
                "From one latent to another",
                "Rows of generated pictures that change step by step.",
                grid(_interpolate(product, inputs), columns=STOPS),
                "Each row walks between two latents; jumps would say that pictures were learnt by heart.",
            )
        )
    return [*sheets, _neighbours(judged, packed)]


@torch.no_grad()
def _interpolate(product: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Results [PATHS * STOPS, C, H, W] along great circles between latents, where normal noise has its mass."""
    start, end = inputs["latent"][:PATHS], inputs["latent"][PATHS : 2 * PATHS]
    angle = torch.linspace(0, torch.pi / 2, STOPS, device=start.device)[None, :, None]
    path = start[:, None] * angle.cos() + end[:, None] * angle.sin()
    others = {name: value[:PATHS].repeat_interleave(STOPS, 0) for name, value in inputs.items() if name != "latent"}
    return to_uint8(product(latent=path.flatten(0, 1), **others)).cpu()


def _neighbours(judged: Judged, packed: PackedDataset) -> Sheet:
    found = judged.evaluation
    closest = np.argsort(found.nearest_ratios, kind="stable")[:NEIGHBOURS]
    real = torch.from_numpy(packed.split("train").pixels(found.nearest[closest])).permute(0, 3, 1, 2)
    halves = [torch.stack([judged.images[closest], real])[:, start : start + COLUMNS] for start in (0, COLUMNS)]
    shown, every = found.nearest_distances[closest], found.nearest_distances
    caption = (
        f"Of {len(judged.images)} pictures, those that are most like one training picture and no other, each above it. "
        f"Distances: {shown.min():.1f} to {shown.max():.1f} grey levels; of all, least {every.min():.1f}, median "
        f"{np.median(every):.1f}"
    )
    if found.validation_distances is not None:
        held_out = found.validation_distances
        caption += f"; held-out real pictures: least {held_out.min():.1f}, median {np.median(held_out):.1f}"
    return Sheet(
        "Nearest training pictures",
        "Generated pictures, each above the training picture that is most like it.",
        grid(torch.cat([half.flatten(0, 1) for half in halves if half.shape[1]]), columns=min(COLUMNS, len(closest))),
        f"{caption}.",
    )


def _distances(found: Evaluation) -> dict[str, NDArray[np.float64]]:
    """How far pictures are from the training pictures, grey levels."""
    held_out = {} if found.validation_distances is None else {"held-out real": found.validation_distances}
    return {"generated": found.nearest_distances, **held_out}


def _same_weights(trained: TrainedModel) -> bool:
    best, last = (trained.weights(which).read_bytes() for which in ("best", "last"))
    return best == last
