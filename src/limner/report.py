"""The report of a model: one HTML file that holds everything it shows, to be opened, mailed or archived."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from limner.pixels import encode_png

MEANINGS = {
    "fid": ("lower", "Fréchet inception distance to the training pictures; 0 is equal"),
    "fd_": ("lower", "Fréchet distance of the features to those of the training pictures; 0 is equal"),
    "fid_infinity": (
        "",
        "the same extrapolated from N and N/2 to endlessly many pictures: what few pictures add is gone",
    ),
    "fd_infinity_": (
        "",
        "the same extrapolated from N and N/2 to endlessly many pictures: what few pictures add is gone",
    ),
    "fid_source": ("", "the same of the untouched sources"),
    "fd_source_": ("", "the same of the untouched sources"),
    "fid_real": ("", "the same of held-out targets: what being real gives"),
    "fd_real_": ("", "the same of held-out targets: what being real gives"),
    "fid_ratio": ("lower", "the first over that of the untouched sources; 1 is no nearer to the style than they are"),
    "fd_ratio_": ("lower", "the first over that of the untouched sources; 1 is no nearer to the style than they are"),
    "kid": ("lower", "kernel inception distance; near 0 is equal"),
    "kd_": ("lower", "kernel distance of the features; near 0 is equal"),
    "precision_": ("higher", "share of the pictures that lie among real ones"),
    "recall_": ("higher", "share of the real pictures that lie among generated ones"),
    "density_": ("near 1", "in how many real pictures' surroundings a picture lies, over what is usual for real ones"),
    "coverage_": ("higher", "share of the real pictures that have a generated one in their surroundings"),
    "inception_": ("higher", "how sure the network is of each picture's class, and how many classes there are"),
    "sure_share": ("higher", "share of the pictures whose class the classifier is sure of"),
    "sure_share_real": ("", "the same of held-out real pictures"),
    "sure_share_ratio": ("higher", "how readable the pictures are: the first over the second"),
    "class_entropy": ("higher", "how evenly the classes are drawn; 1 is even"),
    "label_agreement": ("higher", "share of the pictures that are read as the class they were made for"),
    "label_agreement_source": ("", "the same of the untouched sources"),
    "label_agreement_real": ("", "the same of held-out real pictures: how good the classifier is"),
    "l1": ("lower", "mean difference to the truth, a share of the grey scale"),
    "l1_identity": ("", "the same of the untouched sources"),
    "l1_ratio": ("lower", "the first over the second; 1 is no nearer to the truth than the sources are"),
    "psnr": ("higher", "peak signal to noise against the truth, decibels"),
    "psnr_identity": ("", "the same of the untouched sources"),
    "ssim": ("higher", "structural similarity to the truth; 1 is equal"),
    "ssim_identity": ("", "the same of the untouched sources"),
    "ssim_source": ("", "structural similarity to the sources; 1 is unchanged"),
    "ms_ssim": ("higher", "structural similarity to the truth at five scales; 1 is equal"),
    "ms_ssim_identity": ("", "the same of the untouched sources"),
    "ms_ssim_source": ("", "structural similarity to the sources at five scales; 1 is unchanged"),
    "perceptual_distance_": (
        "lower",
        "how differently result and source look to the extractor, place by place",
    ),
    "perceptual_distance_truth_": ("lower", "the same of result and truth"),
    "feature_": ("lower", "difference of the features to the source's, each brought to length 1; 0 is equal"),
    "feature_unrelated_": ("", "the same to another picture's source: what keeping nothing would give"),
    "cycle_l1": ("lower", "mean difference of a source and its result brought back, a share of the grey scale"),
    "change": ("", "mean difference of result and source, a share of the grey scale"),
    "identity_share": ("lower", "share of the results that hardly differ from their sources"),
    "colour_correlation": ("", "correlation of the pixels of result and source; -1 is a negative"),
    "inverted_share": ("lower", "share of the results that look like negatives of their sources"),
    "inverted_share_truth": ("", "the same of the truth"),
    "checkerboard": ("near 1", "how much patterns of 2 or 4 pixels stand out, over real targets"),
    "within_class_diversity": ("near 1", "how varied a class is, over the real pictures'; 0 is always the same one"),
    "diversity": ("near 1", "how varied the pictures are, over the real ones; 0 is always the same one"),
    "perceptual_diversity_": ("near 1", "how differently two pictures look to the extractor, over two real ones"),
    "copy_share": ("lower", "share of the pictures that copy a training picture"),
    "copy_share_real": ("", "the same of held-out real pictures"),
    "novelty": ("near 1", "median distance to the nearest training picture, over that of held-out real pictures"),
}
"""A metric, or how a family of them begins -> which way is better, and what it says; in the order of the table."""
ENDINGS = ("infinity", "source", "ratio", "real", "truth", "unrelated")
"""What may stand behind the extractor in a name and makes a family of its own."""

ERROR_ENDINGS = ("_se", "_sd")
"""Of standard errors and deviations, which stand behind what they belong to."""

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

PLOT_TITLES = {
    "loss": "Losses",
    "probability": "Discriminator: mean probability of being real",
    "logit": "Discriminator: mean logit",
    "penalty": "Gradient penalties",
    "gradient": "Gradient norms",
    "images_per_second": "Images per second",
    "memory_gib": "Memory, GiB",
}
"""What the journal's figures before the stroke are called; others are called by their own name."""

INK = "#010203"  # stands in a plot for the page's own, which is light or dark
THEME = "svg { color: #1b1b1f } @media (prefers-color-scheme: dark) { svg { color: #ececf1 } }"
COLOURS = ("#2b7bba", "#d0632a", "#3f8f4f", "#9a62b8")  # at least 3:1 on white as on the dark paper
STYLES = ("-", "--", "-.", ":")  # told apart without colours, too
WIDEST_SHEET = 1600
"""Pixels; a larger sheet is scaled down."""
SHARP_SHEET = 800
"""Pixels; a sheet up to this width is enlarged without smoothing."""


@dataclass(frozen=True)
class Sheet:
    """A picture of the report."""

    title: str
    alternative: str
    """What it shows, for those who cannot see it."""
    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    caption: str = ""
    headings: Sequence[str] = ()
    """What stands above the columns, where they mean something."""


@dataclass(frozen=True)
class Yardstick:
    """A figure beside what doing nothing would score, and what real pictures do; in the form in which they are read."""

    words: str
    result: str
    untouched: str
    real: str


@dataclass(frozen=True)
class Safeguard:
    """Something that can go wrong unseen, and whether it did, in a sentence."""

    fine: bool
    sentence: str


@dataclass(frozen=True)
class Exhibits:
    """What is shown of a model beside its figures; which of it there is depends on the kind of model."""

    sheets: Sequence[Sheet]
    headlines: Mapping[str, tuple[str, str]]
    """A metric, or how a family of them begins -> the words and the form in which it stands at the top."""
    yardsticks: Sequence[Yardstick] = ()
    safeguards: Sequence[Safeguard] = ()


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows."""

    name: str
    chosen: str
    metrics: Mapping[str, Mapping[str, float]]
    """By moment ("best", "last"), then by name."""
    protocol: Mapping[str, str]
    notes: Sequence[str]
    exhibits: Exhibits
    journal: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, str]
    distances: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    """Distances to the nearest training picture, grey levels, of the sets of pictures by name."""


def render_report(content: ReportContent) -> str:
    """The report as HTML. It refers to nothing outside itself; the same content gives the same text."""
    loader = jinja2.PackageLoader("limner", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    shown = {moment: with_errors(figures) for moment, figures in content.metrics.items()}
    return environment.get_template("report.html.j2").render(
        content=content,
        metrics=_explained(shown),
        shown=shown,
        headlines=list(_headlines(content.metrics[content.chosen], content.exhibits.headlines)),
        sheets=[(sheet, _sheet_uri(sheet)) for sheet in content.exhibits.sheets],
        sharp=SHARP_SHEET,
        distances=_uri(_distances_svg(content.distances), "svg+xml") if content.distances else "",
        plots=[(title, _uri(svg, "svg+xml")) for title, svg in _curves(content.journal)],
        events=[line for line in content.journal if "event" in line],
    )


# -- figures ----------------------------------------------------------------------------------------------------------


def _family(name: str) -> str:
    """The key of a metric's name in the tables above. How pictures were scaled for Inception makes no other family."""
    name = re.sub("^([fk]id)_(tf1|clean)", r"\1", name)
    if name in MEANINGS:
        return name
    ending = next((ending for ending in ENDINGS if name.endswith(f"_{ending}")), "")
    words = name.split("_")
    beginning = "_".join(words[: 2 if words[0] == "perceptual" else 1])
    return f"{beginning}_{ending}{'_' if ending else ''}"


def with_errors(metrics: Mapping[str, float]) -> dict[str, str]:
    """Figures as they are read, each with its standard error (or deviation) behind it where it has one."""
    errors = {name[:-3]: value for name, value in metrics.items() if name.endswith(ERROR_ENDINGS)}
    return {
        name: f"{value:.4g}" + (f" ± {errors[name]:.2g}" if name in errors else "")
        for name, value in metrics.items()
        if not (name.endswith(ERROR_ENDINGS) and name[:-3] in metrics)
    }


def _explained(metrics: Mapping[str, Mapping[str, str]]) -> list[tuple[str, str, str]]:
    """Name, better direction and meaning of every metric there is; unknown ones last."""
    order = list(MEANINGS)
    names = dict.fromkeys(name for figures in metrics.values() for name in figures)
    known = sorted((name for name in names if _family(name) in MEANINGS), key=lambda name: order.index(_family(name)))
    unknown = [(name, "", "") for name in names if name not in known]
    return [(name, *MEANINGS[_family(name)]) for name in known] + unknown


def _headlines(metrics: Mapping[str, float], headlines: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Value and words for each figure that deserves to be seen first."""
    found = {_family(name): value for name, value in metrics.items() if not name.endswith(ERROR_ENDINGS)}
    for family, (words, form) in headlines.items():
        if family in found:
            yield form.format(found[family]), words


# -- pictures ---------------------------------------------------------------------------------------------------------


def _sheet_uri(sheet: Sheet) -> str:
    height, width, channels = sheet.pixels.shape
    pixels = sheet.pixels
    if max(height, width) > WIDEST_SHEET:
        scale = WIDEST_SHEET / max(height, width)
        image = Image.fromarray(pixels[:, :, 0] if channels == 1 else pixels)
        small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
        pixels = np.asarray(small).reshape(small.height, small.width, channels)
    return _uri(encode_png(pixels), "png")


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# -- plots ------------------------------------------------------------------------------------------------------------


def _curves(journal: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, bytes]]:
    """Title and SVG of every group of the journal's figures, in the order in which they first appear."""
    plots: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in journal:
        for name, value in line.get("metrics", {}).items():
            group, _, member = name.partition("/")
            title = f"Quick judgement: {member}" if group == "quick" else PLOT_TITLES.get(group, group)
            plots.setdefault(title, {}).setdefault(member or group, []).append((line["images"] / 1000, value))
    for title, series in plots.items():
        yield title, _curves_svg(series)


def _curves_svg(series: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("thousands of images")
        for (name, rows), colour, style in zip(series.items(), cycle(COLOURS), cycle(STYLES)):
            kimg, values = zip(*rows, strict=True)
            marker = "o" if len(rows) < 20 else ""
            axes.plot(kimg, values, style, label=name, color=colour, linewidth=1.6, marker=marker, markersize=4)
        heights = [value for rows in series.values() for _, value in rows]
        if min(heights) > 0 and max(heights) / min(heights) > 50:
            axes.set_yscale("log")
        if len(series) > 1:
            figure.legend(frameon=False, loc="outside upper left", ncols=3)
        return _svg(figure)


def _distances_svg(distances: Mapping[str, NDArray[np.float64]]) -> bytes:
    """How the distances of each set are spread: histograms of equal area over the same bins."""
    with mpl.rc_context(_STYLE):
        figure, axes = _axes("distance to the nearest training picture, grey levels")
        bins = np.linspace(0, max(float(values.max()) for values in distances.values()) or 1, 41).tolist()
        for (name, values), colour, style in zip(distances.items(), cycle(COLOURS), cycle(STYLES)):
            axes.hist(
                values,
                bins=bins,
                density=True,
                histtype="step",
                label=name,
                color=colour,
                linestyle=style,
                linewidth=1.6,
            )
        axes.set_yticks([])
        figure.legend(frameon=False, loc="outside upper left", ncols=3)
        return _svg(figure)


_STYLE: Any = {
    "svg.hashsalt": "limner",  # the same plot is the same file
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor")},
}


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 2.7), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Figure) -> bytes:
    """The figure as SVG whose ink follows the reader's choice of a light or dark page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    head, tag, body = buffer.getvalue().replace(INK, "currentColor").partition("<defs>")
    return f"{head}<style>{THEME}</style>{tag}{body}".encode()
