"""How the convolutions of the translation networks begin."""

from __future__ import annotations

from typing import Literal

from torch import nn

InitialWeights = Literal["normal", "xavier"]
"""`normal`: CycleGAN and pix2pix; `xavier`: CUT. Both with 0.02."""

SMALL = 0.02


def begin_small(network: nn.Module, scheme: InitialWeights) -> None:
    """All convolutions and linear layers: weights around zero, offsets zero.

    `normal`: a standard deviation of 0.02 (arXiv:1703.10593, section 7.1). `xavier`: 0.02 of Glorot's, as the authors
    of CUT have it in their code. Their size counts for the speed of learning alone where a normalisation follows.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            if scheme == "normal":
                nn.init.normal_(layer.weight, std=SMALL)
            else:
                nn.init.xavier_normal_(layer.weight, gain=SMALL)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def begin_steady(network: nn.Module, *, slope: float = 0.0) -> None:
    """All convolutions and linear layers: weights that keep the variance through (leaky) ReLUs, offsets zero.

    arXiv:1502.01852. For networks without normalisation, in which small weights would let the signal die out.
    """
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.kaiming_normal_(layer.weight, a=slope, nonlinearity="leaky_relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
