"""Inception-v3 as of 2015-12-05: the features of the Frechet inception distance (FID), arXiv:1706.08500.

The layers are torchvision's Inception-v3; the network that FID was published with differs from them in four ways:
average pools that leave the padding out of the mean, a max pool in the last block, 1008 classes, and its own weights.
The protocol is that of pytorch-fid: bilinear to 299 x 299 without antialiasing, on [0, 1], then 2 x - 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torchvision.models import inception

from limner.errors import LimnerError

PUBLISHED_SHA256 = "6726825d"
"""The first digits of the SHA-256 of the published weights."""

NAME = "inception-v3-2015"


@dataclass(frozen=True)
class Inception:
    """Extractor: the 2048 averaged features before the last layer."""

    network: nn.Module
    device: torch.device
    identity: str
    resize: str = "bilinear to 299, no antialias"

    @property
    def name(self) -> str:
        """With other weights than the published ones it is another extractor, and its distance no FID."""
        return NAME if self.identity.startswith(PUBLISHED_SHA256) else f"inception-v3-{self.identity[:8]}"

    def __call__(self, images: Tensor) -> Tensor:
        """Features float32 [N, 2048]; grey is repeated, alpha laid over black."""
        pixels = _rgb(images.to(self.device).float() / 255)
        inputs = F.interpolate(pixels, size=(299, 299), mode="bilinear", align_corners=False)
        features: Tensor = self.network((2 * inputs - 1).contiguous(memory_format=torch.channels_last))
        return features


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
        f"weights-inception-2015-12-05-{PUBLISHED_SHA256}.pth. Name it with `weights` under `evaluate`.",
    )


def load_inception(path: Path, *, device: torch.device) -> Inception:
    """The network with the weights in a file (a plain state dict). Raises LimnerError where they do not fit."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        network = build_network(state)
    except Exception as error:
        raise LimnerError(
            f"{path} does not hold Inception weights.",
            why=f"{type(error).__name__}: {str(error).splitlines()[0]}",
            fix="It has to be the state dict that pytorch-fid or torch-fidelity download; TorchScript and pickles of "
            "other tools are not read.",
        ) from error
    return Inception(network.to(memory_format=torch.channels_last).to(device), device, sha256)


def build_network(state: dict[str, Tensor]) -> nn.Module:
    """The network of 2048 features [N, 2048] with these weights, in evaluation mode."""
    blocks = [
        inception.BasicConv2d,
        _PoolInsideA,
        inception.InceptionB,
        _PoolInsideC,
        inception.InceptionD,
        _PoolInsideE,
        inception.InceptionAux,
    ]
    with torch.device("meta"):  # neither time nor random numbers for weights that are replaced at once
        network: nn.Module = inception.Inception3(1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
        network.Mixed_7c = _MaxPoolE(2048)
    network.load_state_dict(state, assign=True)
    network.dropout = network.fc = nn.Identity()
    return network.eval().requires_grad_(False)


def _rgb(pixels: Tensor) -> Tensor:
    if pixels.shape[1] == 4:
        return pixels[:, :3] * pixels[:, 3:]
    return pixels.expand(-1, 3, -1, -1)


def _average_inside(maps: Tensor) -> Tensor:
    return F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False)


# torchvision's blocks return their branches as a list whose last is the pool's: it is made anew. That the first one was
# made for nothing costs a 1x1 convolution a block, and saves writing the other branches again.


class _PoolInsideA(inception.InceptionA):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_average_inside(x))]


class _PoolInsideC(inception.InceptionC):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_average_inside(x))]


class _PoolInsideE(inception.InceptionE):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(_average_inside(x))]


class _MaxPoolE(inception.InceptionE):  # type: ignore[misc]
    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*super()._forward(x)[:-1], self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]
