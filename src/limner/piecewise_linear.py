"""The exact gradient of an adversarial loss with R1 and R2 for a piecewise linear discriminator, in one backward pass.

A network of convolutions, linear layers, averages, sums and (leaky) ReLUs is linear in its input as long as no unit
crosses its kink. Let a_k be the input of layer k, W_k its weights, d_k the gradient of the logit C(x) at its output,
and v the gradient of C at x. Then, with the on/off pattern of the units held fixed,

    the gradient of a function L of the logit at W_k is            L'(C(x)) d_k a_k
    the gradient of 1/2 |v|^2 at W_k is                            d_k t_k

where t_k is what arrives at layer k when v is sent through the network in x's place, without the layers' offsets
(which do not change v). Both share d_k, and what arrives is linear: one pass of u = L' x + gamma v, with offsets scaled
by L', brings to every layer what is needed, and the gradient is d_k u_k. So the whole takes two passes forward, one
backward to the input, and one product a weight. It is exact because the second derivative of such a network at its
input vanishes almost everywhere. Autograd's double backward does not know that: it computes the same from half as many
parts again, and holds both graphs meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

CONVOLUTION, LINEAR = torch.conv2d, F.linear
LEAKY_RELU = frozenset({F.leaky_relu, F.leaky_relu_})
RELU = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})


@dataclass(frozen=True)
class PenalisedGradients:
    """The gradients of loss + sum of weight_i / 2 * |v_i|^2, and what is worth logging."""

    gradients: list[Tensor]
    """One for each parameter asked for."""
    logits: Tensor
    """[N], detached."""
    loss: Tensor
    squared_norms: Tensor
    """|v_i|^2, the squared norm of the logit's gradient at each image [N], float32."""


def penalised_gradients(
    discriminator: Callable[[Tensor], Tensor],
    images: Tensor,
    *,
    loss: Callable[[Tensor], Tensor],
    weights: Tensor,
    parameters: Iterable[nn.Parameter],
) -> PenalisedGradients:
    """Gradients at the parameters of `loss(logits)` plus half of `weights` [N] times the squared gradient norms.

    `discriminator` maps images [N, C, H, W] to logits [N] and is piecewise linear in them, with convolutions and linear
    layers as its only weights beside an embedding that multiplies the features. It must not mix images of the batch.
    """
    images = images.detach().requires_grad_()
    with parametrize.cached():  # both passes see the same spectrally normalised weights
        record = _Record()
        with record:
            logits = discriminator(images)
        scores = logits.detach().requires_grad_()
        value = loss(scores)
        (slopes,) = torch.autograd.grad(value, scores)
        inputs = [get_gradient_edge(images), *record.edges]
        image_gradient, *at_outputs = torch.autograd.grad(logits.sum(), inputs)
        steep = image_gradient.float()
        with torch.no_grad():
            sent = slopes.view(-1, 1, 1, 1) * images + weights.view(-1, 1, 1, 1) * steep
        replay = _Replay(record.activations, at_outputs, slopes)
        with replay:
            arrived = discriminator(sent)
        # What is left in the graph of the logits is an embedding that multiplies the features; layers are done by hand.
        outputs = [*replay.tensors, *([arrived.sum()] if arrived.requires_grad else [])]
        at = [*replay.gradients, *([torch.ones_like(arrived.sum())] if arrived.requires_grad else [])]
        gradients = torch.autograd.grad(outputs, list(parameters), at)
    return PenalisedGradients(list(gradients), logits.detach(), value.detach(), steep.square().flatten(1).sum(1))


class _Record(TorchFunctionMode):
    """Notes where the gradient at each layer's output will be, and what leaves each activation, for its sign."""

    def __init__(self) -> None:
        super().__init__()
        self.edges: list[GradientEdge] = []
        self.activations: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LEAKY_RELU or func in RELU:
            slope = _slope(func, args, kwargs)
            result = F.leaky_relu(args[0], slope) if func in LEAKY_RELU else torch.relu(args[0])
            self.activations.append(result.detach())
            return result
        result = func(*args, **kwargs)
        if func in (CONVOLUTION, LINEAR):
            self.edges.append(get_gradient_edge(result))
        return result


class _Replay(TorchFunctionMode):
    """Sends something else through the same pattern, and takes each layer's gradient as it arrives there."""

    def __init__(self, activations: list[Tensor], at_outputs: list[Tensor], slopes: Tensor) -> None:
        """Both lists are used up on the way: what a layer has had is freed before the next one computes."""
        super().__init__()
        activations.reverse()
        at_outputs.reverse()
        self._activations = activations
        self._at_outputs = at_outputs
        self._slopes = slopes
        self.tensors: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in LEAKY_RELU or func in RELU:
            pattern = self._activations.pop()
            slope = _slope(func, args, kwargs) if func in LEAKY_RELU else 0.0
            return torch.ops.aten.leaky_relu_backward(args[0], pattern, slope, True)
        if func is CONVOLUTION:
            return self._convolution(*args, **kwargs)
        if func is LINEAR:
            return self._linear(*args, **kwargs)
        return func(*args, **kwargs)

    def _convolution(  # noqa: PLR0913 - PyTorch's own signature
        self, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> Tensor:
        with torch.no_grad():
            at = self._at_outputs.pop()
            x = x.to(at.dtype)
            _, gradient, _ = torch.ops.aten.convolution_backward(
                at, x, weight.to(at.dtype), None, stride, padding, dilation, False, [0, 0], groups, (False, True, False)
            )
            y = torch.conv2d(x, weight, None, stride, padding, dilation, groups)
            self._take(weight, gradient)
            if bias is not None:
                scale = self._slopes.view(-1, 1, 1, 1).to(y.dtype)
                y = torch.addcmul(y, scale, bias.to(y.dtype).view(1, -1, 1, 1))
                self._take(bias, torch.einsum("nchw,n->c", at, scale.flatten().to(at.dtype)))
        return y

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            at = self._at_outputs.pop()
            x = x.to(at.dtype)
            y = F.linear(x, weight)
            self._take(weight, at.T @ x)
            if bias is not None:
                y = y + self._slopes.to(y.dtype)[:, None] * bias.to(y.dtype)
                self._take(bias, self._slopes.to(at.dtype) @ at)
        return y

    def _take(self, tensor: Tensor, gradient: Tensor) -> None:
        self.tensors.append(tensor)
        self.gradients.append(gradient.to(tensor.dtype))


def _slope(func: Any, args: Any, kwargs: Any) -> float:
    if func in RELU:
        return 0.0
    return float(args[1] if len(args) > 1 else kwargs.get("negative_slope", 0.01))
