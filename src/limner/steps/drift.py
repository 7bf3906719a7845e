"""Check new pictures against those that an exported model was trained on: what is behind `limner drift`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limner.drift import FILE_NAME, DriftReference, Judgement, Outliers, Verdict, judge, read_reference
from limner.errors import LimnerError, suggest
from limner.exported import open_config
from limner.features import Extractor, extract, fit_for
from limner.features.inception_2015 import ResizeName
from limner.features.pretrained import fetch_weights, open_pretrained
from limner.packing import MANIFEST, PackedDataset, SplitName
from limner.picture_places import WILD, find_pictures
from limner.ports import Ports
from limner.reference import BATCH, selection
from limner.settings import ImageSettings
from limner.sources import Picture, SetAside
from limner.sources.archive import scan_archive
from limner.sources.decode import largest_file, quiet_pillow
from limner.sources.stream import decoded
from limner.sources.tree import SUFFIXES, is_folder, scan_folder, shown

MOST_SAMPLES = 5000
"""Pictures that the test takes 0.7 GiB for, with 3,000 training pictures: most of it the matrix of similarities."""

Progress = Callable[[int, int], None]
"""Told how many of how many pictures are through."""


@dataclass(frozen=True)
class DriftOptions:
    """What the user asks for."""

    alpha: float = 0.05
    """How often pictures of the same kind may be found to differ."""
    samples: int = 1000
    """New pictures that are looked at, drawn at random."""
    top: int = 5
    """The furthest pictures that are named."""
    split: SplitName = "train"
    """Of a packed dataset."""
    domain: str = ""
    """Of a packed dataset; empty: what the model eats, or its only one."""
    weights: str = ""
    """Path or address of the extractor's weights, where it has any that no package ships."""

    def __post_init__(self) -> None:
        # Half of it is the level of each test, and the smallest p-value of 999 permutations is 0.001.
        if not 0.002 <= self.alpha <= 0.5:
            raise LimnerError(f"--alpha {self.alpha:g} is out of range.", fix="Take 0.002 to 0.5.")
        for value, low, word in ((self.samples, 1, "--samples"), (self.top, 0, "--top")):
            if not low <= value <= MOST_SAMPLES:
                raise LimnerError(f"{word} {value} is out of range.", fix=f"Take {low} to {MOST_SAMPLES}.")


@dataclass(frozen=True)
class Outlier:
    """A new picture that lies outside of the training pictures."""

    picture: str
    factor: float
    """How much further from its nearest training pictures than these from theirs; 1: usual of held-out ones."""


@dataclass(frozen=True)
class Drift:
    """What is to be said of new pictures. Nothing in it hangs on when or where it was found out."""

    verdict: Verdict
    reasons: tuple[str, ...]
    model: str
    pictures: str
    count: int
    """Pictures that were judged ..."""
    of: int
    """... of so many that there are."""
    p_value: float | None
    effect: float | None
    """How often the discrepancy is what held-out pictures show by chance; at most 1 is little."""
    metrics: Mapping[str, float]
    """Distances to the training pictures. `<metric>_se` is a standard error."""
    held_out: Mapping[str, float]
    """The same of held-out pictures, of as many where there are as many."""
    outlier_share: float
    """Of the pictures that lie further outside than 99 of 100 held-out ones do."""
    outlier_p_value: float | None
    furthest: tuple[Outlier, ...]
    """Those that lie furthest outside: so many as were asked for, and all outliers where these are too many."""
    notes: tuple[str, ...]
    set_aside: tuple[Mapping[str, str], ...]
    """Pictures and other files that are not among them: name, reason and count."""
    protocol: Mapping[str, str]


def check_drift(
    folder: Path, place: str, *, options: DriftOptions, ports: Ports, progress: Progress = lambda done, total: None
) -> Drift:
    """Judge the pictures in a place (folder, archive, glob, packed dataset) by an exported model's training pictures.

    They are brought to size and channels as those were. A picture that cannot be used is set aside and listed. Raises
    LimnerError where the model does not know its training pictures or was changed, and where no picture can be used.
    """
    reference = _open_reference(folder)
    extractor = _open_extractor(reference, options, ports)
    items, total = _find(place, reference, options)
    seen = _see(items, min(total, options.samples), reference.image, extractor, progress)
    if not seen.names:
        raise LimnerError(
            f"Not one picture of {place} can be used.",
            why="; ".join(f"{entry['name']}: {entry['reason']}" for entry in seen.set_aside[:5]),
            fix="Give PNG, JPEG, WebP or similar files.",
        )
    if seen.features.shape[1] != reference.train.shape[1]:
        raise LimnerError(
            f"The pictures have {seen.features.shape[1]} features, the training pictures {reference.train.shape[1]}.",
            why="They were brought to another shape than those had.",
        )
    found = judge(seen.features, reference, alpha=options.alpha)
    return Drift(
        verdict=found.verdict,
        reasons=found.reasons,
        model=str(folder),
        pictures=place,
        count=len(seen.names),
        of=total,
        p_value=found.test.p_value if found.test else None,
        effect=found.effect,
        metrics=found.figures,
        held_out=found.held_out,
        outlier_share=found.outliers.share,
        outlier_p_value=found.outliers.p_value,
        furthest=_furthest(seen.names, found.outliers, options),
        notes=tuple(_notes(found, seen, total)),
        set_aside=tuple(seen.set_aside),
        protocol={
            **reference.record,
            "training_pictures": str(len(reference.train)),
            "held_out_pictures": str(len(reference.held_out)),
            "alpha": f"{options.alpha:g}",
        },
    )


def write_drift(path: Path, found: Drift) -> None:
    """Write it as JSON, as a whole or not at all. Raises LimnerError where that is not possible."""
    partial_path = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial_path.write_text(json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            partial_path.replace(path)
        finally:
            partial_path.unlink(missing_ok=True)
    except OSError as error:
        raise LimnerError(f"{path} cannot be written.", why=str(error.strerror or error)) from error


# -- the model's side -------------------------------------------------------------------------------------------------


def _open_reference(folder: Path) -> DriftReference:
    """Of files that are what they were when the model was exported."""
    if FILE_NAME not in open_config(folder)["files"]:
        raise LimnerError(
            f"{folder} does not know the pictures that it was trained on.",
            why=f"It was exported without {FILE_NAME}, as models were before there was `limner drift`.",
            fix="Evaluate and export it again: limner evaluate MODEL; limner export MODEL. Or compare two sets of "
            "pictures: limner fid NEW TRAINING",
        )
    return read_reference(folder / FILE_NAME)


def _open_extractor(reference: DriftReference, options: DriftOptions, ports: Ports) -> Extractor:
    record = reference.record
    name, sha256 = record["features"], record["weights"]
    if name == "pixels":
        if options.weights:
            raise LimnerError("The model is compared by its pixels, which need no weights.", fix="Leave --weights out.")
        extractor: Extractor = open_pretrained(name, weights=None, device=torch.device("cpu"))
    else:
        protocols: dict[str, ResizeName] = {"tf1": "tf1", "clean": "clean"}
        extractor = open_pretrained(
            name,
            weights=fetch_weights(name, options.weights, sha256=sha256, fetch=ports.fetch),
            sha256=sha256,
            protocol=protocols.get(record["protocol"], "pytorch-fid"),
            device=torch.device("cuda" if torch.cuda.is_available() else "cpu"),
            elsewhere=ports.extractor_weights,
        )
    if extractor.identity != sha256:
        raise LimnerError(
            f"The features {name!r} are not those of the model's training pictures.",
            why=f"Theirs are {sha256}, these are {extractor.identity}.",
            fix="Export the model again with this Limner: limner evaluate MODEL; limner export MODEL",
        )
    return extractor


# -- the new pictures -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Seen:
    names: list[str]
    features: Tensor
    set_aside: list[Mapping[str, str]]
    refused: int
    """Pictures among those that were set aside."""


def _find(place: str, reference: DriftReference, options: DriftOptions) -> tuple[Iterator[Picture | SetAside], int]:
    """A selection of the pictures in a place, with what is not one there; and how many pictures there are."""
    path, largest = Path(place), largest_file(reference.image)
    if WILD & set(place) and not os.path.lexists(place):
        search = find_pictures([place], max_megapixels=reference.image.max_megapixels, stores={})
        # What else matches is no picture by its name, and was not asked for by one.
        found = [Picture(one.name, one.fetch) for one in search.pictures]
        return (found[number] for number in selection(len(found), options.samples)), len(found)
    if is_folder(path) and (path / MANIFEST).is_file():
        return _of_packed(path, reference, options)
    if not is_folder(path) and path.suffix.lower() in SUFFIXES:
        raise LimnerError(
            f"{path} is one picture.", why="One says nothing of a change.", fix=f"Name its folder: {path.parent}"
        )
    tree = (scan_folder if is_folder(path) else scan_archive)(path, largest_file=largest)
    if not tree.pictures:
        raise LimnerError(
            f"There is no picture in {path}.",
            why="; ".join(f"{entry.count} x {entry.name} ({entry.reason})" for entry in tree.set_aside)
            or "It is empty.",
            fix="Give a folder, a .zip or a .tar of PNG, JPEG, WebP or similar files, a glob, or a packed dataset.",
        )
    chosen = frozenset(selection(len(tree.pictures), options.samples).tolist())

    def pictures() -> Iterator[Picture | SetAside]:
        yield from tree.set_aside
        for number, (parts, fetch) in enumerate(tree.walk()):
            if number in chosen:
                yield Picture(shown(parts), fetch)

    return pictures(), len(tree.pictures)


def _of_packed(
    path: Path, reference: DriftReference, options: DriftOptions
) -> tuple[Iterator[Picture | SetAside], int]:
    dataset = PackedDataset(path, verify=True)
    eaten = reference.record["domain"]
    domain = options.domain or (eaten if eaten in dataset.domains else dataset.domains[0])
    if domain not in dataset.domains or (len(dataset.domains) > 1 and not options.domain and domain != eaten):
        raise LimnerError(
            f"The dataset {path} has the domains {' and '.join(dataset.domains)}.",
            fix=suggest(domain, dataset.domains) if options.domain else "Name one: --domain",
        )
    split = dataset.split(options.split, domain)
    if not split.count:
        raise LimnerError(f"The split {options.split!r} of {path} is empty.", fix="Take the other one with --split.")

    def fetch(place: np.int64) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = split.pixels(np.array([place]))[0]
        return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels

    items = (
        Picture(f"{options.split} picture {place}", partial(fetch, place))
        for place in selection(split.count, options.samples)
    )
    return items, split.count


def _see(
    items: Iterator[Picture | SetAside], count: int, image: ImageSettings, extractor: Extractor, progress: Progress
) -> _Seen:
    """The pictures as the training pictures were prepared, under the extractor; few of them in memory at a time."""
    names, features, set_aside = list[str](), list[Tensor](), list[Mapping[str, str]]()
    extractor, batch, done = fit_for(extractor, count), list[NDArray[np.uint8]](), 0

    def flush() -> None:
        if batch:
            features.append(extract(extractor, [torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)]))
            batch.clear()

    with quiet_pillow(), closing(decoded(items, image)) as stream:
        for entry in stream:
            if isinstance(entry.result, SetAside):
                one = entry.result
                reason = ": ".join(filter(None, (one.reason, one.detail)))
                set_aside.append({"name": one.name, "reason": reason, "count": str(one.count)})
            else:
                assert entry.picture is not None
                names.append(entry.picture.name)
                batch.append(entry.result.pixels)
                if len(batch) == BATCH:
                    flush()
            if entry.picture is not None:
                done += 1
                progress(done, count)
        flush()
    return _Seen(names, torch.cat(features) if features else torch.empty(0, 0), set_aside, done - len(names))


def _furthest(names: list[str], found: Outliers, options: DriftOptions) -> tuple[Outlier, ...]:
    top = options.top
    if found.p_value is not None and found.p_value <= options.alpha / 2:
        top = max(top, int((found.factors > found.limit).sum()))
    order = torch.argsort(found.factors, descending=True, stable=True)[:top].tolist()
    return tuple(Outlier(names[place], float(found.factors[place])) for place in order)


def _notes(found: Judgement, seen: _Seen, total: int) -> Iterator[str]:
    drawn = len(seen.names) + seen.refused
    if drawn < total:
        yield f"{drawn} of {total} pictures were looked at, drawn at random with a fixed seed."
    if seen.refused:
        yield f"{seen.refused} pictures could not be used."
    if found.same:
        yield f"{found.same} of them are training pictures, as far as can be seen: they were not new to the model."
    same = len(seen.names) - len(torch.unique(seen.features, dim=0))
    if same:
        yield f"{same} of them are copies of others: the test takes them for pictures of their own, and is too sure."
    if not math.isfinite(found.outliers.limit):
        yield "There are no held-out pictures to tell by what lies outside."
