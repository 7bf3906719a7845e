"""Folders and files by their DVC md5, from a DVC remote in a bucket: no git, no DVC, no working copy.

DVC 3 keeps `<remote>/files/md5/ab/cdef...`. The object of a folder, whose md5 ends in `.dir`, is a JSON list of its
files: [{"md5": ..., "relpath": ...}]. The cache of this machine has the same names: `<folder>/md5/ab/cdef...`.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING

from limner.adapters import CACHE
from limner.errors import LimnerError

if TYPE_CHECKING:
    from limner.adapters.object_store import S3Store

WORKERS = 8
"""Files that are fetched at a time; a client of boto3 keeps ten connections."""
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
DIRECTORY = ".dir"
PUSH = "Where the data are: dvc push. Or correct the md5, which is in dvc.lock or a .dvc file; a folder's ends in .dir."


@dataclass(frozen=True)
class DvcCache:
    """Contents of a DVC remote, kept by their md5 in a folder of this machine.

    What is in the folder is not fetched again, whoever has fetched it and however that process ended. Several may use
    it at a time.
    """

    store: S3Store
    folder: Path

    def fetch(self, md5: str, path: Path) -> None:
        """Put what DVC calls `md5` at `path`: all files of a folder, which may be there and empty, or one file.

        A file shares its bytes with the cache where both lie on one disk: replace it, do not change it. Raises
        LimnerError where the remote lacks something or has another content for it, or cannot be reached, or the disk is
        full. What has arrived is kept, and the next call goes on from there.
        """
        _refuse_malformed(md5)
        with self._disk():
            if not md5.endswith(DIRECTORY):
                _put(self._bring(md5, path.name), path)
                return
            files = self._listing(md5)
            names = {file_md5: name for name, file_md5 in files.items()}  # equal files are one
            with ThreadPoolExecutor(WORKERS) as pool:
                here = dict(zip(names, pool.map(self._bring, names.keys(), names.values()), strict=True))
            path.mkdir(parents=True, exist_ok=True)
            for name, file_md5 in files.items():
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                _put(here[file_md5], path / name)

    def missing(self, md5: str) -> list[str]:
        """The files that the remote lacks of what DVC calls `md5`, or that md5 itself. Fetches a folder's listing only.

        Raises LimnerError as `fetch` does.
        """
        _refuse_malformed(md5)
        if not self._is_stored(md5):
            return [md5]
        if not md5.endswith(DIRECTORY):
            return []
        with self._disk(), ThreadPoolExecutor(WORKERS) as pool:
            files = self._listing(md5)
            stored = pool.map(self._is_stored, files.values())
            return [name for name, found in zip(files, stored, strict=True) if not found]

    def _is_stored(self, md5: str) -> bool:
        return _key(md5) in self.store.sizes(_key(md5))

    def _listing(self, md5: str) -> dict[str, str]:
        """md5 of each file of a folder, by its path below it."""
        try:
            return _parse(self._bring(md5, "the list of its files").read_bytes())
        except (ValueError, TypeError, KeyError) as error:
            raise LimnerError(
                f"{self.store} has no sound list of files under {md5}.",
                why=str(error),
                fix="DVC writes no such list: see who else writes there.",
            ) from error

    def _bring(self, md5: str, name: str) -> Path:
        """The cache's file of that md5, fetched unless it is there and whole; `name` is what errors call it."""
        path = self.folder / "md5" / md5[:2] / md5[2:]
        if _is_whole(path, md5):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_whole(path, md5):  # who had the lock has brought it
                partial.unlink(missing_ok=True)
            else:
                self._download(md5, name, file)
                partial.replace(path)
        return path

    def _download(self, md5: str, name: str, file: BufferedRandom) -> None:
        found = ""
        for start in (file.seek(0, os.SEEK_END), 0):  # behind what a killed process has left; if that is spoilt, anew
            pieces = self.store.read(_key(md5), start=start)
            if pieces is None:
                raise LimnerError(
                    f"The DVC remote {self.store} does not have {name} ({md5}).",
                    why=f"There is no object {_key(md5)}.",
                    fix=PUSH,
                )
            file.truncate(start)
            file.seek(0)
            digest = hashlib.file_digest(file, _md5)
            for piece in pieces:
                file.write(piece)
                digest.update(piece)
            file.flush()
            found = digest.hexdigest()
            if found == md5.removesuffix(DIRECTORY):
                return
        file.truncate(0)
        raise LimnerError(
            f"{name} in the DVC remote {self.store} is damaged: its md5 is {found}, and it should be {md5}.",
            why=f"The object {_key(md5)} has been changed since DVC put it there.",
            fix="Delete that object, then where the data are: dvc push. DVC does not replace what is there.",
        )

    @contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise LimnerError(
                f"What is fetched from {self.store} cannot be kept on this disk.",
                why=str(error),
                fix=f"Make room, or name another cache than {self.folder} with LIMNER_CACHE; then start the same "
                "command again: it goes on with what has arrived.",
            ) from error


def open_remote(url: str) -> DvcCache:
    """The DVC remote at s3://bucket/prefix, with its cache in LIMNER_CACHE, else runs/cache.

    Nothing is asked of the server yet. Raises LimnerError where the url is none.
    """
    return DvcCache(_open_store(url), Path(os.environ.get("LIMNER_CACHE") or CACHE) / "dvc")


def resolve_md5(text: str) -> str:
    """An md5 as it is; or that in the one line of the object s3://bucket/key, which `publish` writes.

    Raises LimnerError where it is neither, or there is no such object.
    """
    if "://" not in text:
        return _refuse_malformed(text.strip())
    folder, name = _split(text)
    pieces = _open_store(folder).read(name)
    if pieces is None:
        raise LimnerError(
            f"There is no object {text}.",
            why="It should hold the md5 of the data to train on.",
            fix="Publish one, or name the md5 itself.",
        )
    return _refuse_malformed(next(pieces, b"").decode("utf-8", "replace").strip(), origin=f"In {text}: ")


def publish(md5: str, url: str) -> None:
    """Write the md5 into the object s3://bucket/key: scheduled training takes that for its data from now on."""
    folder, name = _split(url)
    _open_store(folder).write(name, f"{_refuse_malformed(md5)}\n".encode())


def _open_store(url: str) -> S3Store:
    try:
        from limner.adapters.object_store import S3Store
    except ModuleNotFoundError as error:
        if error.name != "boto3":
            raise
        raise LimnerError(
            "boto3 is not installed.", why=f"{url} is reached with it.", fix="pip install 'limner[pipeline]'"
        ) from error
    return S3Store(url)


def _split(url: str) -> tuple[str, str]:
    folder, _, name = url.rpartition("/")
    if not name or folder.endswith("/"):
        raise LimnerError(f"{url!r} names no object.", fix="It has to be s3://BUCKET/KEY.")
    return folder, name


def _refuse_malformed(md5: str, *, origin: str = "") -> str:
    if not MD5.fullmatch(md5):
        raise LimnerError(
            f"{origin}{md5[:80]!r} is no md5 of DVC.",
            why="It has 32 digits from 0 to f, and that of a folder ends in .dir.",
            fix="Copy it from dvc.lock or a .dvc file.",
        )
    return md5


def _key(md5: str) -> str:
    return f"files/md5/{md5[:2]}/{md5[2:]}"


def _parse(content: bytes) -> dict[str, str]:
    """Raises ValueError, TypeError or KeyError where a list of files is none, or leads out of its folder."""
    entries = json.loads(content)
    files = {str(entry["relpath"]): str(entry["md5"]) for entry in entries}
    for name, md5 in files.items():
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise ValueError(f"{name!r} is no path below a folder.")
        if any("/".join(parts[:depth]) in files for depth in range(1, len(parts))):
            raise ValueError(f"{name!r} lies below a file.")
        if not MD5.fullmatch(md5) or md5.endswith(DIRECTORY):
            raise ValueError(f"{md5!r} of {name!r} is no md5 of a file.")
    if len(files) != len(entries):
        raise ValueError("A name is in it twice.")
    return files


def _is_whole(path: Path, md5: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, _md5).hexdigest() == md5.removesuffix(DIRECTORY)
    except FileNotFoundError:
        return False


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _put(cached: Path, path: Path) -> None:
    try:
        path.hardlink_to(cached)
    except FileExistsError:
        raise
    except OSError:  # on another disk, or one without such links
        shutil.copyfile(cached, path)
