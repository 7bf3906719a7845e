"""Tensors that are dear to compute, kept in a folder: weights of a classifier, features of a reference set."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def load_or_build(folder: Path, kind: str, depends_on: Mapping[str, str], build: Callable[[], Tensors]) -> Tensors:
    """The tensors that `build` makes, from the folder where it holds them: `<kind>-<hash of depends_on>.safetensors`.

    A file that is damaged, or that was written for something else, is built again. Written atomically, so that two
    processes may share the folder.
    """
    key = hashlib.sha256(json.dumps(dict(depends_on), sort_keys=True).encode()).hexdigest()
    path = folder / f"{kind}-{key[:16]}.safetensors"
    kept = _read(path, key)
    if kept is not None:
        return kept
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in build().items()}
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{kind}-", dir=folder) as temporary:
        partial = Path(temporary) / path.name
        save_file(tensors, partial, metadata={"key": key, "sha256": tensors_sha256(tensors), **depends_on})
        partial.replace(path)
    return tensors


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors: their identity, whatever file they lie in."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _read(path: Path, key: str) -> Tensors | None:
    try:
        with safe_open(path, framework="pt") as file:
            said = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is not a mapping
    except (OSError, SafetensorError):
        return None
    intact = said.get("key") == key and said.get("sha256") == tensors_sha256(tensors)
    return tensors if intact else None
