"""Extractors that come ready from somewhere, by name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from limner.errors import LimnerError, suggest
from limner.features import Extractor, efficientnet_lite0, inception_2015
from limner.features.inception_2015 import PUBLISHED_SHA256, ResizeName, find_weights, load_inception
from limner.features.pixels import Pixels
from limner.features.torchvision_model import PREFIX, load_torchvision_model
from limner.ports import Fetch

PRETRAINED = (inception_2015.NAME, efficientnet_lite0.NAME, f"{PREFIX}<model>", "pixels")


def refuse_without_effect(name: str, *, weights: str = "", sha256: str = "", protocol: str = "pytorch-fid") -> None:
    """Raise LimnerError for features that there are not, and for options that they would not look at."""
    if name not in PRETRAINED and not name.startswith(PREFIX):
        raise _unknown(name)
    if name == "pixels" and (weights or sha256):
        raise LimnerError(f"The features {name!r} have no weights.", fix="Leave the weights and their SHA-256 out.")
    if name != inception_2015.NAME and protocol != "pytorch-fid":
        raise LimnerError(
            f"The features {name!r} do not know the protocol {protocol!r}.",
            why=f"It says how pictures are scaled for {inception_2015.NAME}; others have one way of their own.",
            fix=f"Leave the protocol out, or take the features {inception_2015.NAME}.",
        )


def fetch_weights(name: str, weights: str, *, sha256: str, fetch: Fetch) -> Path | None:
    """The file of the weights that a user names by path or address for an extractor; None where nothing is named.

    At an address the published weights are expected for the network that has been published once, and need no SHA-256.
    """
    if not weights:
        return None
    published = PUBLISHED_SHA256 if name == inception_2015.NAME and "://" in weights else ""
    return fetch(weights, sha256=sha256 or published)


def open_pretrained(
    name: str,
    *,
    weights: Path | None,
    sha256: str = "",
    protocol: ResizeName = "pytorch-fid",
    device: torch.device,
    elsewhere: Iterable[Path] = (),
) -> Extractor:
    """The extractor with this name: one of PRETRAINED.

    `sha256` is what the file of weights must begin with in its SHA-256, `protocol` how pictures are scaled for
    Inception, `elsewhere` where its weights may lie if `weights` is None. Raises LimnerError where the name is unknown
    or the weights are missing, wrong or not the expected ones.
    """
    if name == inception_2015.NAME:
        path = find_weights(weights, elsewhere=elsewhere)
        return load_inception(path, device=device, protocol=protocol, sha256=sha256)
    if name == efficientnet_lite0.NAME:
        return efficientnet_lite0.load_efficientnet_lite0(weights, device=device, sha256=sha256)
    if name.startswith(PREFIX):
        return load_torchvision_model(name.removeprefix(PREFIX), weights, device=device, sha256=sha256)
    if name == "pixels":
        return Pixels()
    raise _unknown(name)


def _unknown(name: str) -> LimnerError:
    return LimnerError(f"There are no features {name!r}.", why=suggest(name, PRETRAINED))
