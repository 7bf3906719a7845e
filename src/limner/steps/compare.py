"""Compare two sets of pictures as sets: the distances and shares behind `limner fid`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from limner.distribution import GROUPS, frechet_name, inception_score_figures, kernel_name
from limner.errors import LimnerError
from limner.features import Classifying, Extractor, inception_2015
from limner.features.pretrained import fetch_weights, open_pretrained, refuse_without_effect
from limner.frechet import Gaussian, estimate_frechet, frechet_distance
from limner.metrics import density_coverage, kernel_distance, precision_recall
from limner.picture_sets import PictureSet, open_pictures
from limner.ports import Ports
from limner.randomness import generator
from limner.reference import selection
from limner.set_features import MOST_KEPT, with_kept_root
from limner.statistics_files import (
    Statistics,
    is_statistics_file,
    read_statistics,
    refuse_unwritable,
    write_statistics,
)
from limner.steps.compare_sides import (
    HEADERS,
    CompareOptions,
    Looked,
    Progress,
    Shown,
    Side,
    doubtful_metrics,
    look,
    notes_on,
    refuse_few_neighbours,
    refuse_too_few,
)

READING = "RGB; transparency dropped, orientation not applied"
"""How a picture file becomes pixels."""
SUBSETS, SUBSET_SIZE = 100, 1000
"""Of the kernel distance; of fewer pictures a half."""
SPLITS = 10
"""Parts of a set that the inception score is taken of."""
UNSTATED = "fd_unstated"
"""What the distance is called of two files that do not say what they hold."""


@dataclass(frozen=True)
class Comparison:
    """Values by name, and what they depend on. `<metric>_se` is a standard error."""

    metrics: Mapping[str, float]
    protocol: Mapping[str, str]
    sides: tuple[Side, ...]
    notes: tuple[str, ...]
    """Sentences on what these figures cannot say."""
    doubtful: tuple[str, ...]
    """Names of metrics that are not to be quoted: extrapolations from too few pictures, or of a set to itself."""


def compare(
    judged: Path, reference: Path | None = None, *, options: CompareOptions, ports: Ports, progress: Progress
) -> Comparison:
    """Judge a set of pictures by a reference set; each is a folder, an archive, a packed dataset or a statistics file.

    Without a reference the judged set's statistics are saved, its inception score taken, or both. Raises LimnerError
    for all that the user can put right.
    """
    _refuse_contradictions(judged, reference, options)
    places = [place for place in (judged, reference) if place]
    opened = [_open(place, options, progress) for place in places]
    refuse_too_few(opened, options)
    extractor = _open_extractor(options, ports) if any(isinstance(one, PictureSet) for one in opened) else None
    if extractor:
        _refuse_without_classes(extractor, options)
    protocol = _protocol_of(extractor, opened, places, options)
    shown = Shown(opened, progress)
    folder, unkept = _cache_folder(ports.cache) if options.cache else (None, ())
    looked = [
        look(one, place, extractor, options=options, folder=folder, progress=shown)
        for one, place in zip(opened, places, strict=True)
    ]
    if options.save:
        statistics = Statistics(looked[0].gaussian, looked[0].count, protocol)
        write_statistics(options.save, statistics)
    metrics: dict[str, float] = {}
    if reference and "fid" in options.metrics:
        name = frechet_name(extractor) if extractor else protocol.get("metric", UNSTATED)
        metrics |= _frechet(name, looked, folder, options)
    if extractor:
        metrics |= _by_features(looked, extractor, options)
    return Comparison(
        metrics=_refuse_not_finite(metrics),
        protocol=protocol | dict(_conditions(looked, metrics, options)),
        sides=tuple(one.side for one in looked),
        notes=tuple(dict.fromkeys((*unkept, *notes_on(looked, metrics, options)))),
        doubtful=doubtful_metrics(looked, metrics),
    )


# -- what is compared, and by what -------------------------------------------------------------------------------------


def _open(place: Path, options: CompareOptions, progress: Progress) -> PictureSet | Statistics:
    if is_statistics_file(place):
        return read_statistics(place)
    return open_pictures(place, options.read, partial(progress, HEADERS.format(place)))


def _open_extractor(options: CompareOptions, ports: Ports) -> Extractor:
    return open_pretrained(
        options.features,
        weights=fetch_weights(options.features, options.weights, sha256=options.weights_sha256, fetch=ports.fetch),
        sha256=options.weights_sha256,
        protocol=options.protocol,
        device=_device(options.device),
        elsewhere=ports.extractor_weights,
    )


def _refuse_without_classes(extractor: Extractor, options: CompareOptions) -> None:
    if "is" in options.metrics and not isinstance(extractor, Classifying):
        raise LimnerError(
            f"The features {extractor.name!r} know no classes, which the inception score is made of.",
            fix=f"Take --features {inception_2015.NAME}, or leave `is` out of --metrics.",
        )


def _device(name: str) -> torch.device:
    if not name:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0]
        raise LimnerError(f"The device {name!r} cannot be used.", why=why, fix="Take cpu, or cuda.") from error
    return device


def _cache_folder(folder: Path) -> tuple[Path | None, tuple[str, ...]]:
    """The folder, or none and a note where it cannot be made: nothing has to be kept."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return None, (f"Nothing is kept for the next time: {folder}: {error.strerror or error}.",)
    return folder, ()


# -- the figures ------------------------------------------------------------------------------------------------------


def _frechet(name: str, looked: Sequence[Looked], folder: Path | None, options: CompareOptions) -> dict[str, float]:
    """The distance; its standard error and extrapolation are those of both sides, each beside the other as it is."""
    judged, reference = looked
    if len(judged.gaussian.mean) != len(reference.gaussian.mean):
        raise LimnerError(
            f"{judged.side.path} has {len(judged.gaussian.mean)} features, "
            f"{reference.side.path} has {len(reference.gaussian.mean)}.",
            why="They come from different extractors, or, as with pixels, from pictures of different proportions.",
            fix="Take both from the same --features, with pictures of one shape.",
        )
    of_roots = all(one.gaussian.rows is None for one in looked)  # else none is asked for
    sampled = [pair for pair in ((judged, reference), (reference, judged)) if pair[0].found]
    if not options.errors or not sampled or any(one.found and len(one.found.groups) == 1 for one, _ in sampled):
        return {
            name: frechet_distance(_with_root(reference, folder) if of_roots else reference.gaussian, judged.gaussian)
        }
    estimates = []
    for one, other in sampled:
        assert one.found
        gaussian = _with_root(other, folder) if of_roots else other.gaussian
        estimates.append(estimate_frechet(one.found.groups, gaussian, correction=options.correction))
    value = estimates[0].value
    return {
        name: value,
        f"{name}_se": math.hypot(*(estimate.standard_error for estimate in estimates)),
        f"{name}_infinity": value + sum(estimate.at_infinity - estimate.value for estimate in estimates),
    }


def _with_root(one: Looked, folder: Path | None) -> Gaussian:
    return with_kept_root(one.gaussian, one.depends_on, folder=folder)


def _by_features(looked: Sequence[Looked], extractor: Extractor, options: CompareOptions) -> dict[str, float]:
    found: dict[str, float] = {}
    features = [one.found.features for one in looked if one.found and one.found.features is not None]
    if "kid" in options.metrics:
        name = kernel_name(extractor)
        rng = generator(0, "kernel-distance")
        kernel = kernel_distance(features[1], features[0], rng=rng, subsets=SUBSETS, subset_size=SUBSET_SIZE)
        found |= {name: kernel.value, f"{name}_se": kernel.standard_error}
    if "prdc" in options.metrics:
        count = _in_balls(looked)
        refuse_few_neighbours(count, options)
        judged, real = (side[selection(len(side), count)] for side in features)
        shares = asdict(precision_recall(real, judged, neighbours=options.neighbours))
        shares |= asdict(density_coverage(real, judged, neighbours=options.neighbours))
        for what, value in shares.items():
            word, _, ending = what.partition("_")
            found["_".join(filter(None, (word, extractor.name, ending)))] = value
    if "is" in options.metrics:
        assert isinstance(extractor, Classifying)
        found |= inception_score_figures(extractor, features[0])
    return found


def _in_balls(looked: Sequence[Looked]) -> int:
    """Pictures of each side: a larger set has smaller balls."""
    return min(len(one.found.features) for one in looked if one.found and one.found.features is not None)


def _refuse_not_finite(metrics: dict[str, float]) -> dict[str, float]:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise LimnerError(
                f"The metric {name} came out as {value}.",
                why="The features, or the numbers of a statistics file, are too extreme to compute with.",
                fix="Look at the pictures, and whether the statistics file and the weights are the right ones.",
            )
    return metrics


# -- what holds them together -----------------------------------------------------------------------------------------


def _protocol_of(
    extractor: Extractor | None,
    opened: Sequence[PictureSet | Statistics],
    places: Sequence[Path],
    options: CompareOptions,
) -> dict[str, str]:
    """What the figures depend on beside the pictures. Raises LimnerError where a statistics file says otherwise."""
    records = [
        (str(place), one.protocol)
        for one, place in zip(opened, places, strict=True)
        if isinstance(one, Statistics) and one.protocol is not None
    ]
    if extractor:
        ours = {
            "metric": frechet_name(extractor),
            "features": extractor.name,
            "weights": extractor.identity,
            "resize": extractor.resize,
            "covariance": "biased, 1 / N" if options.biased else "unbiased, 1 / (N - 1)",
        }
        records.insert(0, ("this comparison", ours))
    for name, record in records[1:]:
        first_name, first = records[0]
        if differing := [key for key in sorted({*record, *first}) if record.get(key) != first.get(key)]:
            raise LimnerError(
                f"{name} was made under another protocol than {first_name}: the two cannot be compared.",
                why="; ".join(f"{key}: {record.get(key, '-')} there, {first.get(key, '-')} here" for key in differing),
                fix="Take the same --features, --protocol, --weights and --biased, or make the statistics again.",
            )
    return dict(records[0][1]) if records else {}


def _conditions(
    looked: Sequence[Looked], metrics: Mapping[str, float], options: CompareOptions
) -> Iterator[tuple[str, str]]:
    """What these figures depend on beside that. Statistics do not, so no statistics file is compared by it."""
    if any(one.side.kind in ("folder", "archive") for one in looked):
        yield "reading", READING
    counts = [len(one.found.features) for one in looked if one.found and one.found.features is not None]
    if any(
        one.found and one.found.features is not None and len(one.found.features) < one.found.count for one in looked
    ):
        yield "features_of", f"{MOST_KEPT} pictures of a side at most"
    if any(name.endswith("_infinity") for name in metrics):
        yield "fid_error", f"first-order jackknife over {GROUPS} groups of each set of pictures"
    if "kid" in options.metrics:
        yield "kid_subsets", f"{SUBSETS} of {min(SUBSET_SIZE, *(count // 2 for count in counts))} pictures"
        yield "kid_error", "jackknife over groups of both sides, and between the subsets"
    if "prdc" in options.metrics:
        yield "prdc_neighbours", str(options.neighbours)
        yield "prdc_pictures", f"{_in_balls(looked)} of each side"
        yield "prdc_error", "of the judged pictures' shares, the balls taken as given"
    if "is" in options.metrics:
        yield "is_error", f"deviation between {SPLITS} parts"


def _refuse_contradictions(judged: Path, reference: Path | None, options: CompareOptions) -> None:
    files = [place for place in (judged, reference) if place and is_statistics_file(place)]
    if not options.metrics:
        raise LimnerError("No metric is asked for.", fix="Take some of fid, kid, prdc, is.")
    if files and (others := [name for name in options.metrics if name != "fid"]):
        raise LimnerError(
            f"{' and '.join(others)} cannot be had of {files[0]}.",
            why="A statistics file holds a mean and a covariance, and these metrics need the features of each picture.",
            fix="Give the pictures themselves, or take --metrics fid.",
        )
    if options.save and reference:
        raise LimnerError("--save writes the statistics of one set, and two are given.", fix="Leave one of them out.")
    if options.save and files:
        raise LimnerError(f"{judged} is a statistics file already.", fix="Copy it.")
    of_two = set(options.metrics) - {"is", "fid"} if options.save else set(options.metrics) - {"is"}
    if not reference and of_two:
        raise LimnerError(
            f"What is {judged} to be compared with?",
            fix="Name a second set; or save the statistics of this one with --save FILE.npz.",
        )
    if reference and set(options.metrics) == {"is"}:
        raise LimnerError(
            f"The inception score looks at {judged} alone, and {reference} is given as well.",
            fix="Leave the second set out, or ask for another metric beside it: --metrics fid,is",
        )
    if options.save:
        refuse_unwritable(options.save)
    refuse_without_effect(
        options.features, weights=options.weights, sha256=options.weights_sha256, protocol=options.protocol
    )
    if options.neighbours < 1:
        raise LimnerError(f"--neighbours {options.neighbours} leaves no neighbour.", fix="Take 1 or more.")
