"""The two sides of a comparison: a set of pictures under the extractor, or a statistics file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from limner.distribution import FEWEST_IN_GROUPS
from limner.errors import LimnerError
from limner.features import Extractor, inception_2015
from limner.features.cache import tensors_sha256
from limner.features.inception_2015 import ResizeName
from limner.frechet import Gaussian
from limner.picture_sets import PictureSet, ReadOptions, describe_sizes
from limner.set_features import MOST_KEPT, SetFeatures, features_of_set
from limner.statistics_files import Statistics

MetricName = Literal["fid", "kid", "prdc", "is"]


@dataclass(frozen=True)
class CompareOptions:
    """What the user asks for."""

    read: ReadOptions = field(default_factory=ReadOptions)
    features: str = inception_2015.NAME
    protocol: ResizeName = "pytorch-fid"
    weights: str = ""
    """A path or an address; empty: where other tools leave them."""
    weights_sha256: str = ""
    metrics: tuple[MetricName, ...] = ("fid",)
    biased: bool = False
    """Covariances divided by N, and not by N - 1."""
    errors: bool = True
    """Whether the Frechet distance comes with its standard error and extrapolation, dozens of distances more."""
    neighbours: int = 5
    device: str = ""
    """Empty: a GPU where there is one."""
    cache: bool = True
    save: Path | None = None

    @property
    def correction(self) -> int:
        """What is taken off N."""
        return 0 if self.biased else 1

    @property
    def keeps_features(self) -> bool:
        """Whether moments are not enough."""
        return set(self.metrics) != {"fid"}


@dataclass(frozen=True)
class Side:
    """One of the two sets, for the record."""

    path: str
    kind: str
    pictures: int | None
    """That were used; None where a statistics file does not say."""
    sizes: Mapping[str, int]
    """How many pictures have which size: {"32x32": 5000}."""
    sha256: str
    """Of the contents; empty for a statistics file."""
    damaged: tuple[Mapping[str, str], ...]
    """Pictures that are not part of it: name and reason."""


Progress = Callable[[int, int], None]
"""Told how many of how many pictures are through."""


@dataclass(frozen=True)
class Looked:
    """A side under the extractor."""

    side: Side
    gaussian: Gaussian
    depends_on: Mapping[str, str]
    found: SetFeatures | None
    """None for a statistics file."""
    notes: tuple[str, ...]

    @property
    def count(self) -> int | None:
        """Pictures that were used; None where nothing says."""
        return self.side.pictures


class Shown:
    """The progress of both sides as one."""

    def __init__(self, opened: Sequence[PictureSet | Statistics], progress: Progress) -> None:
        self._total = sum(one.count for one in opened if isinstance(one, PictureSet))
        self._done, self._progress = 0, progress

    def __call__(self, more: int) -> None:
        """So many more pictures are through."""
        self._done += more
        self._progress(self._done, self._total)


def look(
    one: PictureSet | Statistics,
    place: Path,
    extractor: Extractor | None,
    *,
    options: CompareOptions,
    folder: Path | None,
    progress: Shown,
) -> Looked:
    """One side under the extractor, from the cache folder where it was seen before. Raises LimnerError."""
    if isinstance(one, Statistics):
        notes = []
        if options.errors:
            notes.append(f"{place} is a statistics file: it adds nothing to the standard error and the extrapolation.")
        if one.protocol is None:
            notes.append(f"Nothing in {place} says how it was made: the value holds only if that was in the same way.")
        sha256 = tensors_sha256({"mean": one.gaussian.mean, "covariance": one.gaussian.covariance})
        side = Side(str(place), "statistics file", one.count, {}, "", ())
        return Looked(side, one.gaussian, {"statistics": sha256}, None, tuple(notes))
    assert extractor is not None
    found = features_of_set(
        one,
        extractor,
        options.read,
        keep_features=options.keeps_features,
        folder=folder,
        progress=progress,
    )
    damaged = tuple({"name": one.names[number], "reason": why} for number, why in sorted(found.damaged.items()))
    lost = tuple({"name": text, "reason": "not read"} for text in one.lost)
    notes = [f"{place}: {note}" for note in one.notes]
    if damaged or lost:
        notes.append(f"{place}: {len(damaged + lost)} damaged pictures are left out.")
    if found.features is not None and len(found.features) < found.count:
        notes.append(f"{place}: all metrics but the Frechet distance take {MOST_KEPT} pictures of it, drawn at random.")
    if found.count < 2 and "fid" in options.metrics:
        raise LimnerError(
            f"Only {found.count} picture in {place} can be read.", fix="Give at least two pictures that are whole."
        )
    sizes = {f"{width}x{height}": count for (width, height), count in one.sizes.items()}
    if len(sizes) > 1:
        notes.append(f"{place}: pictures of {len(sizes)} sizes, each resized by itself: {describe_sizes(one.sizes)}.")
    side = Side(str(place), one.kind, found.count, sizes, one.digest, damaged + lost)
    gaussian = found.gaussian(correction=options.correction) if found.count > 1 else _point(found)
    return Looked(side, gaussian, {**found.depends_on, "N -": str(options.correction)}, found, tuple(notes))


def _point(found: SetFeatures) -> Gaussian:
    """One picture, where no covariance is asked for."""
    mean = found.groups[0].mean
    return Gaussian(mean, mean.new_zeros(1, len(mean)))


def refuse_too_few(opened: Sequence[PictureSet | Statistics], options: CompareOptions) -> None:
    """Raise LimnerError for a single picture, except where only its inception score is asked for."""
    for one in opened:
        if isinstance(one, PictureSet) and one.count < 2 and (options.metrics != ("is",) or options.save):
            raise LimnerError(
                f"There is only one picture in {one.name}.",
                why="A set is judged by how its pictures vary.",
                fix="Give more pictures; hundreds at least, thousands for a value to be quoted.",
            )


def notes_on(looked: Sequence[Looked], metrics: Mapping[str, float], options: CompareOptions) -> Iterator[str]:
    """What the figures cannot say."""
    for one in looked:
        yield from one.notes
    sizes = [one.side.sizes for one in looked if one.side.sizes]
    if len(sizes) > 1 and set(sizes[0]) != set(sizes[1]) and all(len(side) == 1 for side in sizes):
        yield (
            f"The pictures are {next(iter(sizes[0]))} on one side and {next(iter(sizes[1]))} on the other: "
            "the resizing shows in the value."
        )
    if len({one.side.sha256 for one in looked if one.side.sha256}) < len(looked) == len(sizes):
        yield "Both sides are the same pictures."
    if not metrics or "fid" not in options.metrics:
        return
    for one in looked:
        dimensions = len(one.gaussian.mean)
        if one.count is not None and one.count <= dimensions:
            yield (
                f"{one.side.path}: {one.count} pictures are few for {dimensions} features: the Frechet distance is too "
                "high, and only to be compared at this count. The kernel distance (--metrics kid) has no such bias."
            )
        elif one.found and one.count is not None and one.count <= 2 * dimensions and options.errors:
            yield (
                f"{one.side.path}: half of its {one.count} pictures are few for {dimensions} features: the "
                "extrapolation goes too far."
            )
        if one.found and one.count is not None and one.count < FEWEST_IN_GROUPS and options.errors:
            yield f"{one.side.path}: fewer than {FEWEST_IN_GROUPS} pictures, so there is no standard error."
