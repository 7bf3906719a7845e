"""The files of an exported model: what they are called, that nobody has changed them, and its programs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from limner.errors import LimnerError
from limner.program_vetting import find_code

CONFIG, PROGRAM, BACK, WEIGHTS = "config.json", "model.pt2", "back.pt2", "model.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says of an exported model. Raises LimnerError where it cannot be read."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LimnerError(
            f"{folder} is not an exported model.", why=str(error), fix="Export one: limner export MODEL"
        ) from error
    if not isinstance(config, dict):
        raise _cannot_be_opened(folder, f"{CONFIG} has to be a JSON object.")
    return config


def open_config(folder: Path) -> dict[str, Any]:
    """As `read_config`, of a model whose files are all what `files` in config.json says they are.

    Only their bytes are read: call it before anything of the folder is loaded. Raises LimnerError where a file was
    changed, is missing or lies elsewhere, and where config.json does not say what the files are.
    """
    config = read_config(folder)
    files = config.get("files")
    if not isinstance(files, dict) or WEIGHTS not in files:
        raise _cannot_be_opened(folder, f"{CONFIG} does not say in `files` which files it has: it is not a whole one.")
    for name, digest in files.items():
        if not name or Path(name).name != name or name == ".." or "\\" in name:
            raise _cannot_be_opened(folder, f"{CONFIG} names a file outside the folder: {name!r}.")
        found = _sha256(folder / name)
        if found != digest:
            raise LimnerError(
                f"{folder / name} was changed since it was exported."
                if found
                else f"{folder / name} is missing or cannot be read.",
                why=f"Its SHA-256 is {found or 'unknown'}, {CONFIG} has {digest}. Nothing was loaded.",
                fix="Fetch the model again from where it came, or export it again: limner export MODEL",
            )
    return config


def load_program(folder: Path, config: dict[str, Any], name: str) -> torch.export.ExportedProgram:
    """A program of a model that `open_config` has verified.

    Raises LimnerError where the model has none of that name, or one that could run code; then nothing of it has run.
    """
    if name not in config["files"]:
        raise LimnerError(
            f"{folder} has no {name}.", fix="Add `pt2` to the model's export.formats, and export it again."
        )
    with opening(folder):
        return load_vetted(folder / name)


def load_vetted(path: Path) -> torch.export.ExportedProgram:
    """The program in a file. Raises LimnerError where it could run code when it is loaded; then none of it has run."""
    found = find_code(path)
    if found:
        raise LimnerError(
            f"{path} holds more than a network: {found}.",
            why="It could run somebody else's code when it is loaded. Nothing was loaded.",
            fix="Do not trust the model; export it again from its weights: limner export MODEL",
        )
    return torch.export.load(path)


@contextmanager
def opening(folder: Path) -> Iterator[None]:
    """Within the block whatever an exported model's files do not fulfil is a LimnerError."""
    try:
        yield
    except LimnerError:
        raise
    except Exception as error:  # the loader raises what its archive reader and its parser raise
        raise _cannot_be_opened(folder, f"{type(error).__name__}: {error}") from error


def _cannot_be_opened(folder: Path, why: str) -> LimnerError:
    return LimnerError(f"{folder} cannot be opened.", why=why, fix="Export it again: limner export MODEL")


def _sha256(path: Path) -> str:
    """Of a file's bytes; empty where there is none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""
