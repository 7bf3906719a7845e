"""Export a trained model: weights, two portable programs, and a proof that all of them compute the same."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from limner.errors import LimnerError
from limner.inference import BACK, PROGRAM
from limner.lineage import file_sha256, read_lineage, write_lineage
from limner.ports import Ports
from limner.settings import MethodSettings, ModelSettings
from limner.spatial_statistics import TranslatorProgram
from limner.steps.export_inputs import ProgramInputs, program_inputs, translator_traits
from limner.steps.output import replaced
from limner.tasks import TRANSLATION
from limner.trained import WEIGHTS, TrainedModel, Which, open_trained

Program = Callable[[Mapping[str, Tensor]], NDArray[np.float32]]


@dataclass(frozen=True)
class Exported:
    """What `export` made. `parity` is the largest absolute difference to the eager model, by format."""

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
        programs = list(_write_programs(product, inputs, folder, settings.export.formats))
        parity = {kind: _largest_difference(eager, inputs, program) for kind, eager, program in programs}
        _refuse_disparity(parity, tolerance=settings.export.parity_tolerance)
        digest = _write_config(folder, trained, product, inputs, name=name, parity=parity)
        record = {"step": "export", "model": name, "weights": which, "export_digest": digest}
        write_lineage(folder, {**lineage, **record})
    run_id = str(lineage.get("run_id", ""))
    if not run_id:  # the training was not tracked
        return Exported(output, digest, parity, run_id)
    with ports.tracker.run(name, run_id=run_id) as tracked:
        tracked.tags({"limner.export_digest": digest, "limner.weights": which})
        tracked.tags({f"limner.parity.{kind}": f"{difference:.3g}" for kind, difference in parity.items()})
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


class _Back(nn.Module):
    """A product's way back, as a product."""

    def __init__(self, product: nn.Module) -> None:
        super().__init__()
        self._product = product

    def forward(self, source: Tensor) -> Tensor:
        result: Tensor = self._product.back(source)  # type: ignore[operator]
        return result


def _write_programs(
    product: nn.Module, inputs: ProgramInputs, folder: Path, formats: Sequence[str]
) -> Iterator[tuple[str, nn.Module, Program]]:
    """Each portable program: its name in `parity`, the eager module it comes from, and itself."""
    if "pt2" in formats:
        yield "pt2", product, _write_pt2(product, inputs, folder / PROGRAM)
    if "onnx" in formats:
        yield "onnx", product, _write_onnx(product, inputs, folder / "model.onnx")
    if "pt2" in formats and hasattr(product, "back"):
        back = _Back(product).eval()
        yield "back", back, _write_pt2(back, inputs, folder / BACK)


def _write_pt2(product: nn.Module, inputs: ProgramInputs, path: Path) -> Program:
    program = torch.export.export(product, (), dict(inputs.examples), dynamic_shapes=dict(inputs.free))
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda inputs: loaded(**inputs).numpy()


def _write_onnx(product: nn.Module, inputs: ProgramInputs, path: Path) -> Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns about its own internals
        program = torch.onnx.export(
            product,
            (),
            kwargs=dict(inputs.examples),
            dynamic_shapes=dict(inputs.free),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.save(str(path))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {key: value.numpy() for key, value in inputs.items()})[0]


@torch.no_grad()
def _largest_difference(product: nn.Module, inputs: ProgramInputs, program: Program) -> float:
    return max(float(np.abs(product(**trial).numpy() - program(trial)).max()) for trial in inputs.trials)


def _refuse_disparity(parity: Mapping[str, float], *, tolerance: float) -> None:
    for kind, difference in parity.items():
        if not difference <= tolerance:  # a NaN is no parity either
            raise LimnerError(
                f"The exported {kind} model differs from the trained one by {difference:.3g}.",
                why=f"export.parity_tolerance allows {tolerance:.3g} (pictures are in [-1, 1]).",
                fix=f"Leave {kind} out of export.formats, or report the model's settings to us.",
            )


def _write_config(
    folder: Path,
    trained: TrainedModel,
    product: nn.Module,
    inputs: ProgramInputs,
    *,
    name: str,
    parity: Mapping[str, float],
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
        "parity": dict(parity),
        "files": files,
    }
    if trained.method.task in TRANSLATION and (folder / PROGRAM).is_file():
        graph = torch.export.load(folder / PROGRAM).module()
        config["translator"] = asdict(translator_traits(TranslatorProgram(graph), product, shape.channels))
    (folder / "config.json").write_text(json.dumps(config, indent=1, ensure_ascii=False), encoding="utf-8")
    # The programs' bytes differ from export to export (archives carry dates); the weights are the model.
    return files[WEIGHTS]
