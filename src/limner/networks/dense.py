"""Fully connected networks: the discriminator of the textbooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from limner.networks.conditioning import ProjectionHead
from limner.strict import Settings
from limner.tasks import PictureShape


class DiscriminatorSettings(Settings):
    """Fully connected layers."""

    name: Literal["dense"] = "dense"
    widths: list[Annotated[int, Field(ge=1)]] = Field([512, 256], min_length=1, description="of the hidden layers")


class Discriminator(nn.Module):
    """Images [N, C, H, W] of any size and labels [N] -> logits [N], through fully connected layers."""

    piecewise_linear = True

    def __init__(self, shape: PictureShape, *, widths: Sequence[int], offset: bool = True) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip([shape.channels * shape.height * shape.width, *widths], widths, strict=False):
            layers += [nn.Linear(before, after), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers)
        self.head = ProjectionHead(widths[-1], shape.classes, offset=offset)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits in float32."""
        logits: Tensor = self.head(self.layers(images), labels)
        return logits
