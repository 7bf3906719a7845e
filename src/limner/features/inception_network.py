"""The layers of Inception-v3 as of 2015-12-05, arranged to be fast; what comes out differs by rounding only.

They are torchvision's; the published network differs from these in average pools that leave the padding out of the
mean, in a max pool in the last block, and in its 1008 classes. Batch norms are folded into the convolutions. The 1x1
convolutions that read the input of a block are one. Where an average pool comes first, it goes last: both are linear,
and the mean of a bias is the bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - PyTorch's own name for it
from torchvision.models import inception

from limner.features.weights_file import folded

STAGE_ENDS = ("maxpool1", "maxpool2", "Mixed_6e", "Mixed_7c")
"""The layers whose maps are kept for comparing two pictures place by place."""


class InceptionNetwork(nn.Module):
    """Pictures [N, 3, 299, 299] in about [-1, 1] -> 2048 features, whose classes `classes` tells."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        """From weights by their published names. Raises what load_state_dict raises where they do not fit."""
        super().__init__()
        blocks = [inception.BasicConv2d, _A, inception.InceptionB, _C, _D, _E, inception.InceptionAux]
        with torch.device("meta"):  # neither time nor random numbers for weights that are replaced at once
            network = inception.Inception3(1008, aux_logits=False, inception_blocks=blocks, init_weights=False)
            network.Mixed_7c = _LastE(2048)
        network.load_state_dict(state, assign=True)
        self.classes = network.fc
        layers = dict(network.named_children())
        names = list(layers)
        ends = [0, *(names.index(end) + 1 for end in STAGE_ENDS)]
        self.parts = nn.ModuleList(
            nn.Sequential(*(layers[name] for name in names[begin:end])) for begin, end in pairwise(ends)
        )
        for module in list(self.modules()):
            if isinstance(module, inception.BasicConv2d):
                module.conv, module.bn = folded(module.conv, module.bn), nn.Identity()
        for module in list(self.modules()):
            if isinstance(module, _A | _C | _D | _E):
                module.entry = _Entry([getattr(module, name).conv for name in module.entries])
                for name in module.entries:
                    delattr(module, name)

    def stages(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps [N, C, H, W] at the ends of the stages, shallow to deep."""
        maps = [images]
        for part in self.parts:
            maps.append(part(maps[-1]))
        return tuple(maps[1:])

    def forward(self, images: Tensor) -> Tensor:
        """Features [N, 2048]: the mean of the last maps."""
        for part in self.parts:
            images = part(images)
        return images.mean((2, 3))


class _Entry(nn.Module):
    """The 1x1 convolutions that read a block's input, as one."""

    def __init__(self, convs: Sequence[nn.Conv2d]) -> None:
        super().__init__()
        self.sizes = [conv.out_channels for conv in convs]
        self.weight = nn.Parameter(torch.cat([conv.weight for conv in convs]))
        self.bias = nn.Parameter(torch.cat([conv.bias for conv in convs if conv.bias is not None]))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """The results of each of them, which no ReLU has seen."""
        if torch.compiler.is_exporting():  # ONNX Runtime blocks channels, and cannot split them without undoing that
            ends = accumulate(self.sizes)
            parts = [slice(end - size, end) for end, size in zip(ends, self.sizes, strict=True)]
            return tuple(F.conv2d(x, self.weight[part], self.bias[part]) for part in parts)
        return torch.split(F.conv2d(x, self.weight, self.bias), self.sizes, 1)


class _A(inception.InceptionA):  # type: ignore[misc]
    entries = ("branch1x1", "branch5x5_1", "branch3x3dbl_1", "branch_pool")

    def _forward(self, x: Tensor) -> list[Tensor]:
        one, five, three, pool = self.entry(x)
        five = self.branch5x5_2(F.relu(five))
        three = self.branch3x3dbl_3(self.branch3x3dbl_2(F.relu(three)))
        return [F.relu(one), five, three, _pooled(pool)]


class _C(inception.InceptionC):  # type: ignore[misc]
    entries = ("branch1x1", "branch7x7_1", "branch7x7dbl_1", "branch_pool")

    def _forward(self, x: Tensor) -> list[Tensor]:
        one, seven, double, pool = self.entry(x)
        seven = self.branch7x7_3(self.branch7x7_2(F.relu(seven)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(F.relu(double)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return [F.relu(one), seven, double, _pooled(pool)]


class _D(inception.InceptionD):  # type: ignore[misc]
    entries = ("branch3x3_1", "branch7x7x3_1")

    def _forward(self, x: Tensor) -> list[Tensor]:
        three, seven = self.entry(x)
        seven = self.branch7x7x3_3(self.branch7x7x3_2(F.relu(seven)))
        return [self.branch3x3_2(F.relu(three)), self.branch7x7x3_4(seven), F.max_pool2d(x, 3, stride=2)]


class _E(inception.InceptionE):  # type: ignore[misc]
    entries: tuple[str, ...] = ("branch1x1", "branch3x3_1", "branch3x3dbl_1", "branch_pool")

    def _forward(self, x: Tensor) -> list[Tensor]:
        *inner, pool = self.entry(x)
        return [*self._branches(*inner), _pooled(pool)]

    def _branches(self, one: Tensor, three: Tensor, double: Tensor) -> list[Tensor]:
        three, double = F.relu(three), self.branch3x3dbl_2(F.relu(double))
        flat = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        return [F.relu(one), *flat, self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]


class _LastE(_E):
    entries = ("branch1x1", "branch3x3_1", "branch3x3dbl_1")  # a maximum and a convolution cannot change places

    def _forward(self, x: Tensor) -> list[Tensor]:
        return [*self._branches(*self.entry(x)), self.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))]


def _pooled(maps: Tensor) -> Tensor:
    return F.relu(F.avg_pool2d(maps, 3, stride=1, padding=1, count_include_pad=False))
