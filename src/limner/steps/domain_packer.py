"""One domain of a packed dataset while it is made: its pictures, and the account of what was set aside and why."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, get_args

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError
from limner.packing import DomainRecord, ImageRecord, SplitName, SplitWriter
from limner.settings import DatasetSettings, ImageSettings
from limner.sources import SetAside
from limner.sources.stream import Entry

LEFT_OUT = "held out by the publisher: left out, because validation is 0"


@dataclass(frozen=True)
class Final:
    """A picture as it will be written."""

    pixels: NDArray[np.uint8]
    label: int | None
    digest: bytes
    """SHA-256 of the pixels."""

    @classmethod
    def of(cls, pixels: NDArray[np.uint8], label: int | None) -> Final:
        """With its digest."""
        return cls(pixels, label, hashlib.sha256(pixels.tobytes()).digest())


@dataclass
class DomainPacker:
    """Writes one domain. To be used with `with`."""

    settings: DatasetSettings
    folder: Path
    domain: str
    rejected: IO[str]
    labels: Counter[int | None] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: list[SetAside] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> DomainPacker:
        self._fingerprint = hashlib.sha256()
        with ExitStack() as stack:
            self._writers = {split: stack.enter_context(self._writer(split)) for split in get_args(SplitName)}
            self._files = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._files.close()

    def note(self, entry: Entry) -> None:
        """This is part of the source, whatever becomes of it."""
        self._fingerprint.update(entry.fingerprint)

    def set_aside(self, entry: SetAside) -> None:
        """List what is not used."""
        self.reasons[entry.reason] += entry.count
        if len(self.examples) < 3:
            self.examples.append(entry)
        row = {"domain": self.domain, "name": entry.name, "reason": entry.reason, "detail": entry.detail}
        self.rejected.write(json.dumps(row | {"count": entry.count}, ensure_ascii=False) + "\n")

    def write(self, split: SplitName, picture: Final) -> None:
        """Append a picture to a split."""
        self._writers[split].add(picture.pixels, picture.label)
        self.labels[picture.label] += 1

    def finish(self, classes: tuple[str, ...]) -> DomainRecord:
        """Finish the files and describe them. Raises LimnerError where there is nothing, or nothing of a class."""
        self._refuse_emptiness(classes)
        return DomainRecord(
            classes=classes,
            splits={split: writer.finish(labelled=bool(classes)) for split, writer in self._writers.items()},
            fingerprint=self._fingerprint.hexdigest(),
            rejected=dict(self.reasons),
            notes=dict(self.notes),
        )

    def _writer(self, split: SplitName) -> SplitWriter:
        return SplitWriter(
            self.folder,
            domain=self.domain,
            split=split,
            image=image_record(self.settings.image),
            shard_bytes=self.settings.shard_mib * 2**20,
        )

    def _refuse_emptiness(self, classes: tuple[str, ...]) -> None:
        found = [f"{count} {reason}" for reason, count in sorted(self.reasons.items())]
        found += [f"{self.notes[LEFT_OUT]} {LEFT_OUT}"] if self.notes[LEFT_OUT] else []
        why = f"Set aside: {', '.join(found)}." if found else ""
        if not self.labels.total():
            raise LimnerError(f"Not one picture of the set {self.domain!r} can be used.", why=why, fix=self._examples())
        empty = [name for label, name in enumerate(classes) if not self.labels[label]]
        if empty:
            raise LimnerError(
                f"No picture of the class {', '.join(map(repr, empty[:5]))} can be used"
                + (f", nor of {len(empty) - 5} more classes." if len(empty) > 5 else "."),
                why=why,
                fix=f"{self._examples()} Mend them, or take the class away.".strip(),
            )

    def _examples(self) -> str:
        if not self.examples:
            return ""
        return "For instance: " + "; ".join(f"{e.name} ({e.reason}: {e.detail})" for e in self.examples) + "."


def image_record(image: ImageSettings) -> ImageRecord:
    """What every packed picture looks like."""
    return ImageRecord(height=image.size, width=image.size, channels=image.channels)
