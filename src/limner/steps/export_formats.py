"""The portable programs of an exported model: torch.export, ONNX, and ONNX with rounded weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from limner.errors import LimnerError
from limner.exported import BACK, PROGRAM, load_vetted
from limner.steps.export_inputs import ProgramInputs

ONNX_FILES = {"onnx": "model.onnx", "onnx-bf16": "model.bf16.onnx", "onnx-int8": "model.int8.onnx"}
ROUNDED = ("onnx-bf16", "onnx-int8")
INT8_LARGEST = 127

Run = Callable[[Mapping[str, Tensor]], NDArray[np.float32]]
"""A program that was written, opened again from its file: inputs by name -> the result."""


@dataclass(frozen=True)
class Program:
    """A program that was written."""

    kind: str
    eager: nn.Module
    """The module it has to compute the same as."""
    run: Run

    @torch.no_grad()
    def differences(self, inputs: ProgramInputs) -> list[NDArray[np.float32]]:
        """To the eager module, absolute, of every trial."""
        return [np.abs(self.eager(**trial).numpy() - self.run(trial)) for trial in inputs.trials]


def write_programs(
    product: nn.Module, inputs: ProgramInputs, folder: Path, formats: Sequence[str]
) -> Iterator[Program]:
    """Write the product in each of the formats, and its way back where it has one."""
    if "pt2" in formats:
        yield Program("pt2", product, _write_pt2(product, inputs, folder / PROGRAM))
        if hasattr(product, "back"):
            back = _Back(product).eval()
            yield Program("back", back, _write_pt2(back, inputs, folder / BACK))
    wanted = [kind for kind in ONNX_FILES if kind in formats]
    model = _onnx(product, inputs) if wanted else None
    for kind in wanted:
        assert model is not None
        written = round_weights(model, kind) if kind in ROUNDED else model
        onnx.save(written, folder / ONNX_FILES[kind])
        yield Program(kind, product, _open_onnx(folder / ONNX_FILES[kind]))


class _Back(nn.Module):
    """A product's way back, as a product."""

    def __init__(self, product: nn.Module) -> None:
        super().__init__()
        self._product = product

    def forward(self, source: Tensor) -> Tensor:
        result: Tensor = self._product.back(source)  # type: ignore[operator]
        return result


def _write_pt2(product: nn.Module, inputs: ProgramInputs, path: Path) -> Run:
    program = torch.export.export(product, (), dict(inputs.examples), dynamic_shapes=dict(inputs.free))
    torch.export.save(program, path)
    try:
        loaded = load_vetted(path).module()
    except LimnerError as error:
        raise LimnerError(
            "The network computes something that Limner would refuse to load.",
            why=error.problem,
            fix="Leave pt2 out of export.formats; and tell us, because a network of ours must not.",
        ) from error
    return lambda given: loaded(**given).numpy()


def _onnx(product: nn.Module, inputs: ProgramInputs) -> onnx.ModelProto:
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
    return program.model_proto


def _open_onnx(path: Path) -> Run:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda given: session.run(None, {key: value.numpy() for key, value in given.items()})[0]


def round_weights(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """The model with its weights in bfloat16 (`onnx-bf16`) or in int8 (`onnx-int8`); it computes in float32 still.

    Weights are what convolutions and linear layers multiply by; all else stays as it is. int8: each output channel has
    a scale s = max|w| / 127 and the weights round(w / s), symmetric as in arXiv:1806.08342, section 2.2.
    """
    rounded = onnx.ModelProto()
    rounded.CopyFrom(model)
    graph, channels, nodes = rounded.graph, _output_channels(rounded.graph), []
    weights = [tensor for tensor in graph.initializer if tensor.name in channels]
    for tensor in weights:
        name, values = tensor.name, numpy_helper.to_array(tensor)
        small = f"{name}.{kind.removeprefix('onnx-')}"
        if kind == "onnx-bf16":
            stored = [
                numpy_helper.from_array(
                    values.astype(helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16)), small
                )
            ]
            nodes.append(helper.make_node("Cast", [small], [name], to=onnx.TensorProto.FLOAT))
        else:
            axis = channels[name]
            others = tuple(place for place in range(values.ndim) if place != axis)
            scale = np.abs(values).max(others, keepdims=True) / INT8_LARGEST
            scale[scale == 0] = 1
            steps = np.rint(values / scale).astype(np.int8)
            stored = [
                numpy_helper.from_array(steps, small),
                numpy_helper.from_array(scale.reshape(-1), f"{name}.scale"),
            ]
            nodes.append(helper.make_node("DequantizeLinear", [each.name for each in stored], [name], axis=axis))
        graph.initializer.remove(tensor)
        graph.initializer.extend(stored)
    calls = [*nodes, *graph.node]
    del graph.node[:]
    graph.node.extend(calls)
    onnx.checker.check_model(rounded)
    return rounded


def _output_channels(graph: onnx.GraphProto) -> dict[str, int]:
    """Of each float32 weight the axis of its output channels; without those that two layers see differently."""
    found: dict[str, set[int]] = {}
    dimensions = {t.name: len(t.dims) for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    for node in graph.node:
        for place, name in enumerate(node.input):
            if dimensions.get(name, 0) > 1:
                found.setdefault(name, set()).add(_output_axis(node, dimensions[name]) if place == 1 else -1)
    return {name: next(iter(axes)) for name, axes in found.items() if len(axes) == 1 and -1 not in axes}


def _output_axis(layer: onnx.NodeProto, dimensions: int) -> int:
    """Of the weight, which is a layer's second input; -1: this is no layer with weights."""
    if layer.op_type == "Gemm":
        return 0 if any(a.name == "transB" and a.i for a in layer.attribute) else 1
    return {"Conv": 0, "ConvTranspose": 1, "MatMul": dimensions - 1}.get(layer.op_type, -1)
