"""Where an artifact comes from: the provenance record that travels beside it, and the digests that identify files.

A record is flat and all its values are strings, so that it can serve as MLflow tags and as artifact metadata. Its keys:

    step, model, dataset                      what was done, and to which entry of params.yaml
    dataset_digest, dataset_md5               the packed dataset: its own digest, and DVC's name for its folder
    dataset_place                             where that name is of pictures: their folder in the repository
    dataset_licence                           what the data's licence field says
    init, init_digest                         what it was fine-tuned from: an address, and its weights' SHA-256
    params_digest                             SHA-256 of what params.yaml says of the data, the method and the training
    seed, device, weights, export_digest      what else decided the result, and what the result is
    run_id                                    where it is tracked
    git_commit, git_dirty, image_digest       the code
    kubeflow_run                              the pipeline run that trained it, where one did
    {limner,python,torch,torchvision,numpy}_version, platform
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from limner import __version__
from limner.errors import LimnerError

FILE_NAME = "lineage.json"
BUILD_INFO = Path("/app/BUILD_INFO.json")
"""Written when an image is built, where there is no repository to ask: {"git_commit", "git_dirty", "image_digest"}."""

# What the pipeline itself writes into the repository while it runs: it says nothing about the code or the settings.
_PIPELINE_WRITES = ("dvc.lock", "reports", "promotions")


def write_lineage(folder: Path, record: Mapping[str, Any], *, build_info: Path = BUILD_INFO) -> None:
    """Write lineage.json into an existing folder, atomically: the caller's record, completed with code and environment.

    What the caller says goes before what is found out here. Values become strings, keys are sorted.
    """
    found = {"limner_version": __version__, **code_version(build_info), **_environment()}
    complete = {key: "" if value is None else str(value) for key, value in {**found, **record}.items()}
    temporary = folder / f".{FILE_NAME}.{os.getpid()}"
    temporary.write_text(json.dumps(complete, sort_keys=True, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / FILE_NAME)


def read_lineage(folder: Path) -> dict[str, str]:
    """The record in a folder. Raises LimnerError where there is none or it is not one."""
    path = folder / FILE_NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LimnerError(
            f"{folder} has no {FILE_NAME}.",
            why="So nobody can say where it comes from.",
            fix="Make it again with the step that makes it; every step of Limner writes one.",
        ) from None
    except (OSError, ValueError) as error:
        raise LimnerError(f"{path} cannot be read.", why=str(error)) from error
    if not isinstance(record, dict):
        raise LimnerError(f"{path} is not a lineage record.", why="It has to be a JSON object.")
    return {str(key): str(value) for key, value in record.items()}


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def directory_md5(folder: Path) -> str:
    """The name that DVC 3 gives to a folder: the md5 of the JSON list of its files' md5 and paths, and `.dir`.

    As there, linked folders do not count; unlike there, a `.dvcignore` does not either.
    Raises LimnerError where there is no such folder.
    """
    if not folder.is_dir():
        raise LimnerError(f"There is no folder {folder}.")
    files = {
        (Path(root) / name).relative_to(folder).as_posix(): Path(root) / name
        for root, _, names in os.walk(folder)
        for name in names
    }
    entries = [{"md5": _md5(path), "relpath": relative} for relative, path in sorted(files.items())]
    listing = json.dumps(entries, sort_keys=True).encode()
    return hashlib.md5(listing, usedforsecurity=False).hexdigest() + ".dir"


def code_version(build_info: Path = BUILD_INFO) -> dict[str, str]:
    """Commit, dirty flag and image: from the image's own note where there is one, else from git."""
    try:
        note = json.loads(build_info.read_text(encoding="utf-8"))
        return {key: str(note.get(key, "")) for key in ("git_commit", "git_dirty", "image_digest")}
    except (OSError, ValueError, AttributeError):
        pass
    commit = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ":/", *(f":(top,exclude){path}" for path in _PIPELINE_WRITES))
    return {"git_commit": commit, "git_dirty": str(bool(changes)).lower() if commit else "", "image_digest": ""}


def code_name(version: str, build_info: Path = BUILD_INFO) -> str:
    """What tells this code from other code where trainings are told apart: the version, in an image with its commit."""
    try:
        commit = str(json.loads(build_info.read_text(encoding="utf-8")).get("git_commit", ""))
    except (OSError, ValueError, AttributeError):
        commit = ""
    return f"{version}+{commit}" if commit else version


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _git(*words: str) -> str:
    """What git says of the current folder; empty where git or the repository is absent."""
    try:
        # Without optional locks: `git status` must not hold the index against a `git commit` beside a training run.
        answer = subprocess.run(  # noqa: S603
            ["git", "--no-optional-locks", *words],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


def _environment() -> dict[str, str]:
    packages = {f"{name}_version": _version(name) for name in ("torch", "torchvision", "numpy")}
    return {**packages, "python_version": platform.python_version(), "platform": platform.platform()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
