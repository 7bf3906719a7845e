"""The sets of pictures that a dataset consists of: one for `pictures`, two for `unpaired` and `paired`."""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from limner.settings import (
    Cifar10,
    ClassFolders,
    Folder,
    Mnist5k,
    OneDomain,
    Paired,
    PrintedDigits,
    SideBySide,
    Source,
    Unpaired,
)
from limner.sources import PictureSource
from limner.sources.cifar10 import open_cifar10
from limner.sources.folder import open_class_folders, open_folder, open_halves
from limner.sources.mnist5k import open_mnist5k
from limner.sources.printed_digits import open_printed_digits
from limner.tasks import TaskName


def open_domains(source: Source, *, largest_file: int) -> dict[str, PictureSource]:
    """The source of each domain by name: `pictures`, or `source` and `target`. Raises LimnerError as they do."""
    match source:
        case SideBySide():
            halves = open_halves(source.path, source_on=source.source_on, largest_file=largest_file)
            return dict(zip(("source", "target"), halves, strict=True))
        case Unpaired() | Paired():
            return {side: _open(one, largest_file=largest_file) for side, one in _sides(source).items()}
        case _:
            return {"pictures": _open(source, largest_file=largest_file)}


def task_of(source: Source) -> TaskName:
    """What a dataset of this source is."""
    match source:
        case Unpaired():
            return "unpaired"
        case Paired() | SideBySide():
            return "paired"
        case _:
            return "pictures"


def places(source: Source) -> list[Path]:
    """The folders and archives that a source reads."""
    sides = _sides(source).values() if isinstance(source, Unpaired | Paired) else [source]
    texts = [getattr(one, "path", []) for one in sides]
    flat = [text for each in texts for text in ([each] if isinstance(each, str) else each)]
    return [Path(text).expanduser() for text in flat]


def _sides(source: Unpaired | Paired) -> dict[str, OneDomain]:
    return {"source": source.source, "target": source.target}


def _open(source: OneDomain, *, largest_file: int) -> PictureSource:
    match source:
        case Mnist5k():
            return open_mnist5k()
        case PrintedDigits():
            return open_printed_digits(
                count=source.count, seed=source.seed, fonts=source.fonts, held_out_fonts=source.held_out_fonts
            )
        case Folder():
            return open_folder(source.path, largest_file=largest_file)
        case ClassFolders():
            return open_class_folders(source.path, largest_file=largest_file)
        case Cifar10():
            return open_cifar10(source.path)
        case _:
            assert_never(source)
