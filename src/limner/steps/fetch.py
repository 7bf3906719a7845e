"""Fetch a dataset that DVC has stored: packed already, or the pictures it is to be packed of."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from pydantic import ValidationError

from limner.errors import LimnerError
from limner.lineage import read_lineage, write_lineage
from limner.packing import Manifest, PackedDataset
from limner.settings import DatasetSettings
from limner.steps.output import replaced
from limner.steps.prepare import Prepared, portable, prepare, refuse_output


class Contents(Protocol):
    """Files and folders by the md5 that DVC calls them."""

    def fetch(self, md5: str, path: Path) -> None:
        """Put all files of a folder below `path`, which may be there and empty; or one file at `path`.

        Raises LimnerError where they cannot be had as they were stored.
        """


def fetch(settings: DatasetSettings, *, name: str, md5: str, place: str, contents: Contents, output: Path) -> Prepared:
    """Bring the dataset `name` into the folder `output`, replacing a packed dataset that is already there.

    Without a `place`, `md5` is that of the packed dataset. Else it is that of the pictures which the repository has at
    `place`, a path that the dataset's source names or that lies above it; they are prepared here, as they would be
    there. Raises LimnerError where they cannot be had, are damaged, or are not what the settings describe, and leaves
    `output` as it was.
    """
    refuse_output(output, settings)
    if place:
        return _prepared(settings, name=name, md5=md5, place=place, contents=contents, output=output)
    if not md5.endswith(".dir"):
        raise _no_dataset(md5, "It is a single file, as its md5 does not end in .dir.")
    with replaced(output) as folder:
        contents.fetch(md5, folder)
        packed = _open(folder, md5)
        _refuse_other_settings(packed.manifest, settings, name=name, md5=md5)
    domains = packed.manifest.domains
    counts = {f"{d}/{split}": r.count for d, domain in domains.items() for split, r in domain.splits.items()}
    return Prepared(output, packed.digest, counts, sum(sum(domain.rejected.values()) for domain in domains.values()))


# -- packed already ---------------------------------------------------------------------------------------------------


def _open(folder: Path, md5: str) -> PackedDataset:
    try:
        return PackedDataset(folder, verify=True)
    except LimnerError as error:
        why = " ".join(part.replace(f"{folder}/", "") for part in (error.problem, error.why) if part)
        raise _no_dataset(md5, why) from error


def _no_dataset(md5: str, why: str) -> LimnerError:
    return LimnerError(
        f"What DVC calls {md5} is no packed dataset that can be used.",
        why=why,
        fix="Take the md5 of data/prepared/DATASET from dvc.lock. If it is that of pictures, say too where the "
        "repository has them, such as data/raw/monet.",
    )


def _refuse_other_settings(manifest: Manifest, settings: DatasetSettings, *, name: str, md5: str) -> None:
    asked = _flat(portable(settings.model_dump(mode="json")))
    try:  # as settings, because one that has come since has its default
        packed = _flat(DatasetSettings.model_validate(manifest.settings).model_dump(mode="json"))
    except ValidationError:
        packed = _flat(manifest.settings)
    different = [
        f"{key} is {packed.get(key)!r} there and {asked.get(key)!r} here"
        for key in sorted(packed.keys() | asked.keys())
        if packed.get(key) != asked.get(key)
    ]
    if different:
        raise LimnerError(
            f"What DVC calls {md5} was prepared with other settings than those of datasets.{name}.",
            why="; ".join(different) + ".",
            fix="Name the md5 that dvc.lock has for these settings, or take the settings that belong to this md5.",
        )


def _flat(document: Any, key: str = "") -> dict[str, Any]:
    """The values of nested maps by their dotted key."""
    if not isinstance(document, dict):
        return {key: document}
    return {k: v for name, value in document.items() for k, v in _flat(value, f"{key}.{name}".lstrip(".")).items()}


# -- pictures ---------------------------------------------------------------------------------------------------------


def _prepared(
    settings: DatasetSettings, *, name: str, md5: str, place: str, contents: Contents, output: Path
) -> Prepared:
    root = posixpath.normpath(place)
    if posixpath.isabs(root) or root == ".." or root.startswith("../") or root == ".":
        raise LimnerError(
            f"{place!r} is no place in a repository.",
            fix="Name a folder or a file below its root, such as data/raw/monet.",
        )
    target = output.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    # On the disk of the output: the default one of a pod is small.
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.source-", dir=target.parent) as scratch:
        # The last name stays, because the manifest has it.
        here = Path(scratch) / PurePosixPath(root).name
        moved = _moved(settings, root, here)
        contents.fetch(md5, here)
        result = prepare(moved, name=name, output=output)
    write_lineage(output, {**read_lineage(output), "dataset_md5": md5, "dataset_place": root})
    return result


def _moved(settings: DatasetSettings, root: str, here: Path) -> DatasetSettings:
    """The settings with `here` for the place `root` in the paths of the source."""
    moved: list[str] = []

    def move(path: str) -> str:
        normal = posixpath.normpath(path)
        if normal != root and not normal.startswith(f"{root}/"):
            return path
        moved.append(path)
        return str(here / PurePosixPath(normal).relative_to(root))

    document = _with_paths(settings.model_dump(), move)
    if not moved:
        raise LimnerError(
            f"The dataset's source reads nothing of {root}.",
            why="So the pictures that were to be fetched would not be used.",
            fix="Name the place that the source names, or a folder above it, as DVC knows it.",
        )
    return DatasetSettings.model_validate(document)


def _with_paths(document: Any, move: Callable[[str], str]) -> Any:
    if isinstance(document, list):
        return [_with_paths(item, move) for item in document]
    if not isinstance(document, dict):
        return document
    return {
        key: _path_or_paths(value, move) if key == "path" else _with_paths(value, move)
        for key, value in document.items()
    }


def _path_or_paths(value: str | list[str], move: Callable[[str], str]) -> str | list[str]:
    return move(value) if isinstance(value, str) else [move(each) for each in value]
