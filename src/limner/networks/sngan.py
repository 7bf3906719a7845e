"""The ResNets of SNGAN (arXiv:1802.05957, the CIFAR-10 networks of its appendix), with the classes of arXiv:1802.05637.

Any power-of-two size from 16 to 256, any number of channels. A block has `width` channels at 32x32 and below; above,
they halve with every doubling, so that the layers of a larger picture cost no more than those at 32x32.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from limner.networks.conditioning import ProjectionHead
from limner.networks.resolutions import BASE, resolutions
from limner.strict import Settings
from limner.tasks import PictureShape

FINAL = 8
"""Resolution at which the discriminator stops halving and has two more blocks."""
RESIDUAL_GAIN = 2**0.5
"""Of the initial weights of a block's 3x3 convolutions; 1 elsewhere. As the authors' code has it."""


class GeneratorSettings(Settings):
    """Residual blocks with batch normalisation. The defaults are the paper's CIFAR-10 network."""

    name: Literal["sngan"] = "sngan"
    latent: int = Field(128, ge=1, le=4096, description="dimensions of the noise")
    width: int = Field(256, ge=1, le=4096, description="channels at 32x32 and below; above, half for every doubling")


class DiscriminatorSettings(Settings):
    """Residual blocks with spectral normalisation. The default is the paper's CIFAR-10 network."""

    name: Literal["sngan"] = "sngan"
    width: int = Field(128, ge=1, le=4096, description="channels at 32x32 and below; above, half for every doubling")


def channels(resolution: int, *, width: int) -> int:
    """Channels of a block at a resolution."""
    return max(1, width * 32 // max(32, resolution))


class Generator(nn.Module):
    """Latent [N, Z] and labels [N] -> images [N, C, H, W] in (-1, 1).

    The blocks' convolutions have no bias: only batch normalisation ever sees it, and takes it away.
    """

    def __init__(self, shape: PictureShape, *, latent: int = 128, width: int = 256) -> None:
        super().__init__()
        counts = [channels(r, width=width) for r in resolutions(shape, family="sngan")]
        self.entry = nn.Linear(latent, counts[0] * BASE * BASE)
        nn.init.xavier_uniform_(self.entry.weight)
        self.blocks = nn.ModuleList(UpBlock(before, after, shape.classes) for before, after in pairwise(counts))
        self.normalise = nn.BatchNorm2d(counts[-1])
        self.exit = _convolution(counts[-1], shape.channels, 3)

    def forward(self, latent: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images in float32, whatever precision the layers ran in. `labels` are needed where there are classes."""
        grid = self.entry(latent).unflatten(1, (-1, BASE, BASE))
        features: Tensor = grid.contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            features = block(features, labels)
        images: Tensor = self.exit(F.relu(self.normalise(features))).float().tanh()
        return images


class UpBlock(nn.Module):
    """Residual block [N, B, H, W] -> [N, A, 2H, 2W]: normalise, ReLU, scale up, 3x3, normalise, ReLU, 3x3; and 1x1."""

    def __init__(self, before: int, after: int, classes: int) -> None:
        super().__init__()
        self.first_norm = LabelledBatchNorm(before, classes)
        self.first = _convolution(before, after, 3, gain=RESIDUAL_GAIN, bias=False)
        self.second_norm = LabelledBatchNorm(after, classes)
        self.second = _convolution(after, after, 3, gain=RESIDUAL_GAIN, bias=False)
        self.shortcut = _convolution(before, after, 1, bias=False)

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """The features at twice the resolution."""
        inner = self.first(_scale_up(F.relu(self.first_norm(features, labels))))
        inner = self.second(F.relu(self.second_norm(inner, labels)))
        # A 1x1 convolution and nearest-neighbour scaling commute; this order costs a quarter.
        out: Tensor = inner + _scale_up(self.shortcut(features))
        return out


class LabelledBatchNorm(nn.Module):
    """Batch normalisation with a scale and an offset for each label (arXiv:1610.07629), where there are classes."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.normalise = nn.BatchNorm2d(features, affine=not classes)
        self.scale = nn.Embedding(classes, features) if classes else None
        self.offset = nn.Embedding(classes, features) if classes else None
        if self.scale is not None and self.offset is not None:
            nn.init.ones_(self.scale.weight)
            nn.init.zeros_(self.offset.weight)

    def forward(self, features: Tensor, labels: Tensor | None) -> Tensor:
        """Features [N, D, H, W] of labels [N], in their own precision."""
        normal: Tensor = self.normalise(features)
        if self.scale is None or self.offset is None:
            return normal
        scale, offset = (each(labels).to(normal.dtype)[:, :, None, None] for each in (self.scale, self.offset))
        return torch.addcmul(offset, normal, scale)


class Discriminator(nn.Module):
    """Images [N, C, H, W] and labels [N] -> logits [N]; every layer has a spectral norm of 1.

    Each call in training mode refines the estimate of that norm by a step of the power iteration, as the paper does.
    """

    def __init__(self, shape: PictureShape, *, width: int = 128, offset: bool = True) -> None:
        super().__init__()
        # A block is named after the resolution that it reads.
        halving = [r for r in reversed(resolutions(shape, family="sngan")) if r > FINAL]
        counts = [channels(r, width=width) for r in halving]
        self.entry = EntryBlock(shape.channels, counts[0])
        self.blocks = nn.Sequential(
            *(DownBlock(before, after) for before, after in pairwise(counts)),
            *(Block(counts[-1]) for _ in range(2)),
        )
        self.head = ProjectionHead(counts[-1], shape.classes, offset=offset)
        spectral_norm(self.head.score)
        if self.head.embedding is not None:
            spectral_norm(self.head.embedding)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits in float32. The norms and the head are computed in float32 too, under autocast."""
        images = images.contiguous(memory_format=torch.channels_last)
        with parametrize.cached():
            # On a GPU, autocast would take the power iteration's products in bfloat16.
            with torch.autocast(images.device.type, enabled=False):
                for layer in self.modules():
                    if parametrize.is_parametrized(layer):
                        layer.weight  # noqa: B018 - computed here, and taken from the cache below
            features = F.relu(self.blocks(self.entry(images)))
            with torch.autocast(images.device.type, enabled=False):
                logits: Tensor = self.head(features.float().sum((2, 3)), labels)
        return logits


class EntryBlock(nn.Module):
    """Residual block of the picture itself, at half the resolution: it begins with a convolution, not with a ReLU."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = spectral_norm(_convolution(before, after, 3, gain=RESIDUAL_GAIN))
        self.second = spectral_norm(_convolution(after, after, 3, gain=RESIDUAL_GAIN))
        self.shortcut = spectral_norm(_convolution(before, after, 1))

    def forward(self, images: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, A, H/2, W/2]."""
        features: Tensor = _scale_down(self.second(F.relu(self.first(images)))) + self.shortcut(_scale_down(images))
        return features


class DownBlock(nn.Module):
    """Residual block [N, B, H, W] -> [N, A, H/2, W/2]: ReLU, 3x3, ReLU, 3x3, average; and 1x1."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = spectral_norm(_convolution(before, before, 3, gain=RESIDUAL_GAIN))
        self.second = spectral_norm(_convolution(before, after, 3, gain=RESIDUAL_GAIN))
        self.shortcut = spectral_norm(_convolution(before, after, 1))

    def forward(self, features: Tensor) -> Tensor:
        """The features at half the resolution."""
        inner = _scale_down(self.second(F.relu(self.first(F.relu(features)))))
        # A 1x1 convolution and an average commute; this order costs a quarter.
        out: Tensor = inner + self.shortcut(_scale_down(features))
        return out


class Block(nn.Module):
    """Residual block that keeps its resolution: ReLU, 3x3, ReLU, 3x3; nothing on the shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = spectral_norm(_convolution(width, width, 3, gain=RESIDUAL_GAIN))
        self.second = spectral_norm(_convolution(width, width, 3, gain=RESIDUAL_GAIN))

    def forward(self, features: Tensor) -> Tensor:
        """[N, W, H, W] to the same."""
        out: Tensor = features + self.second(F.relu(self.first(F.relu(features))))
        return out


def _convolution(before: int, after: int, size: int, *, gain: float = 1.0, bias: bool = True) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, size, padding=size // 2, bias=bias)
    nn.init.xavier_uniform_(layer.weight, gain=gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _scale_up(features: Tensor) -> Tensor:
    return F.interpolate(features, scale_factor=2, mode="nearest")


def _scale_down(features: Tensor) -> Tensor:
    return F.avg_pool2d(features, 2)
