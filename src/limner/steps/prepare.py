"""Prepare a dataset: any source of pictures -> a packed dataset of equal pictures, split and checked."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, get_args

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError
from limner.lineage import write_lineage
from limner.packing import (
    MANIFEST,
    REJECTED,
    SCHEMA_VERSION,
    DomainRecord,
    ImageRecord,
    Manifest,
    SplitName,
    SplitWriter,
)
from limner.settings import DatasetSettings, ImageSettings, Unpaired
from limner.sources import Picture, PictureSource, SetAside
from limner.sources.decode import Decoded, largest_file, quiet_pillow
from limner.sources.domains import open_domains, places
from limner.sources.stream import Entry, decoded
from limner.steps.output import replaced

LEFT_OUT = "held out by the publisher: left out, because validation is 0"


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made."""

    output: Path
    digest: str
    counts: dict[str, int]
    """Pictures by "<domain>/<split>"."""
    rejected: int
    """Files and pictures that were set aside: rejected.jsonl says why."""


def prepare(settings: DatasetSettings, *, name: str, output: Path) -> Prepared:
    """Pack the dataset `name` into the folder `output`, replacing a packed dataset that is already there.

    Pictures are decoded in parallel and written one by one, so the memory it takes does not grow with their pixels. A
    picture that cannot be used is set aside with its reason. Raises LimnerError where the source is missing or has
    no usable picture, or a class of it has none, and leaves `output` as it was.
    """
    sources = open_domains(settings.source, largest_file=largest_file(settings.image))
    _refuse_output(output, settings)
    with replaced(output) as folder:
        with (folder / REJECTED).open("w", encoding="utf-8") as rejected, quiet_pillow():
            domains = {
                domain: _Packer(settings, folder=folder, domain=domain, rejected=rejected).pack(source)
                for domain, source in sources.items()
            }
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            task="unpaired" if isinstance(settings.source, Unpaired) else "pictures",
            image=_image_record(settings.image),
            domains=domains,
            settings=_portable(settings.model_dump(mode="json")),
            licence=settings.licence,
        )
        digest = manifest.write(folder)
        fingerprint = ",".join(record.fingerprint for record in domains.values())
        record = {"step": "prepare", "dataset": name, "dataset_digest": digest, "source_fingerprint": fingerprint}
        write_lineage(folder, record)
    counts = {f"{d}/{split}": r.count for d, domain in domains.items() for split, r in domain.splits.items()}
    return Prepared(output, digest, counts, sum(sum(domain.rejected.values()) for domain in domains.values()))


def _refuse_output(output: Path, settings: DatasetSettings) -> None:
    if output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file():
        raise LimnerError(
            f"{output} is not empty and is no packed dataset.",
            why="Preparing would delete what is in it.",
            fix="Name another output, or empty the folder.",
        )
    if output.exists() and not output.is_dir():
        raise LimnerError(f"{output} is a file: a packed dataset is a folder.", fix="Name another output.")
    if output.is_symlink() and not output.exists():
        raise LimnerError(f"{output} is a link that leads nowhere.", fix="Name another output, or delete the link.")
    target = _real(output)
    for place in (_real(path) for path in places(settings.source)):
        if target == place or target in place.parents or place in target.parents:
            raise LimnerError(
                f"The output {output} and the source {place} lie one inside the other.",
                why="Preparing again would read its own result, or delete its source.",
                fix="Keep the pictures in a folder of their own, such as data/raw/<name>.",
            )


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises RuntimeError for a link that points to itself


def _image_record(image: ImageSettings) -> ImageRecord:
    return ImageRecord(height=image.size, width=image.size, channels=image.channels)


def _portable(document: Any) -> Any:
    """Settings without the places of this machine: of each path only the last name remains."""
    if isinstance(document, list):
        return [_portable(item) for item in document]
    if not isinstance(document, dict):
        return document
    return {key: _last_name(value) if key == "path" else _portable(value) for key, value in document.items()}


def _last_name(path: str | list[str]) -> str | list[str]:
    return Path(path).resolve().name if isinstance(path, str) else [Path(each).resolve().name for each in path]


@dataclass(frozen=True)
class _Final:
    """A picture as it will be written."""

    pixels: NDArray[np.uint8]
    label: int | None
    digest: bytes


@dataclass
class _Packer:
    """Writes one domain. The split of a picture follows from its pixels, so that equal pictures are on one side.

    A picture goes to validation where the first 64 bits of its pixels' SHA-256, as a share of all values, are below
    `validation`. Two exceptions keep small sets usable: the first picture of each class always goes to training, and
    where nobody would go to validation the picture with the lowest hash does (of the rest, as long as there is one).
    Where the publisher holds pictures out, these are the validation split, and `validation` says whether to have one.
    """

    settings: DatasetSettings
    folder: Path
    domain: str
    rejected: IO[str]
    seen: dict[bytes, tuple[str, int | None]] = field(default_factory=dict)
    labels: Counter[int | None] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[SetAside] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    spare: tuple[bool, _Final] | None = None
    """While validation is empty: who would go there, and whether it is the first of its class."""

    def pack(self, source: PictureSource) -> DomainRecord:
        """Write all pictures of the source and describe them. Raises LimnerError where there is nothing to train on."""
        fingerprint = hashlib.sha256()
        with ExitStack() as stack:
            self.writers = {split: stack.enter_context(self._writer(split)) for split in get_args(SplitName)}
            stream = stack.enter_context(closing(decoded(self._wanted(source), self.settings.image)))
            for entry in stream:
                fingerprint.update(entry.fingerprint)
                if isinstance(entry.result, SetAside):
                    self._set_aside(entry.result)
                else:
                    self._take(entry, entry.result, by_hash=not source.has_held_out)
            self._use_spare()
            self._refuse_emptiness(source.classes)
            splits = {split: w.finish(labelled=bool(source.classes)) for split, w in self.writers.items()}
        return DomainRecord(
            classes=source.classes,
            splits=splits,
            fingerprint=fingerprint.hexdigest(),
            rejected=dict(self.reasons),
            notes=dict(self.notes),
        )

    def _writer(self, split: SplitName) -> SplitWriter:
        return SplitWriter(
            self.folder,
            domain=self.domain,
            split=split,
            image=_image_record(self.settings.image),
            shard_bytes=self.settings.shard_mib * 2**20,
        )

    def _wanted(self, source: PictureSource) -> Iterator[Picture | SetAside]:
        for item in source.pictures:
            if isinstance(item, Picture) and item.held_out and not self.settings.validation:
                self.notes[LEFT_OUT] += 1
            else:
                yield item

    def _set_aside(self, entry: SetAside) -> None:
        self.reasons[entry.reason] += entry.count
        if len(self.examples) < 3:
            self.examples.append(entry)
        row = {"domain": self.domain, "name": entry.name, "reason": entry.reason, "detail": entry.detail}
        self.rejected.write(json.dumps(row | {"count": entry.count}, ensure_ascii=False) + "\n")

    def _take(self, entry: Entry, picture: Decoded, *, by_hash: bool) -> None:
        assert entry.picture is not None
        name, label = entry.picture.name, entry.picture.label
        final = _Final(picture.pixels, label, hashlib.sha256(picture.pixels.tobytes()).digest())
        first = self.seen.get(final.digest[:16])
        if first is not None:
            class_too = "" if first[1] == label else ", which is of another class"
            self._set_aside(SetAside(name, "duplicate", f"the same pixels as {first[0]}{class_too}"))
            return
        self.seen[final.digest[:16]] = (name, label)
        self.notes.update(picture.notes)
        if by_hash:
            self._split_by_hash(final)
        else:
            self._write("validation" if entry.picture.held_out else "train", final)
        self.labels[label] += 1

    def _split_by_hash(self, final: _Final) -> None:
        first_of_class = not self.labels[final.label]
        share = int.from_bytes(final.digest[:8], "big") / 2**64
        if share < self.settings.validation and not first_of_class:
            self._write("validation", final)
            if self.spare is not None:
                self._write("train", self.spare[1])
                self.spare = None
        elif self.settings.validation and not self.writers["validation"].count:
            candidates = [(first_of_class, final)] + ([] if self.spare is None else [self.spare])
            self.spare, *others = sorted(candidates, key=lambda candidate: (candidate[0], candidate[1].digest))
            for _, other in others:
                self._write("train", other)
        else:
            self._write("train", final)

    def _use_spare(self) -> None:
        if self.spare is not None:
            self._write("validation" if self.writers["train"].count else "train", self.spare[1])

    def _write(self, split: SplitName, final: _Final) -> None:
        self.writers[split].add(final.pixels, final.label)

    def _refuse_emptiness(self, classes: tuple[str, ...]) -> None:
        why = "Set aside: " + ", ".join(f"{count} {reason}" for reason, count in sorted(self.reasons.items())) + "."
        if not self.labels.total():
            raise LimnerError(f"Not one picture of the set {self.domain!r} can be used.", why=why, fix=self._examples())
        empty = [name for label, name in enumerate(classes) if not self.labels[label]]
        if empty:
            raise LimnerError(
                f"No picture of the class {', '.join(map(repr, empty[:5]))} can be used"
                + (f", nor of {len(empty) - 5} more classes." if len(empty) > 5 else "."),
                why=why,
                fix=f"{self._examples()} Mend them, or take the class away.",
            )

    def _examples(self) -> str:
        return "For instance: " + "; ".join(f"{e.name} ({e.reason}: {e.detail})" for e in self.examples) + "."
