"""A file of weights: read without running what is in it, and known by its SHA-256."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from textwrap import shorten
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from limner.errors import LimnerError

Network = TypeVar("Network", bound=nn.Module)

_LONGEST = 240
"""Characters of PyTorch's own words in an error."""


def check_sha256(path: Path, expected: str, *, shown: str = "") -> str:
    """SHA-256 of a file, hexadecimal. Raises LimnerError where it does not begin with the digits that are expected.

    `shown` is what the file is called in the error, where that is not its path.
    """
    refuse_malformed(expected)
    found = file_sha256(path)
    if not found.startswith(expected.lower()):
        raise LimnerError(
            f"{shown or path} does not hold the weights that are asked for.",
            why=f"Its SHA-256 is {found}, and {expected} is asked for.",
            fix="Get the file again, or ask for the SHA-256 of this one if it is the right one.",
        )
    return found


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refuse_malformed(sha256: str) -> None:
    """Raises LimnerError where these are neither the first digits of a SHA-256, at least 8, nor none at all."""
    if sha256 and not re.fullmatch(r"[0-9a-fA-F]{8,64}", sha256):
        raise LimnerError(
            f"{sha256!r} is not a SHA-256.", why="It has 64 hexadecimal digits; the first 8 of them are enough."
        )


def network_from_file(
    path: Path, build: Callable[[dict[str, Tensor]], Network], *, holding: str, fix: str, sha256: str = ""
) -> tuple[Network, str]:
    """The network that `build` makes of the state dict in a file, and the file's SHA-256.

    Raises LimnerError where the SHA-256 is another one, where the file holds anything but tensors by name, and where
    these do not fit; `holding` and `fix` are words for that.
    """
    found = check_sha256(path, sha256)
    try:
        network = build(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:
        # PyTorch names every tensor that is missing, hundreds of them on one line.
        why = shorten(f"{type(error).__name__}: {error}", _LONGEST, placeholder=" ...")
        raise LimnerError(f"{path} does not hold {holding}.", why=why, fix=fix) from error
    return network.eval().requires_grad_(False), found


def folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """One convolution instead of one and the batch norm after it; in float64, so that only rounding differs."""
    return fuse_conv_bn_eval(conv.eval().double(), norm.eval().double()).float()
