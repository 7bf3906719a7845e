"""Pictures in folders or archives of folders: all of one kind, or one subfolder a class."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from limner.errors import LimnerError
from limner.sources import Half, Picture, PictureSource, SetAside, displayable
from limner.sources.archive import scan_archive
from limner.sources.tree import Parts, Tree, is_folder, scan_folder, shown


def open_folder(path: str | list[str], *, largest_file: int) -> PictureSource:
    """All pictures of folders and archives, unlabelled. Raises LimnerError where one is missing, or all are empty."""
    return PictureSource(_pictures(_open_roots(path, largest_file), labels=None))


def open_class_folders(path: str | list[str], *, largest_file: int) -> PictureSource:
    """Pictures labelled by the first folder of their path; several roots with the same class names are put together.

    An archive's own top folders are not classes: what all its pictures have in common is stripped. Raises LimnerError
    where a root is missing, or there are no pictures in subfolders.
    """
    roots = _open_roots(path, largest_file)
    names = {name for root in roots for parts in root.tree.pictures if (name := root.class_of(parts)) is not None}
    if not names:
        where = ", ".join(str(root.path) for root in roots)
        raise LimnerError(
            f"{where}: there are pictures, but no subfolder with pictures in it.",
            why="With kind: class-folders each subfolder is a class.",
            fix="Sort the pictures into one subfolder a class, or write kind: folder.",
        )
    classes = tuple(sorted(names))
    return PictureSource(_pictures(roots, labels={name: label for label, name in enumerate(classes)}), classes)


def open_halves(path: str | list[str], *, source_on: Half, largest_file: int) -> tuple[PictureSource, PictureSource]:
    """Source and target of pictures that hold both side by side. Raises LimnerError as `open_folder` does."""
    roots = _open_roots(path, largest_file)
    target_on: Half = "right" if source_on == "left" else "left"
    without = [dataclasses.replace(root, tree=dataclasses.replace(root.tree, set_aside=())) for root in roots]
    # What is no picture is listed once, with the source.
    return PictureSource(_halves(roots, source_on)), PictureSource(_halves(without, target_on))


@dataclass(frozen=True)
class _Root:
    path: Path
    tree: Tree
    shared: int
    """Leading folders of an archive that all its pictures are in: they say nothing about a picture."""
    class_at: int
    """Which part of a path is the class."""
    prefix: str
    """Tells the names of several roots apart."""
    number: str
    """The same for the keys: partners lie in folders of different names."""

    def key(self, parts: Parts) -> str:
        below = PurePosixPath(*parts[self.shared :]).with_suffix("")
        return self.number + unicodedata.normalize("NFC", str(below))  # one system writes é as one letter, one as two

    def class_of(self, parts: Parts) -> str | None:
        return displayable(parts[self.class_at]) if len(parts) > self.class_at + 1 else None


def _pictures(roots: list[_Root], *, labels: Mapping[str, int] | None) -> Iterator[Picture | SetAside]:
    for root in roots:
        for entry in root.tree.set_aside:
            yield dataclasses.replace(entry, name=root.prefix + entry.name)
        for parts, fetch in root.tree.walk():
            name, class_name = root.prefix + shown(parts), root.class_of(parts)
            if labels is None:
                yield Picture(name, fetch, key=root.key(parts))
            elif class_name is None:
                yield SetAside(name, "outside the classes", "it lies beside the class folders, in none of them")
            else:
                yield Picture(name, fetch, labels[class_name], key=root.key(parts))


def _halves(roots: list[_Root], half: Half) -> Iterator[Picture | SetAside]:
    for item in _pictures(roots, labels=None):
        yield dataclasses.replace(item, half=half) if isinstance(item, Picture) else item


def _open_roots(path: str | list[str], largest_file: int) -> list[_Root]:
    paths = [Path(text).expanduser() for text in ([path] if isinstance(path, str) else path)]
    trees = [_scan(each, largest_file) for each in paths]
    if not any(tree.pictures for tree in trees):
        raise _no_pictures(paths, trees)
    roots = []
    for number, (each, tree) in enumerate(zip(paths, trees, strict=True)):
        shared, folders = 0 if each.is_dir() else _shared_folders(tree), max(map(len, tree.pictures), default=1) - 1
        class_at = max(0, min(shared, folders - 1))  # where all pictures are in one folder, it is their class
        names, keys = (f"{each.name}/", f"{number}/") if len(paths) > 1 else ("", "")
        roots.append(_Root(each, tree, shared, class_at, prefix=names, number=keys))
    return roots


def _scan(path: Path, largest_file: int) -> Tree:
    return (scan_folder if is_folder(path) else scan_archive)(path, largest_file=largest_file)


def _no_pictures(paths: list[Path], trees: list[Tree]) -> LimnerError:
    found = Counter[str]()
    for tree in trees:
        for entry in tree.set_aside:
            found[f"{entry.reason} ({entry.name})"] += entry.count
    what = "; ".join(f"{count} {kind}" for kind, count in sorted(found.items())[:10])
    return LimnerError(
        f"There is no picture in {', '.join(map(str, paths)) or 'an empty list of paths'}.",
        why=f"What there is: {what}." if what else "There is nothing at all.",
        fix="Point `path` to a folder or an archive with PNG, JPEG or other pictures.",
    )


def _shared_folders(tree: Tree) -> int:
    folders = {parts[:-1] for parts in tree.pictures}
    first, last = min(folders, default=()), max(folders, default=())
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
