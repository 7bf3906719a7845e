"""Randomness without a state to save: every generator is a pure function of the run's seed and what it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose of a run, the same on every machine: `derive_seed(0, "step", 120)`."""
    words = "\x1f".join(map(str, (seed, *purpose)))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *purpose: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator on `device`, seeded for one purpose of a run."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *purpose))


@contextmanager
def global_seed(seed: int, device: torch.device) -> Iterator[None]:
    """Inside it the global generators, which layers such as dropout draw from, begin at `seed`; then they go on."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
