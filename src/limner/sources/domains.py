"""The sets of pictures that a dataset consists of: one for `pictures`, two for `unpaired`."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from limner.settings import Cifar10, ClassFolders, Folder, Mnist5k, OneDomain, PrintedDigits, Source, Unpaired
from limner.sources import PictureSource
from limner.sources.cifar10 import open_cifar10
from limner.sources.folder import open_class_folders, open_folder
from limner.sources.mnist5k import open_mnist5k
from limner.sources.printed_digits import open_printed_digits


def open_domains(source: Source, *, largest_file: int) -> dict[str, PictureSource]:
    """The source of each domain by name: `pictures`, or `source` and `target`. Raises LimnerError as they do."""
    return {name: _open(one, largest_file=largest_file) for name, one in _domains(source).items()}


def places(source: Source) -> list[Path]:
    """The folders and archives that a source reads."""
    texts = [getattr(one, "path", []) for one in _domains(source).values()]
    flat = [text for each in texts for text in ([each] if isinstance(each, str) else each)]
    return [Path(text).expanduser() for text in flat]


def _domains(source: Source) -> dict[str, OneDomain]:
    if isinstance(source, Unpaired):
        return {"source": source.source, "target": source.target}
    return {"pictures": source}


def _open(source: OneDomain, *, largest_file: int) -> PictureSource:
    match source:
        case Mnist5k():
            return open_mnist5k()
        case PrintedDigits():
            return open_printed_digits(count=source.count, seed=source.seed)
        case Folder():
            return open_folder(source.path, largest_file=largest_file)
        case ClassFolders():
            return open_class_folders(source.path, largest_file=largest_file)
        case Cifar10():
            return open_cifar10(source.path)
        case _:
            assert_never(source)
