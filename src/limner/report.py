"""The report of a model: one HTML file that holds everything it shows, to be opened, mailed or archived."""

from __future__ import annotations

import base64
import io
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

from limner.metric_words import explained, headlines, with_errors
from limner.pixels import encode_png

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
        metrics=explained(shown),
        shown=shown,
        headlines=list(headlines(content.metrics[content.chosen], content.exhibits.headlines)),
        sheets=[(sheet, _sheet_uri(sheet)) for sheet in content.exhibits.sheets],
        sharp=SHARP_SHEET,
        distances=_uri(_distances_svg(content.distances), "svg+xml") if content.distances else "",
        plots=[(title, _uri(svg, "svg+xml")) for title, svg in _curves(content.journal)],
        events=[line for line in content.journal if "event" in line],
    )


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
