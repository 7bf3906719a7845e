"""Stylize the pictures of a whole prefix in parts, each by a process of its own, on whatever machine."""

from __future__ import annotations

import json
import tempfile
import zlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from limner.errors import LimnerError
from limner.inference import open_translator
from limner.picture_places import (
    RECORD,
    Search,
    StoreDestination,
    find_pictures,
    format_record,
    name_results,
    parse_record,
    refuse_overwriting_in_store,
)
from limner.ports import ModelRegistry, ObjectStore
from limner.steps.stylize import Observer, Stylized, StylizeOptions, stylize

MOST_PARTS = 1000


@dataclass(frozen=True)
class Part:
    """One part of the work, as it travels: which pictures, by a number that their names give them, and the model."""

    number: int
    of: int
    model: str

    def has(self, relative: str) -> bool:
        """Whether a picture belongs to it. That depends on its name alone, whatever comes or goes beside it."""
        return zlib.crc32(relative.encode()) % self.of == self.number


def plan_parts(
    source: str, *, store: ObjectStore, model: str, parts: int, registry: ModelRegistry, options: StylizeOptions
) -> list[str]:
    """The parts that have pictures, as JSON strings. A champion is named by its version: all parts use the same.

    Raises LimnerError where the prefix has no picture, and where there is no such model.
    """
    if not 1 <= parts <= MOST_PARTS:
        raise LimnerError(f"{parts} parts cannot be made.", fix=f"Take 1 to {MOST_PARTS}.")
    name, alias = model.removeprefix("models:/").partition("@")[::2]
    if alias == "champion":
        champion = registry.champion(name)
        if champion is None:
            raise LimnerError(f"{name} has no champion.", fix="Promote a version of it first.")
        model = f"models:/{name}/{champion.number}"
    search = _search(source, store, options)
    found = (Part(number, parts, model) for number in range(parts))
    return [json.dumps(asdict(part)) for part in found if any(part.has(each.relative) for each in search.pictures)]


def stylize_part(
    text: str,
    *,
    source: str,
    destination: str,
    stores: tuple[ObjectStore, ObjectStore],
    registry: ModelRegistry,
    options: StylizeOptions,
) -> Stylized:
    """Stylize one part of the pictures at `source` into `destination`; `stores` are those of the two.

    What was made of the same pictures before is skipped, whichever part it belonged to then.
    """
    part = Part(**json.loads(text))
    search = _search(source, stores[0], options)
    names = name_results(search, options.file_format)  # of all, so that two parts cannot make one file
    refuse_overwriting_in_store(destination, names, search)
    mine = [(found, name) for found, name in zip(search.pictures, names, strict=True) if part.has(found.relative)]
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        translator, refused = open_translator(registry.fetch(part.model, Path(folder))), list[str]()
        result = stylize(
            [found for found, _ in mine],
            [name for _, name in mine],
            model=translator,
            destination=_OwnRecord(stores[1], f"{part.number}-of-{part.of}"),
            options=options,
            observer=Observer(refused=lambda error: refused.append(" ".join(str(error).split()))),
        )
    return replace(result, notes=(*refused, *result.notes))


def add_up(results: list[Stylized]) -> Stylized:
    """All parts together."""
    total = Stylized()
    for one in results:
        total = replace(
            total,
            done=total.done + one.done,
            skipped=total.skipped + one.skipped,
            refused=total.refused + one.refused,
            notes=(*total.notes, *one.notes),
        )
    return total


def _search(source: str, store: ObjectStore, options: StylizeOptions) -> Search:
    return find_pictures([source], max_megapixels=options.max_megapixels, stores={source: store})


@dataclass(frozen=True)
class _OwnRecord(StoreDestination):
    """A prefix that several processes write to: each has a record of its own, and reads all of them."""

    name: str

    def write(self, name: str, content: bytes) -> None:
        """See Destination."""
        stem, suffix = RECORD.rsplit(".", 1)
        super().write(f"{stem}.{self.name}.{suffix}" if name == RECORD else name, content)

    def read_record(self) -> bytes | None:
        """See Destination."""
        stem, suffix = RECORD.rsplit(".", 1)
        records = [key for key in sorted(self.store.sizes(stem)) if "/" not in key and key.endswith(f".{suffix}")]
        results = {name: result for key in records for name, result in parse_record(self._get(key)).items()}
        return format_record(results) if records else None
