"""A run's folder and its copy in an object store: what a machine that is lost with its disk leaves to the next one."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

from limner.checkpoint import MANIFEST, PARTIAL, position, whole_checkpoints
from limner.errors import LimnerError
from limner.ports import ObjectStore

PATIENCE = 3
"""So many pushes in a row may fail before the run is ended: one that nobody could take up again is no use."""
UNFINISHED = (PARTIAL, ".rewound", ".tmp")

_log = logging.getLogger(__name__)

Stamp = tuple[int, int]
"""Bytes and time of the last change, in ns, of a file."""


class Mirror:
    """Keeps an object store's prefix equal to a run's folder. Its methods are called one at a time.

    A checkpoint in the store is whole where its manifest is there: that is the last to come and the first to go.
    """

    def __init__(self, folder: Path, store: ObjectStore, *, prefix: str) -> None:
        self._folder = folder
        self._store = store
        self._prefix = prefix.strip("/") + "/"
        assert self._prefix != "/", "the whole store would be cleared"
        self._sent: dict[str, Stamp] = {}
        """Files that the store has, as they were when it got them."""
        self._compared = False
        self._failures = 0

    def pull(self) -> bool:
        """Fetch all of the store's copy where it has a newer whole checkpoint than the folder, or the folder has none.

        Returns whether anything was fetched. Raises LimnerError where the store cannot be read or the folder written.
        """
        try:
            return self._pull()
        except OSError as error:
            raise LimnerError(
                f"What the object store has of this run could not be copied to {self._folder}.",
                why=str(error),
                fix="Make room on that disk or let it be written to, then start the same command again.",
            ) from error

    def push(self) -> None:
        """Send what is new or has changed, manifests last; then delete what the folder has no more.

        A push that fails is logged, and the next one makes up for it. Raises LimnerError at the third in a row.
        """
        try:
            self._push()
        except (LimnerError, OSError) as error:
            self._failures += 1
            reason = " ".join(str(error).splitlines())
            if self._failures >= PATIENCE:
                raise LimnerError(
                    f"The checkpoints do not reach the object store: {self._failures} attempts in a row have failed.",
                    why=reason,
                    fix="See to the store, then start the same command again: it goes on from the newest checkpoint.",
                ) from error
            _log.warning("A checkpoint did not reach the object store; the next one tries again. %s", reason)
        else:
            self._failures = 0

    def clear(self) -> None:
        """Delete the store's copy: training has finished. Raises LimnerError where the store does not let it."""
        self._delete(self._sizes())
        self._sent.clear()

    def _pull(self) -> bool:
        sizes = self._sizes()
        manifests = self._whole_in_store(sizes)
        mine = _newest(path.name for folder in self._checkpoint_places() for path, _ in whole_checkpoints(folder))
        theirs = _newest(checkpoint.name for checkpoint in manifests)
        if mine is not None and (theirs is None or theirs <= mine):
            return False
        names = [name for name in sizes if _checkpoint_of(name) is None or _checkpoint_of(name) in manifests]
        for name in sorted(names, key=_manifests_last):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.get(self._prefix + name, path)
            self._sent[name] = _stamp(path)
        return bool(names)

    def _push(self) -> None:
        there = self._sizes()
        if not self._compared:
            self._recognise(there)
            self._compared = True
        files = self._files()
        stale = [name for name, stamp in files.items() if self._sent.get(name) != stamp or there.get(name) != stamp[0]]
        # Where a checkpoint in the store is to become another one, it is not whole meanwhile.
        reopened = {_manifest_of(name) for name in stale if _checkpoint_of(name) is not None} & there.keys()
        self._delete(reopened)
        with tempfile.TemporaryDirectory(prefix="limner-push-") as scratch:
            for name in sorted({*stale, *reopened & files.keys()}, key=_manifests_last):
                self._send(name, files[name], Path(scratch))
        # Looked at once more: a folder that is being replaced is away for a moment.
        gone = [name for name in there if name not in files and not (self._folder / name).exists()]
        self._delete(gone)

    def _send(self, name: str, stamp: Stamp, scratch: Path) -> None:
        path = self._folder / name
        if _checkpoint_of(name) is None:
            # It may change or be replaced while it is being sent, in parts and by name: send a copy of it.
            try:
                path = Path(shutil.copyfile(path, scratch / "file"))
            except FileNotFoundError:
                return
        self._store.put(self._prefix + name, path)
        self._sent[name] = stamp

    def _recognise(self, sizes: Mapping[str, int]) -> None:
        """What an earlier process sent of the checkpoints here need not be sent again: manifests name all content."""
        files = self._files()
        for checkpoint, manifest in self._whole_in_store(sizes).items():
            mine = self._folder / checkpoint / MANIFEST
            if mine.exists() and mine.read_bytes() == manifest:
                self._sent |= {name: stamp for name, stamp in files.items() if _checkpoint_of(name) == checkpoint}

    def _whole_in_store(self, sizes: Mapping[str, int]) -> dict[PurePosixPath, bytes]:
        """The manifest of each checkpoint in the store that has one and all the files it names."""
        found = {}
        with tempfile.TemporaryDirectory(prefix="limner-pull-") as scratch:
            for name in sizes:
                checkpoint = _checkpoint_of(name)
                if checkpoint is None or name != _manifest_of(name):
                    continue
                path = Path(scratch) / MANIFEST
                self._store.get(self._prefix + name, path)
                content = path.read_bytes()
                try:
                    named = list(json.loads(content)["files"])
                except (ValueError, KeyError, TypeError):
                    continue
                if all(str(checkpoint / file) in sizes for file in named):
                    found[checkpoint] = content
        return found

    def _files(self) -> dict[str, Stamp]:
        """All finished files of the folder, by name relative to it."""
        found = {}
        for root, folders, names in os.walk(self._folder):
            folders[:] = [name for name in folders if _is_finished(name)]
            for name in filter(_is_finished, names):
                path = Path(root) / name
                try:
                    found[path.relative_to(self._folder).as_posix()] = _stamp(path)
                except FileNotFoundError:  # replaced or deleted meanwhile
                    continue
        return found

    def _checkpoint_places(self) -> set[Path]:
        return {path.parent for path in self._folder.rglob("step-*") if position(path.name)}

    def _sizes(self) -> dict[str, int]:
        """Bytes of each file in the store, by name relative to the folder."""
        found = {key.removeprefix(self._prefix): size for key, size in self._store.sizes(self._prefix).items()}
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in found):
            raise LimnerError(
                f"The object store has a file below {self._prefix} that leads out of the folder.",
                why="Limner writes no such names.",
                fix="See who else writes there, and delete it.",
            )
        return found

    def _delete(self, names: Iterable[str]) -> None:
        names = sorted(names, key=_manifests_last, reverse=True)
        if names:
            self._store.delete([self._prefix + name for name in names])
        for name in names:
            self._sent.pop(name, None)


def _checkpoint_of(name: str) -> PurePosixPath | None:
    """The checkpoint that a file belongs to."""
    folder = PurePosixPath(name).parent
    return folder if position(folder.name) else None


def _manifest_of(name: str) -> str:
    return str(PurePosixPath(name).parent / MANIFEST)


def _manifests_last(name: str) -> tuple[bool, tuple[int, int], str]:
    """Orders names: manifests of checkpoints after all else, oldest first."""
    age = position(PurePosixPath(name).parent.name) or (0, 0)
    return _checkpoint_of(name) is not None and name == _manifest_of(name), age, name


def _newest(names: Iterable[str]) -> tuple[int, int] | None:
    return max((found for name in names if (found := position(name))), default=None)


def _is_finished(name: str) -> bool:
    return not name.startswith(".") and not name.endswith(UNFINISHED)


def _stamp(path: Path) -> Stamp:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
