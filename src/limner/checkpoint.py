"""Checkpoints: everything a training run needs to go on as if nothing had happened.

A checkpoint is a folder. It is written beside its place, flushed to the disk and renamed, its manifest last, so a
folder with a manifest is whole. Weights are safetensors; the optimisers' state is read with `weights_only`. Random
states are not in it because there are none: see `limner.randomness`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.averaging import Average
from limner.errors import LimnerError
from limner.methods import TrainingMethod

SCHEMA = 1
WEIGHTS, OPTIMIZERS, MANIFEST = "weights.safetensors", "optimizers.pt", "manifest.json"


class Checkpoints:
    """The checkpoints of one run, in one folder."""

    def __init__(self, folder: Path, *, identity: Mapping[str, Any], keep: int) -> None:
        """`identity` is what must not change between save and restore: settings and dataset digest, by dotted name."""
        self._folder = folder
        self._identity = dict(identity)
        self._keep = keep

    def save(self, method: TrainingMethod, average: Average, state: Mapping[str, Any]) -> None:
        """Write a checkpoint; `state` (JSON) has at least `step`. Older ones beyond `keep` are deleted afterwards."""
        final = self._folder / f"step-{state['step']:09d}"
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_weights(method, average), partial / WEIGHTS)
        torch.save({name: o.state_dict() for name, o in method.optimizers.items()}, partial / OPTIMIZERS)
        files = {name: _flushed_sha256(partial / name) for name in (WEIGHTS, OPTIMIZERS)}
        manifest = {"schema": SCHEMA, "identity": self._identity, "state": dict(state), "files": files}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
        _flushed_sha256(partial / MANIFEST)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
        _flush_folder(self._folder)
        for old in self._folders()[: -self._keep]:
            shutil.rmtree(old)

    def restore(self, method: TrainingMethod, average: Average) -> dict[str, Any] | None:
        """Load the newest whole checkpoint and return its state; None where there is none.

        Raises LimnerError where it is of a run with other settings or other data, naming each difference.
        """
        for folder in reversed(self._folders()):
            manifest = _read_manifest(folder)
            if manifest is None:
                continue
            self._refuse_difference(manifest["identity"], folder)
            weights = load_file(folder / WEIGHTS)
            optimizers = torch.load(folder / OPTIMIZERS, weights_only=True, map_location="cpu")
            try:
                method.networks.load_state_dict(_part(weights, "networks."))
                average.network.load_state_dict(_part(weights, "average."))
                for name, optimizer in method.optimizers.items():
                    optimizer.load_state_dict(optimizers[name])
            except (RuntimeError, ValueError, KeyError) as error:
                raise LimnerError(
                    f"The checkpoint {folder} does not fit the networks that this version builds.",
                    why=str(error).splitlines()[0],
                    fix=f"Go back to the version that wrote it, or delete {self._folder} to begin anew.",
                ) from error
            state: dict[str, Any] = manifest["state"]
            return state
        return None

    def _folders(self) -> list[Path]:
        return sorted(folder for folder in self._folder.glob("step-*") if folder.suffix != ".partial")

    def _refuse_difference(self, theirs: Mapping[str, Any], folder: Path) -> None:
        mine = json.loads(json.dumps(self._identity))
        changed = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if changed:
            rows = "; ".join(f"{key}: {theirs.get(key)!r} then, {mine.get(key)!r} now" for key in changed)
            raise LimnerError(
                f"The checkpoint {folder} belongs to a run with other settings.",
                why=rows,
                fix="Put the settings back to go on with it, or delete the folder to begin anew.",
            )


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    rows: dict[str, Any] = {}
    for key, value in document.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return rows


def _weights(method: TrainingMethod, average: Average) -> dict[str, Tensor]:
    parts = {"networks.": method.networks, "average.": average.network}
    # A copy of each: safetensors refuses tensors that share memory, and wants them contiguous.
    return {
        prefix + name: value.detach().clone(memory_format=torch.contiguous_format)
        for prefix, module in parts.items()
        for name, value in module.state_dict().items()
    }


def _part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a whole checkpoint, None for one that is damaged: an older one is then the newest whole one."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        whole = manifest["schema"] == SCHEMA and all(
            hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
            for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError):
        return None
    return manifest if whole else None


def _flushed_sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
