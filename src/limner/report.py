"""The report of a model: one HTML file that holds everything it shows, to be opened, mailed or archived."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from limner.pixels import encode_png

CURVES = {
    "Losses": ("loss/generator", "loss/discriminator"),
    "What the discriminator thinks (mean probability of being real)": ("score/real", "score/fake"),
    "Gradient penalties": ("penalty/r1", "penalty/r2"),
    "Gradient norms": ("gradient/generator", "gradient/discriminator"),
    "Quick Frechet distance of the averaged product": ("quick/fid", "quick/fd_classifier", "quick/fd_pixels"),
    "Images per second": ("images_per_second",),
}
"""Title of a plot -> the journal's figures in it; a figure that was never written is left out."""


@dataclass(frozen=True)
class Sheet:
    """A picture of the report."""

    title: str
    alternative: str
    """What it shows, for those who cannot see it."""
    pixels: NDArray[np.uint8]
    """uint8 [H, W, C]."""
    caption: str = ""


@dataclass(frozen=True)
class ReportContent:
    """All that a report shows."""

    name: str
    chosen: str
    metrics: Mapping[str, Mapping[str, float]]
    """By moment ("best", "last"), then by name."""
    protocol: Mapping[str, str]
    notes: Sequence[str]
    sheets: Sequence[Sheet]
    journal: Sequence[Mapping[str, Any]]
    lineage: Mapping[str, str]


def render_report(content: ReportContent) -> str:
    """The report as HTML. It refers to nothing outside itself."""
    loader = jinja2.PackageLoader("limner", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.get_template("report.html.j2").render(
        content=content,
        names=list(dict.fromkeys(name for figures in content.metrics.values() for name in figures)),
        sheets=[(sheet, _uri(encode_png(sheet.pixels), "png")) for sheet in content.sheets],
        plots=[(title, _uri(svg, "svg+xml")) for title, svg in _plots(content.journal)],
        events=[line for line in content.journal if "event" in line],
    )


def _plots(journal: Sequence[Mapping[str, Any]]) -> list[tuple[str, bytes]]:
    points = [line for line in journal if "metrics" in line]
    plots = []
    for title, names in CURVES.items():
        series = {
            name: [(line["images"] / 1000, line["metrics"][name]) for line in points if name in line["metrics"]]
            for name in names
        }
        written = {name: rows for name, rows in series.items() if rows}
        if written:
            plots.append((title, _plot(written)))
    return plots


def _plot(series: Mapping[str, Sequence[tuple[float, float]]]) -> bytes:
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for name, rows in series.items():
        kimg, values = zip(*rows, strict=True)
        axes.plot(kimg, values, label=name, linewidth=1.6)
    axes.set_xlabel("thousands of images")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
