"""Any classifier of torchvision with the weights that a user gives: its features before the last layer.

Mean, standard deviation and size are those of the weights that torchvision publishes for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from limner.errors import LimnerError, suggest
from limner.features.resizing import bicubic, rgb
from limner.features.weights_file import network_from_file

PREFIX = "torchvision:"
_WITHOUT_INITIALISATION = ("googlenet", "inception_v3")
"""Theirs takes half a minute unless it is declined, and warns."""


@dataclass(frozen=True)
class TorchvisionModel:
    """Extractor: what the last linear layer of a classifier reads."""

    network: nn.Module
    device: torch.device
    name: str
    identity: str
    side: int
    mean: Sequence[float]
    deviation: Sequence[float]

    @property
    def resize(self) -> str:
        """Straight to the size that the network was published for: nothing is cropped away."""
        return f"bicubic to {self.side}, antialiased"

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, D]; grey is repeated, alpha laid over black."""
        pixels = bicubic(rgb(images.to(self.device)), side=self.side) / 255
        mean, deviation = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.deviation))
        features: Tensor = self.network(((pixels - mean) / deviation).contiguous(memory_format=torch.channels_last))
        return features.flatten(1)


def load_torchvision_model(
    model: str, path: Path | None, *, device: torch.device, sha256: str = ""
) -> TorchvisionModel:
    """The classifier that torchvision calls `model`, with the state dict in a file.

    Raises LimnerError where there is no such model or no linear layer at its end, and where the weights do not fit.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if model not in known:
        raise LimnerError(f"torchvision has no classifier {model!r}.", why=suggest(model, known))
    published = torchvision.models.get_model_weights(model).DEFAULT
    if path is None or not path.is_file():
        raise LimnerError(
            f"There are no weights at {path}." if path else f"No weights are given for the features {PREFIX}{model}.",
            why="torchvision's networks come without them.",
            fix=f"Name a file as the weights, or its address: {published.url}",
        )

    def build(state: dict[str, Tensor]) -> nn.Module:
        options = {"init_weights": False} if model in _WITHOUT_INITIALISATION else {}
        with torch.random.fork_rng(devices=[]):  # its initial weights shall not change what is drawn next
            network: nn.Module = torchvision.models.get_model(model, weights=None, **options)
        network.load_state_dict(state)
        return _without_last_layer(network, model)

    network, found = network_from_file(
        path,
        build,
        holding=f"weights of torchvision's {model}",
        fix="It has to be a state dict of just this model.",
        sha256=sha256,
    )
    preset = published.transforms()
    return TorchvisionModel(
        network.to(memory_format=torch.channels_last).to(device),
        device,
        name=f"torchvision-{model}",
        identity=found,
        side=preset.crop_size[0],
        mean=tuple(preset.mean),
        deviation=tuple(preset.std),
    )


def _without_last_layer(network: nn.Module, model: str) -> nn.Module:
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise LimnerError(
            f"The features {PREFIX}{model} cannot be had.", why="It has no linear layer to take the input of."
        )
    network.set_submodule(linear[-1], nn.Identity())
    return network
