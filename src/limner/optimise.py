"""How a player moves: rates, gradients, their mean over processes, the finite check, the step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from limner import distributed
from limner.schedules import PositiveSchedule, Ramp, ShareSchedule, value_at
from limner.strict import Settings

TINY_WEIGHTS = 0.01
"""Root mean square of weights below which they are meant to grow, as where CUT's authors begin: what a step changes is
held against this then."""


class AdamSettings(Settings):
    """Adam (arXiv:1412.6980), or AdamW (arXiv:1711.05101) with its decoupled weight decay."""

    name: Literal["adam", "adamw"] = "adam"
    learning_rate: PositiveSchedule = 2e-4
    beta1: float = Field(0.5, ge=0, lt=1)
    beta2: ShareSchedule = 0.999
    weight_decay: float = Field(0.0, ge=0)


class SgdSettings(Settings):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"]
    learning_rate: PositiveSchedule = 0.01
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)


class RmspropSettings(Settings):
    """RMSprop: steps scaled by a running mean of squared gradients."""

    name: Literal["rmsprop"]
    learning_rate: PositiveSchedule = 5e-5
    alpha: float = Field(0.99, ge=0, lt=1)
    momentum: float = Field(0.0, ge=0, lt=1)


OptimizerSettings = Annotated[AdamSettings | SgdSettings | RmspropSettings, Field(discriminator="name")]


def build_optimizer(settings: OptimizerSettings, parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The optimiser that the settings describe; Adam in its fused form. `set_rates` moves what is scheduled.

    Not so SGD: where its very first step is skipped, the fused form leaves the momentum as uninitialised memory.
    """
    learning_rate = value_at(settings.learning_rate, 0.0)
    # An option that PyTorch does not know travels with the group, as `initial_lr` does for its own schedulers.
    schedules = {"lr": _plain(settings.learning_rate)}
    group = {"params": list(parameters), "schedules": schedules}
    if isinstance(settings, AdamSettings):
        kind = Adam if settings.name == "adam" else AdamW
        schedules["beta2"] = _plain(settings.beta2)
        betas = (settings.beta1, value_at(settings.beta2, 0.0))
        return kind([group], lr=learning_rate, betas=betas, weight_decay=settings.weight_decay, fused=True)
    if isinstance(settings, SgdSettings):
        return SGD([group], lr=learning_rate, momentum=settings.momentum, weight_decay=settings.weight_decay)
    return RMSprop([group], lr=learning_rate, alpha=settings.alpha, momentum=settings.momentum)


def set_rates(optimizers: Mapping[str, Optimizer], progress: float, *, factor: float = 1.0) -> None:
    """Give every optimiser the rates of a progress in [0, 1]; learning rates times `factor`."""
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            schedules = group.setdefault("schedules", {"lr": group["lr"]})
            group["lr"] = _at(schedules["lr"], progress) * factor
            if "beta2" in schedules:
                group["betas"] = (group["betas"][0], _at(schedules["beta2"], progress))


def compile_network(network: nn.Module, inputs: Mapping[str, Tensor]) -> str:
    """Have a network's calls compiled, in place. Returns "", or why it stays as it was where that does not work here.

    It is tried on `inputs`, forward and backward. Only networks that no second derivative goes through: PyTorch's
    compiler has none (pytorch/pytorch issue 91469).
    """
    buffers = [buffer.clone() for buffer in network.buffers()]
    try:
        network.compile()
        torch.autograd.grad(network(**inputs).square().mean(), list(network.parameters()))
    except Exception as error:  # noqa: BLE001 - whatever a compiler or its missing C++ compiler raises, eager works
        network._compiled_call_impl = None
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    finally:
        for buffer, before in zip(network.buffers(), buffers, strict=True):
            buffer.copy_(before)
    return ""


def descend(parts: Iterable[Tensor | Sequence[Tensor]], optimizer: Optimizer, *, player: str) -> dict[str, Tensor]:
    """One move of one player: step the optimiser's own parameters down the mean gradient, and nobody else's.

    `parts` gives for each micro-batch its loss, or its gradients where a method has taken them itself; each is used up
    before the next is asked for, so that only one micro-batch's activations exist at a time. Gradients are averaged
    over micro-batches and processes.

    Returns the norm of the gradient ("gradient/<player>") and of the change relative to the weights, or to tiny ones
    (`TINY_WEIGHTS`) where they are less ("update/<player>"). Where the gradient is not finite the step is skipped, so
    that one bad batch cannot poison the weights, and the norm tells. Raises RuntimeError where a parameter does not
    influence the loss: a player with a part that is never trained is a bug.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    gradients = _mean_gradients(parts, parameters)
    distributed.average_(gradients)
    norm = torch.nn.utils.get_total_norm(gradients)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = _laid_out_like(parameter, gradient)
    before = [parameter.detach().clone() for parameter in parameters]
    finite = torch.isfinite(norm)
    if optimizer.defaults.get("fused"):
        # A fused step looks at this flag on the device: the host need not wait for it.
        optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        optimizer.step()
    elif bool(finite):
        optimizer.step()
    optimizer.zero_grad()
    torch.clear_autocast_cache()  # it holds casts of the weights as they were before the step
    change = torch._foreach_sub([parameter.detach() for parameter in parameters], before)
    least = TINY_WEIGHTS * sum(weight.numel() for weight in before) ** 0.5
    share = torch.nn.utils.get_total_norm(change) / torch.nn.utils.get_total_norm(before).clamp(min=least)
    return {f"gradient/{player}": norm, f"update/{player}": share}


def _mean_gradients(parts: Iterable[Tensor | Sequence[Tensor]], parameters: list[nn.Parameter]) -> list[Tensor]:
    total: list[Tensor] = []
    count = 0
    for part in parts:
        if isinstance(part, Tensor):
            with torch.autocast(part.device.type, enabled=False):  # backward follows the types of forward by itself
                part = torch.autograd.grad(part, parameters)  # noqa: PLW2901 - the loss is used up here
        count += 1
        if total:
            torch._foreach_add_(total, list(part))
        else:
            total = list(part)
    if count > 1:
        torch._foreach_div_(total, count)
    return total


def _laid_out_like(parameter: nn.Parameter, gradient: Tensor) -> Tensor:
    """A fused step on the CPU walks both through memory side by side, whatever their strides: they have to be equal."""
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)


def _plain(schedule: float | Ramp) -> float | dict[str, float | str]:
    """A schedule as a checkpoint can hold it."""
    return schedule.model_dump() if isinstance(schedule, Ramp) else schedule


def _at(schedule: float | dict[str, float | str], progress: float) -> float:
    return value_at(Ramp.model_validate(schedule) if isinstance(schedule, dict) else schedule, progress)
