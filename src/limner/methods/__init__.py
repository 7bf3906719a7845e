"""What a training method is. One file of this package is one method; its file name is its name in params.yaml.

Such a file has a class `Params(MethodSettings)`, the method's settings with the paper's values as defaults, and a class
`Method(params: Params, shape: PictureShape)` that is a `TrainingMethod`. Nothing else has to be written or registered.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from limner.errors import LimnerError, suggest
from limner.game import Losses, MicroBatch, Moment
from limner.settings import MethodSettings
from limner.tasks import PictureShape, TaskName


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

    def realness(self, batch: Any, results: Tensor | None = None) -> Tensor:
        """The discriminator's logits [N]: of results [N, C, H, W] for the batch, or of its real images."""


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
