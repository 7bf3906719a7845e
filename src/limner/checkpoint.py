"""Checkpoints: everything a training run needs to go on as if nothing had happened.

A checkpoint is a folder `step-<step>.<n>`, the n-th save of that step. Saving copies all state to host memory; a thread
writes it beside its place, flushes it to the disk and renames it, so that a folder is there whole or not at all. Its
manifest, written last, has the sha256 of every file: what was damaged later is noticed, and an older one used.
Weights are safetensors; all other state is read with `weights_only`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import pickle
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from limner.errors import LimnerError

SCHEMA = 2
WEIGHTS, STATES, MANIFEST = "weights.safetensors", "states.pt", "manifest.json"
PARTIAL = ".partial"
"""Ends the name of what is not whole yet, or no more."""

_log = logging.getLogger(__name__)


class Savable(Protocol):
    """A part of the training state: networks, optimisers, and whatever else remembers something from step to step.

    All but modules have nothing in their state other than tensors, numbers, words, None, and dicts, lists and tuples.
    """

    def state_dict(self) -> dict[str, Any]:
        """All of its state."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any:
        """Take on a state."""


class Checkpoints:
    """The checkpoints of one run, in one folder. A context: leaving it waits for what is being written."""

    def __init__(
        self,
        folder: Path,
        *,
        identity: Mapping[str, Any],
        keep: int,
        written: Callable[[], None] = lambda: None,
    ) -> None:
        """`identity` is what must not change between save and restore: settings and dataset digest, by dotted name.

        `written` is called on the writing thread whenever a checkpoint has taken its place. An error of it surfaces as
        one of writing does.
        """
        assert keep >= 1
        self._folder = folder
        self._identity = dict(identity)
        self._keep = keep
        self._written = written
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def save(self, parts: Mapping[str, Savable], state: Mapping[str, Any]) -> None:
        """Copy the state of all parts and return; it is written meanwhile. The same parts, by name, are restored.

        `state` (JSON) has at least `step`. A save waits for the one before it. Checkpoints beyond `keep` are deleted
        when the new one is in its place. Raises what went wrong with the one before; see `wait`.
        """
        self.wait()
        assert not any("." in name for name in parts), "a dot ends the part's name in the names of its weights"
        manifest = {"schema": SCHEMA, "identity": self._identity, "state": dict(state), "parts": sorted(parts)}
        words = json.dumps(manifest)  # as it is now, and refused here where it cannot be written
        weights: dict[str, Tensor] = {}
        states: dict[str, Any] = {}
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                # safetensors wants each of them contiguous, in memory of its own.
                contiguous = torch.contiguous_format
                weights |= {f"{name}.{key}": _host_copy(v, contiguous) for key, v in part.state_dict().items()}
            else:
                states[name] = _plain_copy(part.state_dict(), name)
        self._pending = self._thread.submit(self._write, weights, states, json.loads(words))

    def wait(self) -> None:
        """Until all is written. Raises the writer's error, once: LimnerError where the disk did not take it."""
        if self._pending is not None:
            wait_for([self._pending])  # a signal may end this wait: what is pending is still known then
            done, self._pending = self._pending, None
            done.result()

    def restore(
        self, parts: Mapping[str, Savable], *, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
    ) -> dict[str, Any] | None:
        """Load the newest whole checkpoint whose state is accepted, and return its state.

        None where there is none. Raises LimnerError where it is of a run with other settings or other data, naming each
        difference; where another version of Limner wrote it; where the parts are not those that were saved.
        """
        self.wait()
        found = next((pair for pair in whole_checkpoints(self._folder) if accept(pair[1].get("state", {}))), None)
        if found is None:
            return None
        folder, manifest = found
        if manifest["schema"] != SCHEMA:
            raise LimnerError(
                f"The checkpoint {folder} was written by another version of Limner.",
                why=f"Its format is {manifest['schema']}; this version reads format {SCHEMA}.",
                fix=f"Go back to the version that wrote it, or delete {self._folder} to begin anew.",
            )
        self._refuse_difference(manifest["identity"], folder)
        try:
            _load(parts, folder, saved=manifest["parts"])
        except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
            raise LimnerError(
                f"The checkpoint {folder} does not fit the networks that this version builds.",
                why=str(error).splitlines()[0],
                fix=f"Go back to the version that wrote it, or delete {self._folder} to begin anew.",
            ) from error
        state: dict[str, Any] = manifest["state"]
        return state

    def close(self) -> None:
        """Wait until all is written, and end the thread. Raises as `wait` does."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception as failure:
            if error is None:
                raise
            # What ended the run is the news; this must not take its place.
            _log.error("The last checkpoint is lost: %s", " ".join(str(failure).splitlines()))

    def _write(self, weights: dict[str, Tensor], states: dict[str, Any], manifest: dict[str, Any]) -> None:
        try:
            self._put_in_place(weights, states, manifest)
        # For a full disk safetensors and torch have errors of their own.
        except (OSError, SafetensorError, RuntimeError) as error:
            raise LimnerError(
                f"A checkpoint could not be written to {self._folder}.",
                why=f"{str(error).splitlines()[0]}{_room(self._folder)}",
                fix="Make room on that disk or let it be written to, then start the same command again: it goes on "
                "from the checkpoint before.",
            ) from error
        weights.clear()  # `written` can take long; the memory is not needed meanwhile
        states.clear()
        self._written()

    def _put_in_place(self, weights: dict[str, Tensor], states: dict[str, Any], manifest: dict[str, Any]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for left_over in self._folder.glob(f"*{PARTIAL}"):  # by a process that was killed
            shutil.rmtree(left_over)
        step = manifest["state"]["step"]
        saves_of_it = [n for folder in _ordered(self._folder) for at, n in [_position(folder)] if at == step]
        final = self._folder / f"step-{step:09d}.{max(saves_of_it, default=-1) + 1}"
        partial = final.with_name(final.name + PARTIAL)
        partial.mkdir()
        try:
            save_file(weights, partial / WEIGHTS)
            torch.save(states, partial / STATES)
            manifest["files"] = {name: _flushed_sha256(partial / name) for name in (WEIGHTS, STATES)}
            (partial / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True), encoding="utf-8")
            _flushed_sha256(partial / MANIFEST)
            _flush_folder(partial)
            partial.rename(final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)  # a full disk needs the room
            raise
        _flush_folder(self._folder)
        for old in _ordered(self._folder)[: -self._keep]:
            if old != final:  # a damaged one may sort after it
                _discard(old)

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


def whole_checkpoints(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Each whole checkpoint in a folder and its manifest, newest first. A damaged one is passed over with a warning."""
    for checkpoint in reversed(_ordered(folder)):
        try:
            manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
            damaged = [name for name, digest in manifest["files"].items() if _sha256(checkpoint / name) != digest]
            whole = not damaged and {"schema", "identity", "state"} <= manifest.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if whole:
            yield checkpoint, manifest
        else:
            _log.warning("The checkpoint %s is damaged; the one before it is used, if there is one.", checkpoint)


def position(name: str) -> tuple[int, int] | None:
    """Step and count of a checkpoint's folder, which order checkpoints by age; None for any other name."""
    # Format 1 had no count.
    found = re.fullmatch(r"step-(\d+)(?:\.(\d+))?", name)
    return (int(found[1]), int(found[2] or -1)) if found else None


def flat(document: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted name."""
    rows: dict[str, Any] = {}
    for key, value in document.items():
        rows |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return rows


def _host_copy(value: Tensor, memory_format: torch.memory_format) -> Tensor:
    value = value.detach()
    return torch.empty_like(value, device="cpu", memory_format=memory_format).copy_(value)


def _plain_copy(value: Any, where: str) -> Any:
    """A copy of nested containers and tensors. TypeError for what could be written but, with weights_only, not read."""
    if isinstance(value, Tensor):
        return _host_copy(value, torch.preserve_format)
    if isinstance(value, Mapping):
        return {key: _plain_copy(each, f"{where}.{key}") for key, each in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain_copy(each, f"{where}.{index}") for index, each in enumerate(value))
    if value is None or type(value) in (bool, int, float, str):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}: only tensors and plain values can be in a checkpoint.")


def _load(parts: Mapping[str, Savable], folder: Path, *, saved: list[str]) -> None:
    if saved != sorted(parts):
        raise ValueError(f"It has {', '.join(saved)}, not {', '.join(sorted(parts))}.")
    weights = load_file(folder / WEIGHTS)
    states = _load_states(folder / STATES)
    for name, part in parts.items():
        if not isinstance(part, nn.Module):
            part.load_state_dict(states[name])
            continue
        prefix = f"{name}."
        part.load_state_dict({key.removeprefix(prefix): v for key, v in weights.items() if key.startswith(prefix)})
    for part in parts.values():
        if isinstance(part, Optimizer):
            _follow_layout(part)


def _load_states(path: Path) -> Any:
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise LimnerError(
            f"{path} is not a file that Limner wrote.",
            why="It holds more than tensors and plain values, and nothing else is loaded (weights_only).",
            fix="Do not trust it; delete its folder to go on from the checkpoint before.",
        ) from error


def _follow_layout(optimizer: Optimizer) -> None:
    """Lay out an optimiser's tensors as their parameters are: fused steps walk through both as flat memory.

    They differ where a run goes on with another layout (channels_last or not) than the one it was saved in.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[key] = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _ordered(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if position(path.name)), key=_position)


def _position(checkpoint: Path) -> tuple[int, int]:
    found = position(checkpoint.name)
    assert found is not None
    return found


def _discard(checkpoint: Path) -> None:
    # Renamed first: a deletion that is cut off must not leave something that looks like a checkpoint.
    gone = checkpoint.rename(checkpoint.with_name(checkpoint.name + PARTIAL))
    shutil.rmtree(gone)


def _room(folder: Path) -> str:
    try:
        return f" ({shutil.disk_usage(folder).free / 1e6:,.0f} MB are free there)"
    except OSError:
        return ""


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flushed_sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    return _sha256(path)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
