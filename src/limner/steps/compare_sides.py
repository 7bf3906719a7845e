"""The two sides of a comparison: a set of pictures under the extractor, or a statistics file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


Progress = Callable[[str, int, int], None]
"""Told what is done, and how many of how many pictures are through."""
FEATURES, HEADERS = "features", "looking over {}"
"""What is done: of both sides together, and before that of each."""


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
        self._progress(FEATURES, self._done, self._total)


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
        notes = list(one.notes)
        if options.errors and "fid" in options.metrics:
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
    """Raise LimnerError for fewer pictures than the metrics need; for a score a single one may be enough."""
    for one in opened:
        if isinstance(one, PictureSet):
            if one.count < 2 and (options.metrics != ("is",) or options.save):
                raise LimnerError(
                    f"There is only one picture in {one.name}.",
                    why="A set is judged by how its pictures vary.",
                    fix="Give more pictures; hundreds at least, thousands for a value to be quoted.",
                )
            refuse_few_neighbours(one.count, options)


def refuse_few_neighbours(count: int, options: CompareOptions) -> None:
    """Raise LimnerError where so many pictures of a side have fewer neighbours than are asked for."""
    if "prdc" in options.metrics and count <= options.neighbours:
        raise LimnerError(
            f"{count} pictures on a side are too few for --neighbours {options.neighbours}.",
            why="The ball around a picture reaches as far as its neighbour of that number.",
            fix="Give more pictures, or take fewer --neighbours.",
        )


def doubtful_metrics(looked: Sequence[Looked], metrics: Mapping[str, float]) -> tuple[str, ...]:
    """Names of figures that say nothing: extrapolations from too few pictures, or of a set to itself."""
    doubtful = _same_pictures(looked) or _few(looked)
    return tuple(name for name in metrics if name.endswith("_infinity") and doubtful)


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
    if _same_pictures(looked):
        yield "Both sides are the same pictures."
    elif metrics and "fid" in options.metrics:
        yield from _on_counts(looked, options)


def _on_counts(looked: Sequence[Looked], options: CompareOptions) -> Iterator[str]:
    dimensions = len(looked[0].gaussian.mean)
    if few := _few(looked):
        yield (
            f"{_in_words(few)} pictures are few for {dimensions} features: the Frechet distance is too high, and to be "
            "compared at these counts only. --metrics kid has no such bias."
        )
    if not options.errors:
        return
    halves = [one.count for one in looked if one.found and one.count is not None and one.count <= 2 * dimensions]
    if halves and not few:
        yield f"Half of {_in_words(halves)} pictures are few for {dimensions} features: the extrapolation goes too far."
    if fewer := [one.side.path for one in looked if one.found and (one.count or 0) < FEWEST_IN_GROUPS]:
        yield f"Fewer than {FEWEST_IN_GROUPS} pictures in {_in_words(fewer)}: there is no standard error."


def _few(looked: Sequence[Looked]) -> list[int]:
    return [one.count for one in looked if one.count is not None and one.count <= len(one.gaussian.mean)]


def _same_pictures(looked: Sequence[Looked]) -> bool:
    digests = [one.side.sha256 for one in looked if one.side.sha256]
    return len(digests) > len(set(digests))


def _in_words(values: Iterable[object]) -> str:
    return " and ".join(dict.fromkeys(map(str, values)))
