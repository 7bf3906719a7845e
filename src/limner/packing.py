"""The packed dataset: a folder of shards of raw pixels and a manifest that says everything about them.

    manifest.json               what is in it (`Manifest`); its SHA-256 is the dataset's digest
    <domain>/<split>-00000.raw  uint8 [count, height, width, channels], nothing before, between or behind the pictures
    <domain>/<split>-labels.npy int64 [count], where the domain has classes
    rejected.jsonl              what was set aside: {"domain", "name", "reason", "detail", "count"} a line

The bytes depend on the pictures and the settings alone: no times, no paths of the machine.
"""

from __future__ import annotations

import functools
import hashlib
import json
from array import array
from pathlib import Path
from typing import IO, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from limner.errors import LimnerError, suggest
from limner.tasks import PictureShape, TaskName

SCHEMA_VERSION = 1
MANIFEST, REJECTED = "manifest.json", "rejected.jsonl"
PREPARE_AGAIN = "Prepare the dataset again: limner prepare DATASET"
OPEN_SHARDS = 256
"""Shards that are mapped at a time, each of which costs a file descriptor."""

SplitName = Literal["train", "validation"]


class Record(BaseModel):
    """A part of the manifest."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class FileRecord(Record):
    """A file by its path below the dataset's folder."""

    file: str
    count: int
    sha256: str


class SplitRecord(Record):
    """One split of one domain."""

    count: int
    shards: tuple[FileRecord, ...]
    labels: FileRecord | None


class DomainRecord(Record):
    """One set of pictures: what is in it, where it came from, what was set aside and why."""

    classes: tuple[str, ...]
    splits: dict[SplitName, SplitRecord]
    fingerprint: str
    rejected: dict[str, int]
    notes: dict[str, int]


class ImageRecord(Record):
    """What one picture looks like."""

    height: int
    width: int
    channels: int
    dtype: Literal["uint8"] = "uint8"

    @property
    def nbytes(self) -> int:
        """Bytes of one picture."""
        return self.height * self.width * self.channels


class Manifest(Record):
    """The content of manifest.json."""

    schema_version: int
    task: TaskName
    image: ImageRecord
    domains: dict[str, DomainRecord]
    settings: dict[str, Any]
    licence: str

    def write(self, folder: Path) -> str:
        """Write manifest.json into the folder; returns the dataset's digest."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, indent=2, ensure_ascii=False) + "\n"
        (folder / MANIFEST).write_bytes(text.encode())
        return hashlib.sha256(text.encode()).hexdigest()


# -- writing ----------------------------------------------------------------------------------------------------------


class SplitWriter:
    """Writes the shards and labels of one split of one domain, one picture at a time. To be used with `with`."""

    def __init__(self, folder: Path, *, domain: str, split: SplitName, image: ImageRecord, shard_bytes: int) -> None:
        self._folder = folder
        self._stem = f"{domain}/{split}"
        self._shape = (image.height, image.width, image.channels)
        self._per_shard = max(1, shard_bytes // image.nbytes)
        self._shards: list[FileRecord] = []
        self._labels = array("q")
        self._file: IO[bytes] | None = None
        self._in_shard = 0
        self.count = 0
        (folder / domain).mkdir(exist_ok=True)

    def add(self, pixels: NDArray[np.uint8], label: int | None) -> None:
        """Append one picture, uint8 [H, W, C]; either all pictures of a domain have labels or none has."""
        assert pixels.shape == self._shape
        assert pixels.dtype == np.uint8
        if self._file is None:
            self._file = (self._folder / f"{self._stem}-{len(self._shards):05d}.raw").open("wb")
            self._hash = hashlib.sha256()
        data = pixels.tobytes()
        self._file.write(data)
        self._hash.update(data)
        if label is not None:
            self._labels.append(label)
        self._in_shard += 1
        self.count += 1
        if self._in_shard == self._per_shard:
            self._end_shard()

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._file.close()

    def finish(self, *, labelled: bool) -> SplitRecord:
        """Finish the files and describe them."""
        self._end_shard()
        labels = None
        if labelled:
            assert len(self._labels) == self.count
            file = f"{self._stem}-labels.npy"
            np.save(self._folder / file, np.array(self._labels, dtype=np.int64), allow_pickle=False)
            labels = FileRecord(file=file, count=self.count, sha256=_sha256(self._folder / file))
        return SplitRecord(count=self.count, shards=tuple(self._shards), labels=labels)

    def _end_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            file = f"{self._stem}-{len(self._shards):05d}.raw"
            self._shards.append(FileRecord(file=file, count=self._in_shard, sha256=self._hash.hexdigest()))
            self._file, self._in_shard = None, 0


# -- reading ----------------------------------------------------------------------------------------------------------


class PackedDataset:
    """A packed dataset, opened for reading. Sizes are always checked, contents with `verify=True`.

    Raises LimnerError where it is missing, of another schema version, or a file of it is missing or damaged.
    """

    def __init__(self, path: Path, *, verify: bool = False) -> None:
        self.path = path
        content = _read_manifest(path)
        self.digest = hashlib.sha256(content).hexdigest()
        self.manifest = _parse_manifest(content, path)
        for domain in self.manifest.domains.values():
            for split in domain.splits.values():
                _check_files(path, split, image=self.manifest.image, verify=verify)

    @property
    def task(self) -> TaskName:
        """The kind of batches that can be made of it."""
        return self.manifest.task

    @property
    def domains(self) -> tuple[str, ...]:
        """("pictures",), or ("source", "target")."""
        return tuple(self.manifest.domains)

    def shape(self, domain: str | None = None) -> PictureShape:
        """What one picture of a domain looks like, and how many classes there are.

        Without a domain, what a method is made for: `pictures`, or the target with the source's classes beside it.
        """
        image = self.manifest.image
        source_classes = len(self.classes("source")) if domain is None and "source" in self.domains else 0
        return PictureShape(image.channels, image.height, image.width, len(self.classes(domain)), source_classes)

    def classes(self, domain: str | None = None) -> tuple[str, ...]:
        """The names of the classes; a label is an index into them. Empty where there are no labels.

        Without a domain those of `pictures`, or of the target.
        """
        if domain is None:
            domain = "target" if "target" in self.domains else "pictures"
        return self._domain(domain).classes

    def split(self, name: SplitName, domain: str = "pictures") -> Split:
        """The pictures of one split of one domain."""
        return Split(self.path, self._domain(domain).splits[name], image=self.manifest.image)

    def _domain(self, name: str) -> DomainRecord:
        if name not in self.manifest.domains:
            raise LimnerError(f"The dataset {self.path} has no domain {name!r}.", fix=suggest(name, self.domains))
        return self.manifest.domains[name]


class Split:
    """Pictures and labels of one split, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path, record: SplitRecord, *, image: ImageRecord) -> None:
        self.count = record.count
        self.labels: NDArray[np.int64] | None = None
        if record.labels is not None:
            self.labels = np.load(path / record.labels.file, allow_pickle=False)
        self.shape = (image.height, image.width, image.channels)
        self._ends = np.cumsum([shard.count for shard in record.shards], dtype=np.int64)
        self._files = [path / shard.file for shard in record.shards]
        self._counts = [shard.count for shard in record.shards]
        self._map = functools.lru_cache(maxsize=OPEN_SHARDS)(self._open)
        self.nbytes = record.count * image.nbytes

    def pixels(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of the pictures at `indices` [N], in that order: uint8 [N, H, W, C]. Raises IndexError outside."""
        wanted = np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self.count):
            raise IndexError(f"indices go from {wanted.min()} to {wanted.max()}, but there are {self.count} pictures")
        result = np.empty((len(wanted), *self.shape), dtype=np.uint8)
        shard_of = np.searchsorted(self._ends, wanted, side="right")
        for shard in np.unique(shard_of):
            here = shard_of == shard
            first = self._ends[shard] - self._counts[shard]
            result[here] = self._map(int(shard))[wanted[here] - first]
        return result

    def _open(self, shard: int) -> NDArray[np.uint8]:
        return np.memmap(self._files[shard], dtype=np.uint8, mode="r", shape=(self._counts[shard], *self.shape))


def _read_manifest(path: Path) -> bytes:
    try:
        return (path / MANIFEST).read_bytes()
    except OSError as error:
        why = f"{path / MANIFEST} cannot be read: {error.strerror}."
        raise LimnerError(f"There is no packed dataset in {path}.", why=why, fix=PREPARE_AGAIN) from error


def _parse_manifest(content: bytes, path: Path) -> Manifest:
    try:
        document = json.loads(content)
        version = document["schema_version"]
        if version != SCHEMA_VERSION:
            raise LimnerError(
                f"{path / MANIFEST} is of schema version {version!r}; this Limner reads {SCHEMA_VERSION}.",
                why="The dataset was prepared with another version of Limner.",
                fix=PREPARE_AGAIN,
            )
        manifest = Manifest.model_validate_json(content)
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise LimnerError(f"{path / MANIFEST} is damaged.", why=str(error), fix=PREPARE_AGAIN) from error
    domains = {"pictures"} if manifest.task == "pictures" else {"source", "target"}
    whole = all(set(domain.splits) == set(get_args(SplitName)) for domain in manifest.domains.values())
    if set(manifest.domains) != domains or not whole:
        raise LimnerError(f"{path / MANIFEST} is damaged.", why="A domain or a split is missing.", fix=PREPARE_AGAIN)
    counts = {tuple(split.count for _, split in sorted(domain.splits.items())) for domain in manifest.domains.values()}
    if manifest.task == "paired" and len(counts) > 1:
        raise LimnerError(f"{path / MANIFEST} is damaged.", why="A picture has no partner.", fix=PREPARE_AGAIN)
    return manifest


def _check_files(path: Path, split: SplitRecord, *, image: ImageRecord, verify: bool) -> None:
    counts = sum(shard.count for shard in split.shards)
    labels = split.labels
    if counts != split.count or (labels is not None and labels.count != split.count):
        raise LimnerError(f"{path / MANIFEST} is damaged.", why="Its counts contradict each other.", fix=PREPARE_AGAIN)
    for shard in split.shards:
        _check_size(path / shard.file, expected=shard.count * image.nbytes)
    if labels is not None:
        _check_labels(path / labels.file, count=labels.count)
    for record in (*split.shards, *([labels] if labels else [])):
        if verify and _sha256(path / record.file) != record.sha256:
            raise _damaged(path / record.file, "Its content is not what was written: the SHA-256 differs.")


def _check_size(file: Path, *, expected: int) -> None:
    try:
        size = file.stat().st_size
    except OSError as error:
        raise _damaged(file, f"It cannot be read: {error.strerror}.") from error
    if size != expected:
        raise _damaged(file, f"It has {size} bytes instead of {expected}.")


def _check_labels(file: Path, *, count: int) -> None:
    try:
        with file.open("rb") as opened:  # np.load would take an archive, too
            labels = np.lib.format.read_array(opened, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _damaged(file, f"It cannot be read: {error}.") from error
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise _damaged(file, f"It holds {labels.dtype} {labels.shape} instead of int64 ({count},).")


def _damaged(file: Path, why: str) -> LimnerError:
    return LimnerError(f"The packed dataset is damaged: {file}", why=why, fix=PREPARE_AGAIN)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
