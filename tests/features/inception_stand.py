"""Random weights in the layout of the published Inception: the real ones are a download."""

import torch
from torch.nn import functional as F


def pictures(count, channels=3, *, seed=0, size=32):
    """Images uint8 [N, C, H, W] with sharp edges, in which no two resizes agree."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (count, channels, 8, 8), generator=rng, dtype=torch.uint8)
    return F.interpolate(small.float(), size=size, mode="nearest").to(torch.uint8)
