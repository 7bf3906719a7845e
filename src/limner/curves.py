"""Plots of a training run: its figures over images seen, with what happened marked, as SVG for a page or as PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from limner.journal import describe_event

PLOT_TITLES = {
    "loss": "Losses",
    "probability": "Discriminator: mean probability of being real",
    "logit": "Discriminator: mean logit",
    "penalty": "Gradient penalties",
    "gradient": "Gradient norms",
    "update": "Change of the weights in a step, as a share of their size",
    "overfitting": "How much better the discriminator knows training pictures",
    "signal": "Signs of health of the generator",
    "images_per_second": "Images per second",
    "memory_gib": "Memory, GiB",
}
"""What the journal's figures before the stroke are called; others are called by their own name."""

INK = "#010203"  # stands in a plot for the page's own, which is light or dark
LIGHT_INK, DARK_INK = "#1b1b1f", "#ececf1"
THEME = f"svg {{ color: {LIGHT_INK} }} @media (prefers-color-scheme: dark) {{ svg {{ color: {DARK_INK} }} }}"
COLOURS = ("#2b7bba", "#d0632a", "#3f8f4f", "#9a62b8")  # at least 3:1 on white as on the dark paper
GAP = 3.0
"""Usual distances of two points from which on they are not joined."""
STYLES = ("-", "--", "-.", ":")  # told apart without colours, too
NUMBERS_APART = 0.045
"""Share of a plot's width that the numbers of two events keep from each other."""

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a figure -> its points: thousands of images, value."""


@dataclass(frozen=True)
class Event:
    """Something that happened in a training run."""

    number: int
    """Marks it in the plots."""
    images: int
    sentence: str


@dataclass(frozen=True)
class Plot:
    """A group of figures that are drawn together."""

    title: str
    series: Series
    events: Sequence[Event]

    @property
    def alternative(self) -> str:
        """What it shows, in words."""
        ends = (f"{name} from {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in self.series.items())
        marked = f" Marked events: {', '.join(str(e.number) for e in self.events)}." if self.events else ""
        return f"{self.title} over thousands of images: {', '.join(ends)}.{marked}"

    def svg(self) -> bytes:
        """A drawing whose ink follows the reader's choice of a light or dark page."""
        with mpl.rc_context(_style(INK)):
            figure, axes = _axes("thousands of images")
            _draw(axes, self)
            if len(self.series) > 1:
                figure.legend(frameon=False, loc="outside upper left", ncols=3 if len(self.series) <= 3 else 2)
            return _svg(figure)


def events_of(journal: Sequence[Mapping[str, Any]]) -> list[Event]:
    """What happened, in the journal's order, numbered from 1."""
    lines = [line for line in journal if "event" in line]
    return [Event(number, line["images"], _sentence(line)) for number, line in enumerate(lines, start=1)]


def plots_of(journal: Sequence[Mapping[str, Any]]) -> list[Plot]:
    """Every group of the journal's figures, in the order in which they first appear."""
    groups: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for line in journal:
        for name, value in line.get("metrics", {}).items():
            group, _, member = name.partition("/")
            title = f"Quick judgement: {member}" if group == "quick" else PLOT_TITLES.get(group, group)
            groups.setdefault(title, {}).setdefault(member or group, []).append((line["images"] / 1000, value))
    events = events_of(journal)
    return [Plot(title, series, events) for title, series in groups.items()]


def training_png(journal: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Losses and quick judgements one above the other, dark on white; None where the journal has neither."""
    chosen = [plot for plot in plots_of(journal) if plot.title.startswith((PLOT_TITLES["loss"], "Quick judgement"))]
    if not chosen:
        return None
    with mpl.rc_context(_style(LIGHT_INK)):
        figure = Figure(figsize=(7.0, 2.6 * len(chosen)), layout="constrained", facecolor="white", dpi=110)
        for axes, plot in zip(np.ravel(figure.subplots(len(chosen), squeeze=False)), chosen, strict=True):
            _arrange(axes, "thousands of images")
            axes.set_title(plot.title, loc="left", fontsize=10, pad=16)  # above the numbers of events
            _draw(axes, plot)
            if len(plot.series) > 1:
                axes.legend(frameon=False, ncols=3, fontsize=8)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
        return buffer.getvalue()


def distances_svg(distances: Mapping[str, NDArray[np.float64]]) -> bytes:
    """How the distances of each set are spread: histograms of equal area over the same bins."""
    with mpl.rc_context(_style(INK)):
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


# -- events -----------------------------------------------------------------------------------------------------------


def _sentence(line: Mapping[str, Any]) -> str:
    """What happened, for people; an event that nobody foresaw is told as the journal has it."""
    try:
        return _SENTENCES[line["event"]].format_map(line)
    except (KeyError, ValueError):
        return describe_event(dict(line)).replace(f" at {line['images']} images", "", 1)


_SENTENCES = {
    "warning": "Warning: {text}.",
    "resumed": "The training was interrupted, and went on from here.",
    "skipped non-finite steps": "Steps whose figures were not finite, and were skipped: {count:g}.",
    "went back": "The guard went back to here from {from_images:,} images (time {times:g}): {reason}.",
    "gave up": "The guard gave up: {reason}.",
    "stopped early": "Stopped early: it had been best after {best_images:,} images, at {best:.4g}.",
}


# -- drawing ----------------------------------------------------------------------------------------------------------


def _draw(axes: Axes, plot: Plot) -> None:
    longest = max(len(rows) for rows in plot.series.values())
    for (name, rows), colour, style in zip(plot.series.items(), cycle(COLOURS), cycle(STYLES)):
        kimg, values = zip(*rows, strict=True)
        marker = "o" if len(rows) < max(20, longest / 2) else ""
        axes.plot(*_broken(kimg, values), style, label=name, color=colour, linewidth=1.6, marker=marker, markersize=4)
    heights = [value for rows in plot.series.values() for _, value in rows]
    if min(heights) > 0 and max(heights) / min(heights) > 50:
        axes.set_yscale("log")
    ink = mpl.rcParams["text.color"]
    for place in dict.fromkeys(event.images / 1000 for event in plot.events):
        axes.axvline(place, color=ink, linestyle=(0, (1, 2)), linewidth=1.1)
    for place, numbers in _labels(plot.events, *axes.get_xlim()):
        axes.annotate(
            numbers, (place, 1.0), xycoords=("data", "axes fraction"), ha="center", va="bottom", fontsize=8, color=ink
        )


def _broken(kimg: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """The points, with a hole wherever several are lacking: no line is to be drawn where nothing was measured."""
    usual = float(np.median(np.diff(kimg))) if len(kimg) > 2 else math.inf
    points: list[tuple[float, float]] = []
    for place, value in zip(kimg, values, strict=True):
        if points and place - points[-1][0] > GAP * usual:
            points.append((place, math.nan))
        points.append((place, value))
    places, heights = zip(*points, strict=True)
    return list(places), list(heights)


def _labels(events: Sequence[Event], left: float, right: float) -> Iterator[tuple[float, str]]:
    """Where numbers stand above a plot; those of events that lie close together share a place: "3", "3, 7", "3-5"."""
    together: list[list[Event]] = []
    for event in sorted(events, key=lambda event: event.images):
        if together and event.images - together[-1][0].images < NUMBERS_APART * (right - left) * 1000:
            together[-1].append(event)
        else:
            together.append([event])
    for group in together:
        numbers = sorted(event.number for event in group)
        in_a_row = len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1
        yield group[0].images / 1000, f"{numbers[0]}-{numbers[-1]}" if in_a_row else ", ".join(map(str, numbers))


def _style(ink: str) -> dict[Any, Any]:
    return {
        "svg.hashsalt": "limner",  # the same plot is the same file
        **{f"{part}.color": ink for part in ("text", "xtick", "ytick")},
        **{f"axes.{part}": ink for part in ("edgecolor", "labelcolor")},
    }


def _axes(label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.0, 2.7), layout="constrained", facecolor="none")
    axes = figure.add_subplot(facecolor="none")
    _arrange(axes, label)
    return figure, axes


def _arrange(axes: Axes, label: str) -> None:
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _svg(figure: Figure) -> bytes:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    head, tag, body = buffer.getvalue().replace(INK, "currentColor").partition("<defs>")
    return f"{head}<style>{THEME}</style>{tag}{body}".encode()
