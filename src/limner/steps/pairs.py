"""Two sets of pictures -> pairs: each picture with the one of the same name, both in the same place of one split."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError
from limner.packing import DomainRecord, SplitName
from limner.sources import PictureSource, Reason, SetAside, displayable
from limner.sources.stream import decoded
from limner.steps.domain_packer import LEFT_OUT, DomainPacker, Final, image_record
from limner.steps.splitting import Splitter

Pair = tuple[Final, Final]


def pack_pairs(
    source: PictureSource, target: PictureSource, packers: tuple[DomainPacker, DomainPacker]
) -> tuple[DomainRecord, DomainRecord]:
    """Write all pairs in the source's order. What has no usable partner is set aside, as is a pair that comes twice.

    The split follows from the source's pixels, or from the publisher's choice where there is one for either side. The
    two sets need not come in the same order, so decoded pictures wait on the disk of the output: it takes the room of
    two packed datasets for a while. Raises LimnerError where no name is on both sides, or no pair can be used.
    """
    with _Side(packers[0]) as left, _Side(packers[1]) as right:
        left.read(source)
        right.read(target)
        _refuse_strangers(left, right)
        pairing = _Pairing(left, right, as_published=source.has_held_out or target.has_held_out)
        for one in left.usable():
            partner = left.partner(one, right)
            if isinstance(partner, SetAside):
                left.packer.set_aside(partner)
            else:
                pairing.take(one, partner)
        for two in right.usable():
            partner = right.partner(two, left)
            if isinstance(partner, SetAside):
                right.packer.set_aside(partner)
        pairing.splitter.finish()
    return packers[0].finish(source.classes), packers[1].finish(target.classes)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A picture of one side. Its pixels are on the disk, as number `place`, unless it was refused."""

    name: str
    key: str
    label: int | None
    held_out: bool
    place: int = -1
    notes: tuple[str, ...] = ()
    refused: Reason | None = None


class _Side:
    """The pictures of one domain, decoded, on the disk, by key. To be used with `with`."""

    def __init__(self, packer: DomainPacker) -> None:
        self.packer = packer
        self.by_key: dict[str, list[_Waiting]] = {}
        image = image_record(packer.settings.image)
        self._shape, self._nbytes = (image.height, image.width, image.channels), image.nbytes

    def __enter__(self) -> _Side:
        self._file = tempfile.TemporaryFile(dir=self.packer.folder)
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def read(self, source: PictureSource) -> None:
        """Decode all pictures; set aside what cannot be used."""
        place = 0
        with closing(decoded(source.pictures, self.packer.settings.image)) as entries:
            for entry in entries:
                self.packer.note(entry)
                picture, result = entry.picture, entry.result
                if isinstance(result, SetAside):
                    self.packer.set_aside(result)
                if picture is None:
                    continue
                key = picture.key or picture.name
                waiting = _Waiting(picture.name, key, picture.label, picture.held_out)
                if isinstance(result, SetAside):
                    waiting = replace(waiting, refused=result.reason)
                else:
                    self._file.write(result.pixels.tobytes())
                    waiting = replace(waiting, place=place, notes=result.notes)
                    place += 1
                self.by_key.setdefault(key, []).append(waiting)

    def usable(self) -> Iterator[_Waiting]:
        """Those that were not refused, in their order."""
        return (each for group in self.by_key.values() for each in group if not each.refused)

    def partner(self, one: _Waiting, other: _Side) -> _Waiting | SetAside:
        """The picture of the other side that belongs to `one`; where there is none, why `one` is set aside."""
        mine, theirs = self.by_key[one.key], other.by_key.get(one.key, [])
        if not theirs:
            detail = f"no picture of the set {other.packer.domain!r} is called {displayable(one.key)}"
            return SetAside(one.name, "no partner", detail)
        if len(mine) > 1 or len(theirs) > 1:
            names = " and ".join(each.name for each in (mine if len(mine) > 1 else theirs)[:2])
            return SetAside(one.name, "ambiguous name", f"{names} have the same name, but for the extension")
        (partner,) = theirs
        if partner.refused:
            return SetAside(one.name, "no partner", f"{partner.name} was set aside: {partner.refused}")
        return partner

    def final(self, one: _Waiting) -> Final:
        """The picture as it will be written."""
        self._file.seek(one.place * self._nbytes)
        pixels: NDArray[np.uint8] = np.frombuffer(self._file.read(self._nbytes), np.uint8).reshape(self._shape)
        return Final.of(pixels, one.label)


@dataclass
class _Pairing:
    left: _Side
    right: _Side
    as_published: bool
    seen: dict[bytes, tuple[str, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.packers = (self.left.packer, self.right.packer)
        self.settings = self.packers[0].settings
        self.splitter = Splitter[Pair](self.settings.validation, self._write)

    def take(self, one: _Waiting, two: _Waiting) -> None:
        """Write a pair, unless it is the same as one before."""
        held_out = one.held_out or two.held_out
        if held_out and not self.settings.validation:
            for packer in self.packers:
                packer.notes[LEFT_OUT] += 1
            return
        pair = (self.left.final(one), self.right.final(two))
        content = hashlib.sha256(pair[0].digest + pair[1].digest).digest()[:16]
        if content in self.seen:
            for packer, each, first in zip(self.packers, (one, two), self.seen[content], strict=True):
                packer.set_aside(SetAside(each.name, "duplicate", f"the same pixels as {first}, and so its partner"))
            return
        self.seen[content] = (one.name, two.name)
        for packer, each in zip(self.packers, (one, two), strict=True):
            packer.notes.update(each.notes)
        label = two.label if one.label is None else one.label
        if self.as_published:
            self.splitter.add_as_published(pair, held_out=held_out, label=label)
        else:
            self.splitter.add_by_hash(pair, digest=pair[0].digest, label=label)

    def _write(self, split: SplitName, pair: Pair) -> None:
        for packer, picture in zip(self.packers, pair, strict=True):
            packer.write(split, picture)


def _refuse_strangers(left: _Side, right: _Side) -> None:
    if left.by_key.keys() & right.by_key.keys():
        return
    examples = [
        f"{side.packer.domain}: {', '.join(displayable(key) for key in list(side.by_key)[:3]) or 'no picture'}"
        for side in (left, right)
    ]
    raise LimnerError(
        "Not one picture of the source has a partner of the same name in the target.",
        why=f"Names are paths without the extension. {'; '.join(examples)}.",
        fix="Give partners the same name, point both paths to the level where the names begin to be the same, "
        "or write kind: unpaired.",
    )
