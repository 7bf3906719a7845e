"""Discriminators that judge patches: PatchGAN (arXiv:1611.07004, section 3.2.2), and several at several scales."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm

from limner.errors import LimnerError
from limner.networks.initial_weights import InitialWeights, begin_small, begin_steady
from limner.networks.instance_norm import InstanceNorm
from limner.networks.resampling import BlurHalve
from limner.strict import Settings
from limner.tasks import PictureShape

Norm = Literal["instance", "none", "spectral"]
Resampling = Literal["strided", "blur"]

SLOPE = 0.2
WIDEST = 8
"""Most channels of a layer, as a multiple of the first one's."""


class DiscriminatorSettings(Settings):
    """PatchGAN. The defaults are CycleGAN's 70x70; CUT's has `blur` resampling."""

    name: Literal["patch"] = "patch"
    width: int = Field(64, ge=1, le=1024, description="channels of the first layer; they double up to eightfold")
    layers: int = Field(
        3, ge=0, le=6, description="halvings; a patch is 70x70 for 3, 34 for 2, 16 for 1, a pixel for 0"
    )
    norm: Norm = Field("instance", description="spectral: of the weights, not of the features")
    resampling: Resampling = Field("strided", description="blur: halve without aliasing")
    init: InitialWeights = Field("normal", description="of a network with instance normalisation; xavier: CUT's code")


class MultiscaleSettings(DiscriminatorSettings):
    """PatchGANs of their own weights on the picture and on its halves (arXiv:1711.11585, section 3.2)."""

    name: Literal["multiscale"] = "multiscale"  # type: ignore[assignment]
    scales: int = Field(2, ge=2, le=3, description="the picture itself, its half, its quarter")


class Discriminator(nn.Module):
    """Images [N, C, H, W] and labels [N] -> logits [N, P], one for each of P overlapping patches.

    With classes, each patch's features are multiplied with the label's embedding: the projection discriminator
    (arXiv:1802.05637, equation 3) at every patch.
    """

    def __init__(  # noqa: PLR0913 - the settings, each by name
        self,
        shape: PictureShape,
        *,
        width: int = 64,
        layers: int = 3,
        norm: Norm = "instance",
        resampling: Resampling = "strided",
        init: InitialWeights = "normal",
        offset: bool = True,
    ) -> None:
        """Without `offset` the last layer has no bias. Raises LimnerError if `layers` leave no patch."""
        super().__init__()
        _refuse_size(shape, layers, scales=1)
        self.window = 4 if layers else 1
        """The last layer sees so many pixels of the last features; they overlap."""
        padding = self.window // 4
        counts = [width * min(2**i, WIDEST) for i in range(max(layers, 1) + 1)]
        body: list[nn.Module] = []
        for number, (before, after) in enumerate(zip([shape.channels, *counts], counts, strict=False)):
            halve = number < layers
            stride = 2 if halve and resampling == "strided" else 1
            normalised = norm == "instance" and number > 0
            # A normalisation takes an offset away again.
            body.append(nn.Conv2d(before, after, self.window, stride=stride, padding=padding, bias=not normalised))
            body += [InstanceNorm(after)] * normalised
            body.append(nn.LeakyReLU(SLOPE))
            body += [BlurHalve()] * (halve and resampling == "blur")
        self.layers = nn.Sequential(*body)
        self.score = nn.Conv2d(counts[-1], 1, self.window, padding=padding, bias=offset)
        self.embedding = nn.Embedding(shape.classes, counts[-1]) if shape.classes else None
        self._begin(norm, init)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits in float32, row by row of patches. The norms and the head are computed in float32 under autocast."""
        images = images.contiguous(memory_format=torch.channels_last)
        with parametrize.cached():
            with torch.autocast(images.device.type, enabled=False):
                for layer in self.modules():
                    if parametrize.is_parametrized(layer):
                        layer.weight  # noqa: B018 - computed here in float32, and taken from the cache below
            features = self.layers(images)
            with torch.autocast(images.device.type, enabled=False):
                features = features.float()
                logits: Tensor = self.score(features)
                if self.embedding is not None and labels is not None:
                    logits = logits + self._project(features, labels)
        return logits.flatten(1)

    def _project(self, features: Tensor, labels: Tensor) -> Tensor:
        """The label's embedding times the mean of the features that a patch's logit sees, [N, 1, h, w]."""
        assert self.embedding is not None
        product = torch.einsum("nchw,nc->nhw", features, self.embedding(labels)).unsqueeze(1)
        return F.avg_pool2d(product, self.window, stride=1, padding=self.window // 4)

    def _begin(self, norm: Norm, init: InitialWeights) -> None:
        if norm == "instance":
            begin_small(self, init)
        else:
            begin_steady(self, slope=SLOPE)
            nn.init.xavier_normal_(self.score.weight)
        if self.embedding is not None:
            nn.init.normal_(self.embedding.weight, std=self.embedding.embedding_dim**-0.5)
        if norm == "spectral":
            for layer in list(self.modules()):
                if isinstance(layer, nn.Conv2d | nn.Embedding):
                    spectral_norm(layer)


class MultiscaleDiscriminator(nn.Module):
    """Images [N, C, H, W] and labels [N] -> logits [N, P]: of the picture's patches, then of its half's, and so on.

    A mean over P counts patches alike, so that the finest scale weighs most; the paper adds a mean for each scale.
    """

    def __init__(self, shape: PictureShape, *, scales: int = 2, layers: int = 3, **options: object) -> None:
        """`options` are those of `Discriminator`. Raises LimnerError if the coarsest scale has no patch left."""
        super().__init__()
        _refuse_size(shape, layers, scales=scales)
        self.scales = nn.ModuleList()
        for scale in range(scales):
            halved = PictureShape(
                shape.channels, _halved(shape.height, scale), _halved(shape.width, scale), shape.classes
            )
            self.scales.append(Discriminator(halved, layers=layers, **options))  # type: ignore[arg-type]

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits in float32."""
        logits = []
        for number, judge in enumerate(self.scales):
            if number:
                images = F.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
            logits.append(judge(images, labels))
        return torch.cat(logits, dim=1)


def _halved(side: int, times: int) -> int:
    divisor: int = 2**times
    return -(-side // divisor)


def _refuse_size(shape: PictureShape, layers: int, *, scales: int) -> None:
    side = _halved(min(shape.height, shape.width), scales - 1)
    # A side is halved `layers` times, rounded down, then two 4x4 convolutions take a pixel each and leave one.
    if layers and side < 3 * 2**layers:
        fitting = max((n for n in range(1, layers) if side >= 3 * 2**n), default=0)
        picture = f"{shape.width}x{shape.height}" + (f", halved to {side} pixels," if scales > 1 else "")
        raise LimnerError(
            f"A patch discriminator with `layers` of {layers} has no patch in a picture of {picture}.",
            why=f"Each layer halves the picture, and the last two see 4x4: it takes {3 * 2**layers} pixels.",
            fix=f"Set `layers` to {fitting} at most{' or use fewer scales' if scales > 1 else ''}.",
        )
