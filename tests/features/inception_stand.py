"""Random weights in the layout of the published Inception: the real ones are a download."""

import torch
from torch.nn import functional as F
from torchvision.models import inception


def random_state(network):
    """Weights that keep the signal's size, so that a difference anywhere shows at the end."""
    rng = torch.Generator().manual_seed(0)
    state = {}
    for name, value in network.state_dict().items():
        if name.endswith("conv.weight"):
            fan_in = value[0].numel()
            state[name] = torch.randn(value.shape, generator=rng) * (2 / fan_in) ** 0.5
        elif name.endswith(("bn.weight", "bn.running_var")):
            state[name] = 0.5 + torch.rand(value.shape, generator=rng)
        elif value.is_floating_point():
            state[name] = 0.1 * torch.randn(value.shape, generator=rng)
        else:
            state[name] = torch.tensor(1)
    return state


def published_layout():
    """A state dict with the names and shapes of pytorch-fid's and torch-fidelity's files."""
    with torch.device("meta"):
        network = inception.Inception3(1008, aux_logits=False, init_weights=False)
    return random_state(network)


def pictures(count, channels=3, *, seed=0, size=32):
    """Images uint8 [N, C, H, W] with sharp edges, in which no two resizes agree."""
    rng = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 256, (count, channels, 8, 8), generator=rng, dtype=torch.uint8)
    return F.interpolate(small.float(), size=size, mode="nearest").to(torch.uint8)
