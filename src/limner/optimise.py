"""How a player moves: precision, gradients, the finite check, the step. The one seam for all of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from limner.settings import Settings

PrecisionName = Literal["auto", "fp32", "bf16"]


class AdamSettings(Settings):
    """Adam (arXiv:1412.6980), or AdamW (arXiv:1711.05101) with its decoupled weight decay."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: float = Field(2e-4, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class SgdSettings(Settings):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    learning_rate: float = Field(0.01, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class RmspropSettings(Settings):
    """RMSprop: steps scaled by a running mean of squared gradients."""

    name: Literal["rmsprop"]
    learning_rate: float = Field(5e-5, gt=0)
    alpha: float = Field(0.99, ge=0, lt=1)
    momentum: float = Field(0.0, ge=0, lt=1)


OptimizerSettings = Annotated[AdamSettings | SgdSettings | RmspropSettings, Field(discriminator="name")]


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser that the settings describe; Adam in its fused form.

    Not so SGD: where its very first step is skipped, the fused form leaves the momentum as uninitialised memory.
    """
    parameters = list(parameters)
    if isinstance(settings, AdamSettings):
        kind = Adam if settings.name == "adam" else AdamW
        betas = (settings.beta1, settings.beta2)
        return kind(parameters, lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay, fused=True)
    if isinstance(settings, SgdSettings):
        return SGD(
            parameters,
            lr=settings.learning_rate,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
        )
    return RMSprop(parameters, lr=settings.learning_rate, alpha=settings.alpha, momentum=settings.momentum)


def choose_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """The type that layers compute in. `auto` is bfloat16 where the hardware has instructions for it."""
    if name == "auto":
        return torch.bfloat16 if _has_native_bf16(device) else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Inside it, layers that gain from `dtype` compute in it; weights stay float32."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def descend(loss: Tensor, optimizer: Optimizer) -> Tensor:
    """One move of one player: step the optimiser's own parameters down the gradient of `loss`, and nobody else's.

    Returns the gradient's norm over all of them. Where it is not finite the step is skipped, so that one bad batch
    cannot poison the weights, and the norm tells. Raises RuntimeError where a parameter does not influence the loss:
    a player with a part that is never trained is a bug.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    with torch.autocast(loss.device.type, enabled=False):  # backward follows the types of forward by itself
        gradients = torch.autograd.grad(loss, parameters)
    norm = torch.nn.utils.get_total_norm(gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    finite = torch.isfinite(norm)
    if optimizer.defaults.get("fused"):
        # A fused step looks at this flag on the device: the host need not wait for it.
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(finite):
        optimizer.step()
    optimizer.zero_grad()
    torch.clear_autocast_cache()  # it holds casts of the weights as they were before the step
    return norm


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every supported version of PyTorch
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
