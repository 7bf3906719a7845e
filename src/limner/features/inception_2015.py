"""Inception-v3 as of 2015-12-05: the features of the Frechet inception distance (FID), arXiv:1706.08500.

Three protocols of scaling a picture to its 299 pixels are in use, and give values that cannot be compared:
`pytorch-fid` (also clean-fid's legacy_pytorch), `tf1` (the original; torch-fidelity, StyleGAN, torchmetrics without
antialias) and `clean` (clean-fid, arXiv:2104.11222).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from limner.errors import LimnerError
from limner.features.inception_network import InceptionNetwork
from limner.features.onnx_network import PIECE, OnnxNetwork
from limner.features.resizing import bicubic, bilinear, bilinear_tf1, rgb
from limner.features.weights_file import network_from_file

PUBLISHED_SHA256 = "6726825d"
"""The first digits of the SHA-256 of the published weights."""

NAME = "inception-v3-2015"
SIDE = 299

ResizeName = Literal["pytorch-fid", "tf1", "clean"]
RESIZES: dict[ResizeName, str] = {
    "pytorch-fid": "bilinear to 299, no antialias",
    "tf1": "bilinear to 299 on TensorFlow 1's grid, no antialias",
    "clean": "bicubic to 299, antialiased",
}
NOT_READ = "clean-fid's TorchScript and StyleGAN's pickle hold the same weights, but as programs: they are not read."


@dataclass(frozen=True)
class Inception:
    """Extractor: the 2048 averaged features before the last layer."""

    network: InceptionNetwork
    device: torch.device
    identity: str
    protocol: ResizeName = "pytorch-fid"
    faster: OnnxNetwork | None = None
    """The same network in a form that takes a while to start."""

    def for_many(self) -> Inception:
        """The same for so many pictures that starting slowly does not matter."""
        return self if self.faster or self.device.type != "cpu" else self._for_many

    @cached_property
    def _for_many(self) -> Inception:
        return replace(self, faster=OnnxNetwork(self.network, torch.zeros(2, 3, SIDE, SIDE)))

    @property
    def name(self) -> str:
        """With other weights than the published ones it is another extractor, and its distance no FID."""
        network = NAME if self.identity.startswith(PUBLISHED_SHA256) else f"inception-v3-{self.identity[:8]}"
        return network if self.protocol == "pytorch-fid" else f"{network}-{self.protocol}"

    @property
    def resize(self) -> str:
        """The protocol, in a few words."""
        return RESIZES[self.protocol]

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, 2048]; grey is repeated, alpha laid over black."""
        if not self.faster:
            features: Tensor = self.network(self._inputs(images))
            return features
        # Resized a few at a time, they do not leave the processor's cache before the network sees them.
        return torch.cat([self.faster(self._inputs(piece)) for piece in torch.split(images, PIECE)])

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps float32 [N, C, H, W] at four depths, shallow to deep, of images uint8 [N, C, H, W]."""
        return self.network.stages(self._inputs(images))

    def class_probabilities(self, features: Tensor) -> Tensor:
        """Probabilities [N, 1008] that belong to features [N, 2048], as the inception score has them: without bias."""
        return torch.softmax(features @ self.network.classes.weight.T.to(features.device), 1)

    def _inputs(self, images: Tensor) -> Tensor:
        inputs = network_inputs(rgb(images.to(self.device)), protocol=self.protocol)
        return inputs if self.faster else inputs.contiguous(memory_format=torch.channels_last)


def network_inputs(pixels: Tensor, *, protocol: ResizeName) -> Tensor:
    """What the network sees, float32 [N, 3, 299, 299] from -1 to about 1, of pixels float32 [N, 3, H, W] in 0..255."""
    match protocol:
        case "pytorch-fid":
            return bilinear(pixels / 255, side=SIDE).mul_(2).sub_(1)
        case "tf1":
            return bilinear_tf1(pixels, side=SIDE).sub_(128).div_(128)
        case "clean":
            return bicubic(pixels, side=SIDE).sub_(128).div_(128)


def usual_places(torch_home: Path) -> tuple[Path, ...]:
    """Where other tools leave the published weights: pytorch-fid; torch-fidelity and torchmetrics.

    `torch_home` is $TORCH_HOME, by default ~/.cache/torch.
    """
    return tuple(
        torch_home / "hub" / "checkpoints" / f"{prefix}-2015-12-05-{PUBLISHED_SHA256}.pth"
        for prefix in ("pt_inception", "weights-inception")
    )


def find_weights(path: Path | None, *, elsewhere: Iterable[Path] = ()) -> Path:
    """The file at `path`; without one, the first that exists elsewhere. Raises LimnerError where there is none."""
    places = tuple(elsewhere)
    for place in (path,) if path else places:
        if place.is_file():
            return place
    searched = "; searched ".join(("", *map(str, places))) if not path else ""
    raise LimnerError(
        f"There are no Inception weights at {path}." if path else "No Inception weights are given.",
        why=f"The features {NAME!r} need the file pt_inception-2015-12-05-{PUBLISHED_SHA256}.pth{searched}.",
        fix="pytorch-fid leaves it in $TORCH_HOME/hub/checkpoints, torch-fidelity and torchmetrics leave it there as "
        f"weights-inception-2015-12-05-{PUBLISHED_SHA256}.pth. Name it, or its https:// or s3:// address, as the "
        f"weights. {NOT_READ}",
    )


def load_inception(
    path: Path, *, device: torch.device, protocol: ResizeName = "pytorch-fid", sha256: str = ""
) -> Inception:
    """The network with the weights in a file, a plain state dict.

    Raises LimnerError where they do not fit, or where the file's SHA-256 does not begin with `sha256`.
    """
    network, found = network_from_file(
        path,
        InceptionNetwork,
        holding="Inception weights",
        fix=f"It has to be the state dict that pytorch-fid or torch-fidelity download. {NOT_READ}",
        sha256=sha256,
    )
    return Inception(network.to(memory_format=torch.channels_last).to(device), device, found, protocol)
