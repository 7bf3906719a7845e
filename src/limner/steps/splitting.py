"""Which picture, or pair of pictures, goes to training and which is held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from limner.packing import SplitName

ItemT = TypeVar("ItemT")


@dataclass
class Splitter(Generic[ItemT]):
    """Hands each item on to its split, one at a time.

    The split of an item follows from its content, so that equal contents are on one side: it goes to validation where
    the first 64 bits of the content's SHA-256, as a share of all values, are below `validation`. Two exceptions keep
    small sets usable: the first item of each class always goes to training, and where nobody would go to validation
    the item with the lowest hash does (of the rest, as long as there is one).
    """

    validation: float
    write: Callable[[SplitName, ItemT], None]
    counts: Counter[SplitName] = field(default_factory=Counter)
    labels: Counter[int | None] = field(default_factory=Counter)
    spare: tuple[bool, bytes, ItemT] | None = None
    """While validation is empty: who would go there, its hash, and whether it is the first of its class."""

    def add_by_hash(self, item: ItemT, *, digest: bytes, label: int | None) -> None:
        """Decide by the SHA-256 `digest` of the item's content."""
        first_of_class = not self.labels[label]
        self.labels[label] += 1
        share = int.from_bytes(digest[:8], "big") / 2**64
        if share < self.validation and not first_of_class:
            self._write("validation", item)
            if self.spare is not None:
                self._write("train", self.spare[2])
                self.spare = None
        elif self.validation and not self.counts["validation"]:
            candidates = [(first_of_class, digest, item)] + ([] if self.spare is None else [self.spare])
            self.spare, *others = sorted(candidates, key=lambda candidate: candidate[:2])
            for *_, other in others:
                self._write("train", other)
        else:
            self._write("train", item)

    def add_as_published(self, item: ItemT, *, held_out: bool, label: int | None) -> None:
        """Do as the publisher says."""
        self.labels[label] += 1
        self._write("validation" if held_out else "train", item)

    def finish(self) -> None:
        """Nothing more will come."""
        if self.spare is not None:
            self._write("validation" if self.counts["train"] else "train", self.spare[2])

    def _write(self, split: SplitName, item: ItemT) -> None:
        self.counts[split] += 1
        self.write(split, item)
