"""What metrics are called, what they say, and how they are read. Names and their endings: `limner.distribution`."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

_EXTRAPOLATED = "extrapolated from N and N/2 to endlessly many pictures: what few pictures add is gone"
_OVER_SOURCES = "over that of the untouched sources"

MEANINGS = {
    "fid": ("lower", "Fréchet inception distance to the training pictures; 0 is equal"),
    "fd_": ("lower", "Fréchet distance of the features to those of the training pictures; 0 is equal"),
    "fid_infinity": ("", f"Fréchet inception distance {_EXTRAPOLATED}"),
    "fd_infinity_": ("", f"Fréchet distance {_EXTRAPOLATED}"),
    "fid_source": ("", "Fréchet inception distance of the untouched sources"),
    "fd_source_": ("", "Fréchet distance of the untouched sources"),
    "fid_real": ("", "Fréchet inception distance of held-out targets: what being real gives"),
    "fd_real_": ("", "Fréchet distance of held-out targets: what being real gives"),
    "fid_ratio": ("lower", f"Fréchet inception distance {_OVER_SOURCES}; 1 is no nearer to the style than they are"),
    "fd_ratio_": ("lower", f"Fréchet distance {_OVER_SOURCES}; 1 is no nearer to the style than they are"),
    "kid": ("lower", "kernel inception distance; near 0 is equal"),
    "kd_": ("lower", "kernel distance of the features; near 0 is equal"),
    "precision_": ("higher", "share of the pictures that lie among real ones"),
    "recall_": ("higher", "share of the real pictures that lie among generated ones"),
    "density_": ("near 1", "in how many real pictures' surroundings a picture lies, over what is usual for real ones"),
    "coverage_": ("higher", "share of the real pictures that have a generated one in their surroundings"),
    "inception_": ("higher", "how sure the network is of each picture's class, and how many classes there are"),
    "sure_share": ("higher", "share of the pictures whose class the classifier is sure of"),
    "sure_share_real": ("", "share of the held-out real pictures whose class the classifier is sure of"),
    "sure_share_ratio": ("higher", "how readable the pictures are: sure_share over that of real ones"),
    "class_entropy": ("higher", "how evenly the classes are drawn; 1 is even"),
    "label_agreement": ("higher", "share of the pictures that are read as the class they were made for"),
    "label_agreement_source": ("", "share of the untouched sources that are read as their class"),
    "label_agreement_real": (
        "",
        "share of the held-out real pictures that are read as their class: how good the classifier is",
    ),
    "l1": ("lower", "mean difference to the truth, a share of the grey scale"),
    "l1_identity": ("", "mean difference of the untouched sources to the truth"),
    "l1_ratio": ("lower", "l1 over l1_identity; 1 is no nearer to the truth than the sources are"),
    "psnr": ("higher", "peak signal to noise against the truth, decibels"),
    "psnr_identity": ("", "peak signal to noise of the untouched sources against the truth"),
    "ssim": ("higher", "structural similarity to the truth; 1 is equal"),
    "ssim_identity": ("", "structural similarity of the untouched sources to the truth"),
    "ssim_source": ("", "structural similarity to the sources; 1 is unchanged"),
    "ms_ssim": ("higher", "structural similarity to the truth at five scales; 1 is equal"),
    "ms_ssim_identity": ("", "structural similarity of the untouched sources to the truth at five scales"),
    "ms_ssim_source": ("", "structural similarity to the sources at five scales; 1 is unchanged"),
    "perceptual_distance_": (
        "lower",
        "how differently result and source look to the extractor, place by place",
    ),
    "perceptual_distance_truth_": ("lower", "how differently result and truth look to the extractor"),
    "feature_": ("lower", "difference of the features to the source's, each brought to length 1; 0 is equal"),
    "feature_unrelated_": (
        "",
        "difference of the features to another picture's source: what keeping nothing would give",
    ),
    "cycle_l1": ("lower", "mean difference of a source and its result brought back, a share of the grey scale"),
    "change": ("", "mean difference of result and source, a share of the grey scale"),
    "identity_share": ("lower", "share of the results that hardly differ from their sources"),
    "colour_correlation": ("", "correlation of the pixels of result and source; -1 is a negative"),
    "inverted_share": ("lower", "share of the results that look like negatives of their sources"),
    "inverted_share_truth": ("", "share of the truth that looks like negatives of the sources"),
    "checkerboard": ("near 1", "how much patterns of 2 or 4 pixels stand out, over real targets"),
    "within_class_diversity": ("near 1", "how varied a class is, over the real pictures'; 0 is always the same one"),
    "diversity": ("near 1", "how varied the pictures are, over the real ones; 0 is always the same one"),
    "perceptual_diversity_": ("near 1", "how differently two pictures look to the extractor, over two real ones"),
    "copy_share": ("lower", "share of the pictures that copy a training picture"),
    "copy_share_real": ("", "share of the held-out real pictures that pass for copies of a training picture"),
    "novelty": ("near 1", "median distance to the nearest training picture, over that of held-out real pictures"),
}
"""A metric, or how a family of them begins -> which way is better, and what it says; in the order of the table."""
ENDINGS = ("infinity", "source", "ratio", "real", "truth", "unrelated")
"""What may stand behind the extractor in a name and makes a family of its own."""

ERROR_ENDINGS = ("_se", "_sd")
"""Of standard errors and deviations, which stand behind what they belong to."""

COUNTS = {"copy_share": "samples", "copy_share_real": "held_out_pictures", "identity_share": "samples"}
"""A share that is read as a count -> the key of the protocol that says of how many."""

HEADLINES = {
    "fid": ("Fréchet inception distance", "{:.2f}"),
    "fd_": ("Fréchet distance", "{:.3g}"),
    "sure_share_ratio": ("as readable as real pictures", "{:.1%}"),
    "class_entropy": ("evenness of the classes", "{:.1%}"),
    "within_class_diversity": ("as varied within a class as real pictures", "{:.0%}"),
    "diversity": ("as varied as real pictures", "{:.0%}"),
    "copy_share": ("copies of training pictures", "{:.2%}"),
}
"""A metric, or how a family of them begins -> the words and the form in which it stands at the top."""

TRANSFER_HEADLINES = {
    "l1_ratio": ("of the untouched sources' error", "{:.0%}"),
    "fid_ratio": ("of the untouched sources' distance to the style", "{:.0%}"),
    "fd_ratio_": ("of the untouched sources' distance to the style", "{:.0%}"),
    "label_agreement": ("are read as what their sources show", "{:.1%}"),
    "ssim_source": ("structural similarity to the sources", "{:.2f}"),
    "within_class_diversity": ("as varied within a class as real targets", "{:.0%}"),
    "diversity": ("as varied as real targets", "{:.0%}"),
    "copy_share": ("copies of training pictures", "{:.2%}"),
}
"""The same of a model that translates."""


def family(name: str) -> str:
    """The key of a metric's name in the tables above. How pictures were scaled for Inception makes no other family."""
    name = re.sub("^([fk]id)_(tf1|clean)", r"\1", name)
    if name in MEANINGS:
        return name
    ending = next((ending for ending in ENDINGS if name.endswith(f"_{ending}")), "")
    words = name.split("_")
    beginning = "_".join(words[: 2 if words[0] == "perceptual" else 1])
    return f"{beginning}_{ending}{'_' if ending else ''}"


def with_errors(metrics: Mapping[str, float], protocol: Mapping[str, str] | None = None) -> dict[str, str]:
    """Figures as they are read, each with its standard error (or deviation) behind it where it has one.

    Shares of pictures that are copies are counts, where the protocol says of how many.
    """
    errors = {name[:-3]: value for name, value in metrics.items() if name.endswith(ERROR_ENDINGS)}
    return {
        name: counted(name, value, protocol or {}) or _with_error(value, errors.get(name, 0.0))
        for name, value in metrics.items()
        if not (name.endswith(ERROR_ENDINGS) and name[:-3] in metrics)
    }


def counted(name: str, share: float, protocol: Mapping[str, str]) -> str:
    """The share as a count, "3 of 2,000"; empty where it is none, or the protocol does not say of how many."""
    of = protocol.get(COUNTS.get(name, ""), "")
    if not of.isdecimal() or of == "0":
        return ""
    count = round(share * int(of))
    return f"{count:,} of {int(of):,}" if count else f"none of {int(of):,}"


def _with_error(value: float, error: float) -> str:
    """Both rounded to the error's second digit. An error of 0 is what a share of 0 or 1 has: it says nothing."""
    if not (math.isfinite(value) and math.isfinite(error) and error > 0):
        return f"{value:.4g}"
    digits = 1 - int(f"{error:.1e}".partition("e")[2])
    value, error = round(value, digits) + 0.0, round(error, digits)  # + 0.0: no -0
    return f"{value:.{max(digits, 0)}f} ± {error:.{max(digits, 0)}f}"


def explained(metrics: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str, str]]:
    """Name, better direction and meaning of every metric there is; unknown ones last."""
    order = list(MEANINGS)
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    known = sorted((name for name in names if family(name) in MEANINGS), key=lambda name: order.index(family(name)))
    unknown = [(name, "", "") for name in names if name not in known]
    return [(name, *MEANINGS[family(name)]) for name in known] + unknown


def headlines(
    metrics: Mapping[str, float], of: Mapping[str, tuple[str, str]], protocol: Mapping[str, str] | None = None
) -> Iterator[tuple[str, str]]:
    """Value and words for each figure that deserves to be seen first."""
    found = {family(name): value for name, value in metrics.items() if not name.endswith(ERROR_ENDINGS)}
    for beginning, (words, form) in of.items():
        if beginning in found:
            yield counted(beginning, found[beginning], protocol or {}) or form.format(found[beginning]), words
