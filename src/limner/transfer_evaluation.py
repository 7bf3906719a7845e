"""How good a translation is: held-out sources + results (+ the truth) + real targets -> metrics with their protocol.

Every figure has a yardstick beside it: what the untouched sources score (`..._source`, or `..._identity` against the
truth), and what real targets do (`..._real`, `..._truth`). Grey levels are a share of the scale: 0 black, 1 white.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from limner.distribution import distribution_metrics, frechet_name
from limner.errors import LimnerError
from limner.evaluation import (
    Evaluation,
    closest_real,
    copy_metrics,
    diversity_metrics,
    extract_together,
    notes_on,
    protocol_of,
    refuse_not_finite,
    share_figures,
)
from limner.features import Extractor, Recogniser, extract, fit_for
from limner.features.pixels import thumbnails
from limner.features.staged import Staged, perceptual_differences
from limner.features.tiles import Tiles
from limner.frechet import Moments, frechet_distance
from limner.packing import PackedDataset, SplitName
from limner.picture_metrics import (
    SMALLEST_MULTI_SCALE_SIDE,
    colour_correlation,
    feature_differences,
    mean_absolute_difference,
    multi_scale_structural_similarity,
    peak_signal_to_noise,
    power_spectrum,
    ssim_window,
    stride_peaks,
    structural_similarity,
)
from limner.pixels import to_signed
from limner.randomness import generator
from limner.reference import BATCH, MOST_VARIED, THUMBNAIL_SIDE, Reference, selection
from limner.settings import EvaluateSettings
from limner.tasks import Pairs, Pictures, TaskName, UnpairedPictures

LEAST = 4
"""Pictures that a set needs to be compared as one; with fewer, parts of pictures are compared."""
MOST_TARGETS = 500
"""Real targets whose spectrum is looked at."""
UNCHANGED, INVERTED = 0.02, -0.3
"""A result counts as unchanged below that mean difference to its source, and as inverted below that correlation."""
_VALUES_AT_ONCE = 2**22


@dataclass(frozen=True)
class HeldOut:
    """What a translator is judged on: images uint8 [N, C, H, W] on the CPU, labels int64 [N]."""

    task: TaskName
    """Of the dataset."""
    split: SplitName
    sources: Tensor
    labels: Tensor | None
    truth: Tensor | None
    """What each source has to become, where the dataset is paired."""
    targets: Tensor
    """Some real targets of the training split, for comparison; not the sources' own."""

    @cached_property
    def target_peaks(self) -> Tensor:
        """`stride_peaks` of real targets."""
        return _peaks(self.targets)

    def batches(self, device: torch.device) -> Iterator[UnpairedPictures]:
        """The sources as a product gets them, with the truth or any targets beside them."""
        targets = self.truth if self.truth is not None else self.targets
        kind = UnpairedPictures if self.truth is None else Pairs
        for places in torch.split(torch.arange(len(self.sources)), BATCH):
            labels = None if self.labels is None else self.labels[places].to(device)
            beside = to_signed(targets[places % len(targets)].to(device))
            yield kind(Pictures(to_signed(self.sources[places].to(device)), labels), Pictures(beside))


def open_held_out(packed: PackedDataset, *, count: int, split: SplitName = "validation") -> HeldOut:
    """At most `count` sources of a split. Of the training split where the other one has too few to be judged by.

    Raises LimnerError where there is no source or no target.
    """
    if packed.split(split, "source").count < LEAST:
        split = "train"
    sources, targets = packed.split(split, "source"), packed.split("train", "target")
    if not (sources.count and targets.count):
        raise LimnerError("The dataset has no picture to judge by.", fix="Prepare it again with more pictures.")
    places = selection(sources.count, count)
    paired = packed.task == "paired"
    return HeldOut(
        task=packed.task,
        split=split,
        sources=_channels_first(sources.pixels(places)),
        labels=None if sources.labels is None else torch.from_numpy(sources.labels[places]),
        truth=_channels_first(packed.split(split, "target").pixels(places)) if paired else None,
        targets=_channels_first(targets.pixels(selection(targets.count, MOST_TARGETS))),
    )


def fitting_extractor(extractor: Extractor, held_out: HeldOut) -> Extractor:
    """The extractor, or its view of tiles where there are too few pictures to compare sets of them."""
    few = min(len(held_out.sources), len(held_out.targets)) < LEAST
    return Tiles(extractor) if few else extractor


def first_metric(task: TaskName, extractor: Extractor) -> str:
    """What a method of this task is to get low: the error where it learns from pairs, else the Frechet distance."""
    return "l1" if task == "paired" else frechet_name(extractor)


class TransferJudge:
    """The figures worth having during training, the one to get low first."""

    def __init__(self, held_out: HeldOut, reference: Reference, extractor: Extractor, *, task: TaskName) -> None:
        self._held_out = held_out
        self._reference = reference
        self._extractor = extractor
        self._first = first_metric(task, extractor)

    def __call__(self, images: Tensor) -> dict[str, float]:
        """Metrics of the results uint8 [N, C, H, W] for the held-out sources. Few pictures raise the distance.

        Of processes that train together each looks at a share of them; all have to call, with the same results.
        """
        held_out, extractor = self._held_out, self._extractor
        features = extract_together(extractor, images)
        distance = frechet_distance(self._reference.gaussian, Moments.of(features).gaussian())
        found = {frechet_name(extractor): distance}
        if isinstance(extractor, Recogniser) and held_out.labels is not None:
            found["label_agreement"] = float(_agrees(extractor, features, held_out.labels).double().mean())
        found["change"] = float(_each(mean_absolute_difference, images, held_out.sources).mean())
        if held_out.truth is not None:
            found["l1"] = float(_each(mean_absolute_difference, images, held_out.truth).mean())
        return refuse_not_finite({self._first: found[self._first], **found})


def evaluate_transfer(
    results: Tensor,
    held_out: HeldOut,
    *,
    reference: Reference,
    extractor: Extractor,
    settings: EvaluateSettings,
    cycled: Tensor | None = None,
) -> Evaluation:
    """Judge results uint8 [N, C, H, W], one for each held-out source, against the reference: the target's pictures.

    `cycled` are the results brought back, where the model knows the way. What the dataset does not allow (no truth, no
    labels, no validation split) is left out, and a note says so. Raises LimnerError where a figure is not finite.
    """
    fit = fit_for(extractor, len(results))
    features, untouched = (extract(fit, torch.split(images, BATCH)) for images in (results, held_out.sources))
    small = torch.cat([thumbnails(piece, side=THUMBNAIL_SIDE) for piece in torch.split(results, BATCH)])
    found = distribution_metrics(features, reference=reference, extractor=extractor, settings=settings)
    found |= _style_yardsticks(found, untouched, reference=reference, extractor=extractor)
    found |= _content(features, untouched, held_out, reference=reference, extractor=extractor)
    found |= _perceptual(results, held_out, extractor)
    found |= _against_source(results, held_out)
    if held_out.truth is not None:
        found |= _against_truth(results, held_out.sources, held_out.truth)
    if cycled is not None:
        found["cycle_l1"] = float(_each(mean_absolute_difference, cycled, held_out.sources).mean())
    classes = held_out.labels
    if isinstance(extractor, Recogniser) and classes is None:
        classes = extractor.probabilities(features).cpu().argmax(1)
    found |= diversity_metrics(small, classes, reference=reference)
    closest = closest_real(small, reference.train)
    real = None if reference.validation is None else closest_real(reference.validation.thumbnails, reference.train)
    protocol = protocol_of(len(results), reference=reference, extractor=extractor, settings=settings)
    return Evaluation(
        metrics=refuse_not_finite(found | copy_metrics(closest, real)),
        protocol=protocol | _transfer_protocol(held_out),
        notes=(*_transfer_notes(held_out, extractor), *notes_on(features, reference=reference, extractor=extractor)),
        nearest=closest.places,
        nearest_distances=closest.distances.numpy(),
        nearest_ratios=closest.ratios.numpy(),
        validation_distances=None if real is None else real.distances.numpy(),
    )


# -- the metrics ------------------------------------------------------------------------------------------------------


def _style_yardsticks(
    found: dict[str, float], untouched: Tensor, *, reference: Reference, extractor: Extractor
) -> dict[str, float]:
    """What the untouched sources' distance to the target style is, the result's share of it, and held-out targets'."""
    name = frechet_name(extractor)
    source = frechet_distance(reference.gaussian, Moments.of(untouched).gaussian())
    yardsticks = {f"{name}_source": source}
    if source > 0:
        yardsticks[f"{name}_ratio"] = found[name] / source
    if reference.validation is not None and len(reference.validation.features) >= LEAST:
        # As many as there are results, where there are: few pictures raise a distance.
        real = reference.validation.features
        chosen = real[selection(len(real), len(untouched))]
        yardsticks[f"{name}_real"] = frechet_distance(reference.gaussian, Moments.of(chosen).gaussian())
    return yardsticks


def _content(
    features: Tensor, untouched: Tensor, held_out: HeldOut, *, reference: Reference, extractor: Extractor
) -> dict[str, float]:
    """Whether what a picture shows is still there: to a classifier, and in the features."""
    name = f"feature_distance_{extractor.name}"
    # Drawn, because pictures some steps away can be of the same class again and again.
    others = untouched[torch.randperm(len(untouched), generator=generator(0, "unrelated", len(untouched)))]
    found = {
        name: float(feature_differences(features, untouched).mean()),
        f"{name}_unrelated": float(feature_differences(features, others).mean()),
    }
    if isinstance(extractor, Recogniser) and held_out.labels is not None:
        found |= share_figures("label_agreement", _agrees(extractor, features, held_out.labels))
        found |= share_figures("label_agreement_source", _agrees(extractor, untouched, held_out.labels))
        real = reference.validation
        if real is not None and real.labels is not None:
            found |= share_figures("label_agreement_real", _agrees(extractor, real.features, real.labels))
    return found


def _perceptual(results: Tensor, held_out: HeldOut, extractor: Extractor) -> dict[str, float]:
    """How differently results look from their sources and from the truth, to extractors that have maps."""
    if not isinstance(extractor, Staged):
        return {}
    name, some = f"perceptual_distance_{extractor.name}", selection(len(results), MOST_VARIED)
    beside = {name: held_out.sources} | ({} if held_out.truth is None else {f"{name}_truth": held_out.truth})
    return {
        name: float(perceptual_differences(extractor, results[some], images[some]).mean())
        for name, images in beside.items()
    }


def _agrees(extractor: Recogniser, features: Tensor, labels: Tensor) -> Tensor:
    """Which of the pictures are read as their class, bool [N]."""
    return extractor.probabilities(features).cpu().argmax(1) == labels.cpu()


def _against_source(results: Tensor, held_out: HeldOut) -> dict[str, float]:
    """How the results differ from their sources, with the ways of differing too little or wrongly."""
    sources = held_out.sources
    change = _each(mean_absolute_difference, results, sources)
    found = {
        "change": float(change.mean()),
        **share_figures("identity_share", change < UNCHANGED),
        "ssim_source": float(_each(structural_similarity, results, sources).mean()),
    }
    if min(sources.shape[2:]) >= SMALLEST_MULTI_SCALE_SIDE:
        found["ms_ssim_source"] = float(_each(multi_scale_structural_similarity, results, sources).mean())
    correlation = _known(_each(colour_correlation, results, sources))
    if len(correlation):
        found["colour_correlation"] = float(correlation.mean())
        found |= share_figures("inverted_share", correlation < INVERTED)
    peaks = _known(_peaks(results) / held_out.target_peaks)
    if len(peaks):
        found["checkerboard"] = float(peaks.max())
    return found


def _against_truth(results: Tensor, sources: Tensor, truth: Tensor) -> dict[str, float]:
    """How far the results are from what they should be, and how far the untouched sources are."""
    found: dict[str, float] = {}
    for ending, images in (("", results), ("_identity", sources)):
        found[f"l1{ending}"] = float(_each(mean_absolute_difference, images, truth).mean())
        found[f"psnr{ending}"] = float(_each(peak_signal_to_noise, images, truth).mean())
        found[f"ssim{ending}"] = float(_each(structural_similarity, images, truth).mean())
        if min(truth.shape[2:]) >= SMALLEST_MULTI_SCALE_SIDE:
            found[f"ms_ssim{ending}"] = float(_each(multi_scale_structural_similarity, images, truth).mean())
    if found["l1_identity"] > 0:
        found["l1_ratio"] = found["l1"] / found["l1_identity"]
    correlation = _known(_each(colour_correlation, truth, sources))
    if len(correlation):
        found |= share_figures("inverted_share_truth", correlation < INVERTED)
    return found


def _each(measure: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A measure of each pair of pictures uint8 [N, C, H, W], [N], in pieces that fit into memory."""
    piece = max(1, _VALUES_AT_ONCE // a[0].numel())
    return torch.cat(
        [measure(x / 255, y / 255) for x, y in zip(torch.split(a, piece), torch.split(b, piece), strict=True)]
    )


def _peaks(images: Tensor) -> Tensor:
    piece = max(1, _VALUES_AT_ONCE // images[0].numel())
    spectrum = torch.stack([power_spectrum(part / 255) for part in torch.split(images, piece)]).sum(0)
    return stride_peaks(spectrum)


def _known(values: Tensor) -> Tensor:
    return values[values.isfinite()]


# -- what they depend on ----------------------------------------------------------------------------------------------


def _transfer_protocol(held_out: HeldOut) -> dict[str, str]:
    window = ssim_window(*held_out.sources.shape[2:])
    return {
        "task": held_out.task,
        "sources": str(len(held_out.sources)),
        "source_domain": "source",
        "source_split": held_out.split,
        "truth": "none" if held_out.truth is None else "the target of the same number",
        "ssim": f"gaussian window of {window} px, sigma 1.5",
        "unchanged": f"mean difference to the source under {UNCHANGED} of the scale",
        "inverted": f"correlation with the source under {INVERTED}",
        "checkerboard": f"largest of 15 peaks over those of {len(held_out.targets)} training targets",
    }


def _transfer_notes(held_out: HeldOut, extractor: Extractor) -> Iterator[str]:
    if held_out.split == "train":
        yield "There are no held-out sources: these are results for training pictures, which the model has seen."
    if isinstance(extractor, Tiles):
        yield "There are too few pictures to compare as sets: the distances compare the parts of pictures."
    if held_out.labels is None:
        yield "The sources have no classes, so nothing counts how often a result still shows what its source did."


def _channels_first(pixels: np.typing.NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
