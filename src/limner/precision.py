"""The type that layers compute in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

PrecisionName = Literal["auto", "fp32", "bf16"]


def choose_precision(name: PrecisionName, device: torch.device) -> torch.dtype:
    """The type that layers compute in. `auto` is bfloat16 where the hardware has instructions for it."""
    if name == "auto":
        return torch.bfloat16 if _has_native_bf16(device) else torch.float32
    return torch.bfloat16 if name == "bf16" else torch.float32


def autocast(dtype: torch.dtype, device: torch.device) -> AbstractContextManager[object]:
    """Inside it, layers that gain from `dtype` compute in it; weights stay float32."""
    if dtype is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, dtype)


def _has_native_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    found: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # not in every supported version of PyTorch
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
