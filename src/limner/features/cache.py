"""Tensors that are dear to compute, kept in a folder: weights of a classifier, features of a reference set."""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]

LAYOUT = "2"
"""A part of every key: raise it where what is computed changes, so that no older file is taken for it."""

_log = logging.getLogger(__name__)


def load_or_build(folder: Path, kind: str, depends_on: Mapping[str, str], build: Callable[[], Tensors]) -> Tensors:
    """The tensors that `build` makes, from the folder where it holds them: `<kind>-<hash of depends_on>.safetensors`.

    A file that is damaged, or that was written for something else, is built again. Where the folder cannot be written
    to, the tensors are kept nowhere, which the log says.
    """
    kept = load(folder, kind, depends_on)
    return keep(folder, kind, depends_on, build()) if kept is None else kept


def load(folder: Path, kind: str, depends_on: Mapping[str, str]) -> Tensors | None:
    """The tensors that were kept in the folder for this; None where there are none, or not as they were written."""
    key = _key(depends_on)
    try:
        with safe_open(_place(folder, kind, key), framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    except (OSError, SafetensorError):
        return None
    intact = said.get("key") == key and said.get("sha256") == tensors_sha256(tensors)
    return tensors if intact else None


def keep(folder: Path, kind: str, depends_on: Mapping[str, str], tensors: Tensors) -> Tensors:
    """The tensors as `load` gives them from now on, or, where the folder cannot be written to, only now.

    Written atomically, so that two processes may share the folder.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    key = _key(depends_on)
    path = _place(folder, kind, key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=folder) as temporary:
            partial = Path(temporary) / path.name
            save_file(tensors, partial, metadata={"key": key, "sha256": tensors_sha256(tensors), **depends_on})
            partial.replace(path)
    except (OSError, SafetensorError) as error:  # what was dear to compute is not lost for want of a place
        _log.warning("Nothing is kept in the cache %s: %s", folder, error)
    return tensors


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors: their identity, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _key(depends_on: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps([LAYOUT, dict(depends_on)], sort_keys=True).encode()).hexdigest()


def _place(folder: Path, kind: str, key: str) -> Path:
    return folder / f"{kind}-{key[:16]}.safetensors"
