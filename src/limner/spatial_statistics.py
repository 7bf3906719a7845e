"""Run an exported translator with the statistics of its normalisations over space in hand.

Instance and group normalisation divide by statistics over the whole picture, so a tile of a picture becomes something
else than the same place in the whole. Here such a layer can be told the statistics to use, and tells the ones it saw.
The layers are found in the exported program by their operators, so that no network has to be written for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

Statistics = tuple[Tensor, ...]
"""Of each normalisation over space, in the order of the program: mean and variance by channel, float32 [2, C]."""

_ATEN = torch.ops.aten


@dataclass(frozen=True)
class TranslatorProgram:
    """An exported translator: a source [N, C, H, W] in [-1, 1] becomes a result of the same shape.

    H and W have to be multiples of what the program was exported for.
    """

    graph: fx.GraphModule

    @property
    def normalises_over_space(self) -> bool:
        """Whether a part of a picture becomes something else than it does within the whole."""
        return any(_over_space(node.target, node.args) for node in self.graph.graph.nodes)

    def __call__(self, source: Tensor) -> Tensor:
        """Results, each picture by its own statistics."""
        return _Pass(self.graph, _own).result(source)

    def pool(self, source: Tensor) -> tuple[Tensor, Statistics]:
        """Results of a batch that is normalised as if it were one picture, and its statistics."""
        measured: list[Tensor] = []
        result = _Pass(self.graph, lambda layer: _pooled(layer, measured)).result(source)
        return result, tuple(measured)

    def given(self, source: Tensor, statistics: Statistics) -> Tensor:
        """Results by these statistics."""
        left = iter(statistics)
        return _Pass(self.graph, lambda layer: _normalised(layer, next(left))).result(source)

    def bytes_per_pixel(self, source: Tensor) -> float:
        """Memory that a pass takes at its peak, for each pixel of the source: all that is alive, and room to reorder.

        The weights are not counted.
        """
        counted = _Counting(self.graph, _own)
        counted.result(source)
        return counted.peak_bytes / (source.shape[0] * source.shape[2] * source.shape[3])


def average(measured: Sequence[Statistics]) -> Statistics:
    """The statistics of several samples of equal size taken together."""
    together = []
    for layer in zip(*measured, strict=True):
        means, variances = torch.stack(layer).unbind(1)
        mean = means.mean(0)
        together.append(torch.stack([mean, variances.mean(0) + (means - mean).square().mean(0)]))
    return tuple(together)


@dataclass(frozen=True)
class _Layer:
    """A normalisation over space, about to happen."""

    input: Tensor
    groups: int
    weight: Tensor
    bias: Tensor
    eps: float
    native: Callable[[], Tensor]


def _over_space(target: Any, args: tuple[Any, ...]) -> bool:
    # An instance normalisation that keeps running statistics (use_input_stats is false) depends on nothing else.
    return target is _ATEN.group_norm.default or (target is _ATEN.instance_norm.default and bool(args[5]))


class _Pass(fx.Interpreter):
    """One run of a program, in which `normalise` does the normalisations over space."""

    def __init__(self, graph: fx.GraphModule, normalise: Callable[[_Layer], Tensor]) -> None:
        super().__init__(graph)
        self._normalise = normalise

    def result(self, source: Tensor) -> Tensor:
        """Of the program's only input."""
        result: Tensor = self.run(source)
        return result.float()

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operator."""
        if target is _ATEN._assert_tensor_metadata.default:
            return None  # it holds what was true of the example: in bfloat16 it is not
        if target is _ATEN.pad.default and args[2:3] == ("reflect",) and len(args[1]) == 4 and not args[0].is_cuda:
            return _reflected(args[0], *args[1])
        if not _over_space(target, args):
            return super().call_function(target, args, kwargs)
        return self._normalise(_layer(target, args, lambda: super(_Pass, self).call_function(target, args, kwargs)))


class _Counting(_Pass):
    """A run that counts the bytes of what is alive."""

    peak_bytes = 0

    def run_node(self, n: fx.Node) -> Any:
        """Run one operator, while its inputs and all that is needed later are alive."""
        result = super().run_node(n)
        kept = [value for node, value in self.env.items() if node.op != "get_attr"]
        storages = {
            value.untyped_storage().data_ptr(): value.untyped_storage().nbytes()
            for value in (*kept, result)
            if isinstance(value, Tensor) and n.op != "get_attr"
        }
        # A convolution may want its input in another order, or cast: a copy that no graph shows.
        inputs = [self.env[node] for node in n.all_input_nodes if node.op != "get_attr" and node in self.env]
        copy = max((value.untyped_storage().nbytes() for value in inputs if isinstance(value, Tensor)), default=0)
        self.peak_bytes = max(self.peak_bytes, sum(storages.values()) + copy)
        return result


def _reflected(features: Tensor, left: int, right: int, top: int, bottom: int) -> Tensor:
    """Reflection padding out of pieces: on a CPU PyTorch's own takes longer, as it reorders channels_last."""
    height, width = features.shape[2:]
    rows = features[:, :, 1 : top + 1].flip(2), features, features[:, :, height - 1 - bottom : height - 1].flip(2)
    tall = torch.cat(rows, 2)
    columns = tall[..., 1 : left + 1].flip(3), tall, tall[..., width - 1 - right : width - 1].flip(3)
    return torch.cat(columns, 3)


def _layer(target: Any, args: tuple[Any, ...], native: Callable[[], Tensor]) -> _Layer:
    if target is _ATEN.instance_norm.default:
        inputs, weight, bias, eps = args[0], args[1], args[2], args[7]
        groups = inputs.shape[1]
    else:
        inputs, groups, *_ = args
        weight, bias, eps = args[2], args[3], args[4]
    ones = torch.ones(inputs.shape[1], device=inputs.device)
    return _Layer(
        inputs,
        groups,
        ones if weight is None else weight,
        torch.zeros_like(ones) if bias is None else bias,
        eps,
        native,
    )


def _own(layer: _Layer) -> Tensor:
    if layer.input.device.type == "cpu" and layer.groups == layer.input.shape[1]:
        # The same, by kernels that leave channels last in memory: 2 to 4 times as fast as those of `instance_norm`.
        weight, bias = (value.to(layer.input.dtype) for value in (layer.weight, layer.bias))
        return torch.group_norm(layer.input, layer.groups, weight, bias, layer.eps)
    return layer.native()


def _moments(layer: _Layer) -> tuple[Tensor, Tensor]:
    """The layer normalised over batch and space by channel, and its statistics by group."""
    result, mean, inverse_deviation = _ATEN.native_batch_norm(
        layer.input, layer.weight, layer.bias, None, None, True, 0.0, layer.eps
    )
    mean, variance = mean.float(), inverse_deviation.float().pow(-2) - layer.eps
    channels = len(mean)
    if layer.groups < channels:
        of_group = mean.view(layer.groups, -1).mean(1, keepdim=True)
        spread = (variance.view(layer.groups, -1) + (mean.view(layer.groups, -1) - of_group).square()).mean(1)
        mean, variance = (x.flatten().repeat_interleave(channels // layer.groups) for x in (of_group, spread))
    return result, torch.stack([mean, variance.clamp(min=0)])


def _pooled(layer: _Layer, measured: list[Tensor]) -> Tensor:
    result, statistics = _moments(layer)
    measured.append(statistics)
    return result if layer.groups == layer.input.shape[1] else _normalised(layer, statistics)


def _normalised(layer: _Layer, statistics: Tensor) -> Tensor:
    return F.batch_norm(
        layer.input, statistics[0], statistics[1], layer.weight, layer.bias, training=False, eps=layer.eps
    )
