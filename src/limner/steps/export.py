"""Export a trained model: weights, portable programs, a proof that they compute the same, and what they cost."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from limner.card_files import CARD, FACTS, PICTURES
from limner.drift import FILE_NAME as DRIFT_REFERENCE
from limner.errors import LimnerError
from limner.exported import PROGRAM, load_vetted
from limner.lineage import file_sha256, read_lineage, write_lineage
from limner.ports import Ports
from limner.settings import ExportSettings, MethodSettings, ModelSettings
from limner.spatial_statistics import TranslatorProgram
from limner.steps.card import write_card
from limner.steps.export_formats import ROUNDED, Program, write_programs
from limner.steps.export_inputs import ProgramInputs, program_inputs, translator_traits
from limner.steps.output import replaced
from limner.tasks import TRANSLATION
from limner.trained import WEIGHTS, TrainedModel, Which, open_trained

WARM_UP, TIMED = 2, 15
"""Runs before the latency is measured, and of which it is the fastest: what else the machine does only adds."""


@dataclass(frozen=True)
class Exported:
    """What `export` made.

    `parity` is the largest absolute difference to the eager model, by format; of those with rounded weights the mean.
    """

    output: Path
    digest: str
    parity: dict[str, float]
    run_id: str


def export(
    settings: ModelSettings[MethodSettings], *, name: str, model: Path, evaluation: Path, output: Path, ports: Ports
) -> Exported:
    """Export the better of the last and the best product, as the evaluation chose, into `output`.

    Raises LimnerError where a format does not compute what the eager model does.
    """
    trained = open_trained(model, device=torch.device("cpu"))
    which = _chosen(evaluation, trained)
    product = trained.product(which)
    lineage = read_lineage(model)
    with replaced(output) as folder:
        shutil.copy2(model / which / WEIGHTS, folder / WEIGHTS)
        inputs = program_inputs(trained, product)
        if (evaluation / DRIFT_REFERENCE).is_file():
            shutil.copy2(evaluation / DRIFT_REFERENCE, folder / DRIFT_REFERENCE)
        programs = list(write_programs(product, inputs, folder, settings.export.formats))
        parity = {program.kind: _parity(program, inputs) for program in programs}
        _refuse_disparity(parity, settings.export)
        figures = {"parity": parity, "costs": _costs(folder, programs, inputs, parity)}
        digest = _write_config(folder, trained, product, inputs, name=name, figures=figures)
        record = {"step": "export", "model": name, "weights": which, "export_digest": digest}
        write_lineage(folder, {**lineage, **record})
        if (evaluation / PICTURES / FACTS).is_file():  # one made by hand, or long ago, has nothing to make a card of
            write_card(
                folder,
                trained=model,
                evaluation=evaluation,
                lineage=read_lineage(folder),
                registered_name=settings.promote.registered_name,
            )
    run_id = str(lineage.get("run_id", ""))
    if not run_id:  # the training was not tracked
        return Exported(output, digest, parity, run_id)
    with ports.tracker.run(name, run_id=run_id) as tracked:
        tracked.tags({"limner.export_digest": digest, "limner.weights": which})
        tracked.tags({f"limner.parity.{kind}": f"{difference:.3g}" for kind, difference in parity.items()})
        if (output / CARD).is_file():
            tracked.file(output / CARD)
            tracked.file(output / PICTURES, PICTURES)
    return Exported(output, digest, parity, run_id)


def _chosen(evaluation: Path, trained: TrainedModel) -> Which:
    """The moment that the evaluation chose, where it is of the very weights that lie in the model's folder."""
    try:
        which: Which = json.loads((evaluation / "metrics.json").read_text(encoding="utf-8"))["chosen"]
        judged = read_lineage(evaluation)["export_digest"]
    except (OSError, ValueError, KeyError) as error:
        raise LimnerError(
            f"{evaluation} holds no evaluation.", why=str(error), fix="Evaluate first: limner evaluate MODEL"
        ) from error
    if judged != file_sha256(trained.weights(which)):
        raise LimnerError(
            f"The evaluation in {evaluation} is not of the weights in {trained.folder}.",
            why="The model was trained again since.",
            fix="Evaluate it again: limner evaluate MODEL",
        )
    return which


def _parity(program: Program, inputs: ProgramInputs) -> float:
    """The largest difference; of rounded weights the mean one, of the worst trial."""
    of_trial = np.mean if program.kind in ROUNDED else np.max
    return max(float(of_trial(difference)) for difference in program.differences(inputs))


def _costs(
    folder: Path, programs: Sequence[Program], inputs: ProgramInputs, parity: Mapping[str, float]
) -> dict[str, float]:
    """`size_mib` of all files; `parity`, the worst of the exact formats; `latency_ms` of one picture with the pt2 one.

    What no format tells is left out.
    """
    costs = {"size_mib": round(sum(path.stat().st_size for path in folder.iterdir()) / 2**20, 3)}
    exact = [difference for kind, difference in parity.items() if kind not in ROUNDED]
    if exact:
        costs["parity"] = max(exact)
    for program in programs:
        if program.kind == "pt2":
            costs["latency_ms"] = round(_least_seconds(partial(program.run, inputs.trials[0])) * 1000, 3)
    return costs


def _least_seconds(work: Callable[[], object]) -> float:
    times = []
    for _ in range(WARM_UP + TIMED):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times[WARM_UP:])


def _refuse_disparity(parity: Mapping[str, float], settings: ExportSettings) -> None:
    for kind, difference in parity.items():
        rounded = kind in ROUNDED
        tolerance = settings.rounded_tolerance if rounded else settings.parity_tolerance
        if not difference <= tolerance:  # a NaN is no parity either
            word, name = ("on average ", "rounded_tolerance") if rounded else ("", "parity_tolerance")
            raise LimnerError(
                f"The exported {kind} model differs from the trained one by {word}{difference:.3g}.",
                why=f"export.{name} allows {tolerance:.3g} (pictures are in [-1, 1]).",
                fix=f"Leave {kind} out of export.formats, or report the model's settings to us.",
            )


def _write_config(
    folder: Path,
    trained: TrainedModel,
    product: nn.Module,
    inputs: ProgramInputs,
    *,
    name: str,
    figures: Mapping[str, Mapping[str, float]],
) -> str:
    """Write config.json, which describes the model to its users, and return the digest of the export."""
    files = {p.name: file_sha256(p) for p in sorted(folder.iterdir())}
    shape = trained.shape
    config: dict[str, Any] = {
        "schema": 1,
        "name": name,
        "task": trained.method.task,
        "image": {"channels": shape.channels, "height": shape.height, "width": shape.width, "range": [-1, 1]},
        "classes": list(trained.classes),
        "inputs": [
            {
                "name": key,
                "shape": [None if place in inputs.free[key] else size for place, size in enumerate(value.shape)][1:],
                "dtype": str(value.dtype).removeprefix("torch."),
            }
            for key, value in inputs.examples.items()
        ],
        **figures,
        "files": files,
    }
    if trained.method.task in TRANSLATION and (folder / PROGRAM).is_file():
        graph = load_vetted(folder / PROGRAM).module()
        config["translator"] = asdict(translator_traits(TranslatorProgram(graph), product, shape.channels))
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    # The programs' bytes differ from export to export (archives carry dates); the weights are the model.
    return files[WEIGHTS]
