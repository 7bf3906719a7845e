"""What a training method is. One file of this package is one method; its file name is its name in params.yaml.

Such a file has a class `Params(MethodSettings)`, the method's settings with the paper's values as defaults, and a class
`Method(params: Params, shape: PictureShape)` that is a `TrainingMethod`. Nothing else has to be written or registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, cast

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from limner.errors import LimnerError, suggest
from limner.settings import MethodSettings
from limner.tasks import PictureShape, TaskName

Losses = dict[str, Tensor]
"""Every term of one step by name: scalar tensors, detached, still on the device."""


BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class MicroBatch(Generic[BatchT]):
    """The part of a batch that is computed at once, with the randomness that belongs to it and to nothing else.

    Normally it is the whole batch. It is a part where memory does not hold all (gradient accumulation), and where
    several processes share the work; since it is the same whoever computes it, so is the result.
    """

    batch: BatchT
    rng: Generator
    """On the method's device, seeded from the run's seed, the step and the part."""


@dataclass(frozen=True)
class Moment:
    """Where in the run a step stands. All that a schedule or an interval needs, so that neither has a state to save."""

    step: int
    images_seen: int
    total_images: int
    rollbacks: int = 0
    """How often the guard has gone back to an earlier checkpoint."""

    @property
    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]."""
        return self.images_seen / self.total_images

    @property
    def caution(self) -> float:
        """What penalties are multiplied by: twice as much after each time the guard went back."""
        return float(2**self.rollbacks)


class TrainingMethod(Protocol):
    """The two-player game. All its state lives in `networks` and `optimizers`: that is what a checkpoint saves."""

    task: TaskName
    networks: nn.ModuleDict
    optimizers: dict[str, Optimizer]

    def step(self, parts: Sequence[MicroBatch[Any]], moment: Moment) -> Losses:
        """One whole update of both players, in the order of the paper, from all parts of a batch."""

    def product(self) -> nn.Module:
        """The network that is averaged, judged and shipped."""

    def product_inputs(self, batch: Any, rng: Generator) -> dict[str, Tensor]:
        """The product's inputs by name for as many results as the batch has images: noise, or pictures to change."""

    def realness(self, images: Tensor, batch: Any) -> Tensor:
        """The discriminator's logits [N] of images [N, C, H, W] that stand for the batch's: real ones, or results."""


def mean_terms(parts: Sequence[Losses]) -> Losses:
    """Each term's mean over the micro-batches that have it."""
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: torch.stack([part[name] for part in parts if name in part]).mean() for name in names}


@dataclass(frozen=True)
class LoadedMethod:
    """The two classes of a method's file."""

    task: TaskName
    params: type[MethodSettings]
    build: Callable[[MethodSettings, PictureShape], TrainingMethod]


def load_method(name: str) -> LoadedMethod:
    """The method of that name. Raises LimnerError where there is no such file."""
    known = [module.name for module in pkgutil.iter_modules(__path__)]
    if name not in known:
        raise LimnerError(f"There is no training method {name!r}.", fix=suggest(name, known))
    module = importlib.import_module(f"{__name__}.{name}")
    return LoadedMethod(module.Method.task, cast("type[MethodSettings]", module.Params), module.Method)


def method_settings(name: str) -> type[MethodSettings]:
    """The settings class of a method, for `limner.params.Catalog`."""
    return load_method(name).params
