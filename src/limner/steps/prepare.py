"""Prepare a dataset: any source of pictures -> a packed dataset of equal pictures, split and checked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import permutations, product
from pathlib import Path
from typing import Any

from limner.errors import LimnerError
from limner.lineage import write_lineage
from limner.packing import MANIFEST, REJECTED, SCHEMA_VERSION, DomainRecord, Manifest
from limner.settings import DatasetSettings, Paired, Source, Unpaired
from limner.sources import Picture, PictureSource, SetAside
from limner.sources.decode import Decoded, largest_file, quiet_pillow
from limner.sources.domains import open_domains, places, task_of
from limner.sources.stream import Entry, decoded
from limner.steps.domain_packer import LEFT_OUT, DomainPacker, Final, image_record
from limner.steps.output import replaced
from limner.steps.pairs import pack_pairs
from limner.steps.splitting import Splitter


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
    _refuse_different_classes(sources)
    _refuse_same_places(settings.source)
    refuse_output(output, settings)
    with replaced(output) as folder:
        domains = _pack(settings, sources, folder=folder)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            task=task_of(settings.source),
            image=image_record(settings.image),
            domains=domains,
            settings=portable(settings.model_dump(mode="json")),
            licence=settings.licence,
        )
        digest = manifest.write(folder)
        fingerprint = ",".join(record.fingerprint for record in domains.values())
        record = {"step": "prepare", "dataset": name, "dataset_digest": digest, "source_fingerprint": fingerprint}
        write_lineage(folder, record)
    counts = {f"{d}/{split}": r.count for d, domain in domains.items() for split, r in domain.splits.items()}
    return Prepared(output, digest, counts, sum(sum(domain.rejected.values()) for domain in domains.values()))


def _pack(settings: DatasetSettings, sources: dict[str, PictureSource], *, folder: Path) -> dict[str, DomainRecord]:
    with ExitStack() as stack:
        rejected = stack.enter_context((folder / REJECTED).open("w", encoding="utf-8"))
        stack.enter_context(quiet_pillow())
        packers = {
            domain: stack.enter_context(DomainPacker(settings, folder=folder, domain=domain, rejected=rejected))
            for domain in sources
        }
        if task_of(settings.source) == "paired":
            source, target = packers["source"], packers["target"]
            records = pack_pairs(sources["source"], sources["target"], (source, target))
            return dict(zip(("source", "target"), records, strict=True))
        return {domain: _SetPacker(packers[domain]).pack(source) for domain, source in sources.items()}


def _refuse_different_classes(sources: dict[str, PictureSource]) -> None:
    """A method that uses the labels of both sides takes label 3 of the one for label 3 of the other."""
    lists = {domain: source.classes for domain, source in sources.items() if source.classes}
    if len(set(lists.values())) < 2:
        return
    only = [sorted(set(one) - set(other)) for one, other in permutations(lists.values())]
    examples = " ".join(
        f"Only the {domain} has {', '.join(map(repr, names[:3]))}."
        for domain, names in zip(lists, only, strict=True)
        if names
    )
    raise LimnerError(
        "The source and the target have different classes.",
        why=examples,
        fix="Write kind: folder for one of them, which leaves its labels out; or sort both into the same classes.",
    )


def _refuse_same_places(source: Source) -> None:
    if not isinstance(source, Unpaired | Paired):
        return
    here, there = ([_real(place) for place in places(side)] for side in (source.source, source.target))
    for one, other in product(here, there):
        # What lies inside a folder is read with it, but for archives.
        if one == other or (one in other.parents and other.is_dir()) or (other in one.parents and one.is_dir()):
            raise LimnerError(
                f"{one} is the source and {other} the target: they have pictures in common.",
                why="There is nothing to learn from a picture about itself.",
                fix="Give the source and the target folders of their own.",
            )


def refuse_output(output: Path, settings: DatasetSettings) -> None:
    """Raise LimnerError for a place that holds something else, or that a source of the dataset lies in."""
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


def portable(document: Any) -> Any:
    """Settings without the places of this machine: of each path only the last name remains."""
    if isinstance(document, list):
        return [portable(item) for item in document]
    if not isinstance(document, dict):
        return document
    return {key: _last_name(value) if key == "path" else portable(value) for key, value in document.items()}


def _last_name(path: str | list[str]) -> str | list[str]:
    return Path(path).resolve().name if isinstance(path, str) else [Path(each).resolve().name for each in path]


@dataclass(frozen=True)
class _SetPacker:
    """Packs one set of pictures, whatever other sets there are."""

    packer: DomainPacker
    seen: dict[bytes, tuple[str, int | None]] = field(default_factory=dict)

    def pack(self, source: PictureSource) -> DomainRecord:
        """Write all pictures of the source and describe them. Raises LimnerError where there is nothing to train on.

        Where the publisher holds pictures out, these are the validation split, and `validation` says whether to have
        one.
        """
        splitter = Splitter[Final](self.packer.settings.validation, self.packer.write)
        with closing(decoded(self._wanted(source), self.packer.settings.image)) as stream:
            for entry in stream:
                self.packer.note(entry)
                if isinstance(entry.result, SetAside):
                    self.packer.set_aside(entry.result)
                elif final := self._new(entry, entry.result):
                    assert entry.picture is not None
                    if source.has_held_out:
                        splitter.add_as_published(final, held_out=entry.picture.held_out, label=final.label)
                    else:
                        splitter.add_by_hash(final, digest=final.digest, label=final.label)
        splitter.finish()
        return self.packer.finish(source.classes)

    def _wanted(self, source: PictureSource) -> Iterator[Picture | SetAside]:
        for item in source.pictures:
            if isinstance(item, Picture) and item.held_out and not self.packer.settings.validation:
                self.packer.notes[LEFT_OUT] += 1
            else:
                yield item

    def _new(self, entry: Entry, picture: Decoded) -> Final | None:
        assert entry.picture is not None
        name, label = entry.picture.name, entry.picture.label
        final = Final.of(picture.pixels, label)
        first = self.seen.get(final.digest[:16])
        if first is not None:
            class_too = "" if first[1] == label else ", which is of another class"
            self.packer.set_aside(SetAside(name, "duplicate", f"the same pixels as {first[0]}{class_too}"))
            return None
        self.seen[final.digest[:16]] = (name, label)
        self.packer.notes.update(picture.notes)
        return final
