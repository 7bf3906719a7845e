"""A network through ONNX Runtime, which takes less time on a CPU and some seconds to start: for many pictures.

What comes out differs from PyTorch's results by rounding only. Measured by benchmarks/evaluate.py.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

PIECE = 8
"""Inputs at a time: 32 take 650 MiB more and no less time."""


class OnnxNetwork:
    """Takes and gives what the network does, on the CPU, with as many threads as PyTorch has now."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        """`example`: an input [N, ...] with N > 1. Of others N may be any number."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        with tempfile.TemporaryDirectory(prefix="limner-") as folder:
            path = Path(folder, "network.onnx")
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # the exporter warns about its own internals
                torch.onnx.export(
                    network,
                    (example,),
                    str(path),
                    dynamo=True,
                    dynamic_shapes=({0: torch.export.Dim("pictures")},),
                    verbose=False,
                )
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._name = self._session.get_inputs()[0].name

    def __call__(self, inputs: Tensor) -> Tensor:
        """The network's first result for inputs float32 [N, ...]."""
        results = [self._session.run(None, {self._name: x.contiguous().numpy()})[0] for x in torch.split(inputs, PIECE)]
        return torch.cat([torch.from_numpy(result) for result in results])
