"""The report of a model: one HTML file that holds everything it shows, to be opened, mailed or archived."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from limner.curves import distances_svg, events_of, plots_of
from limner.metric_words import explained, headlines, with_errors
from limner.pixels import encode_png

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
    rows: Sequence[str] = ()
    """What stands beside the rows, where they mean something: then all are equally high."""

    @property
    def words(self) -> str:
        """All that is to be read of it where it is not seen."""
        columns = f" Columns: {', '.join(self.headings)}." if self.headings else ""
        return self.alternative + columns + (f" Rows: {', '.join(self.rows)}." if self.rows else "")

    def png(self, *, least: int = 1) -> bytes:
        """As a file: scaled down to WIDEST_SHEET, and up by a whole number where it is narrower than `least`."""
        height, width, channels = self.pixels.shape
        if max(height, width) <= WIDEST_SHEET:
            times = max(1, min(-(-least // width), WIDEST_SHEET // max(height, width)))
            return encode_png(self.pixels.repeat(times, axis=0).repeat(times, axis=1))
        scale = WIDEST_SHEET / max(height, width)
        image = Image.fromarray(self.pixels[:, :, 0] if channels == 1 else self.pixels)
        small = image.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
        return encode_png(np.asarray(small).reshape(small.height, small.width, channels))


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
    specimen: Sheet | None = None
    """The one of the sheets that shows what the model does."""


@dataclass(frozen=True)
class Rival:
    """The champion, to be shown beside the model that was judged."""

    title: str
    """Such as "version 3 of digits-gan"."""
    metrics: Mapping[str, float]
    unlike: Sequence[str] = ()
    """What was done in another way when it was judged; empty where its figures can be compared."""
    same_weights: bool = False
    sheets: Sequence[Sheet] = ()
    notes: Sequence[str] = ()


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
    growth: Sheet | None = None
    """Pictures of the same inputs at several moments of the training."""
    rival: Rival | None = None
    rival_note: str = ""
    """Why there is no champion to compare with."""


@dataclass(frozen=True)
class Compared:
    """A figure of the model beside the champion's."""

    name: str
    better: str
    mine: str
    rivals: str
    verdict: str
    """Which of the two is better, or why nobody can say; empty where the two are not to be compared."""


def render_report(content: ReportContent) -> str:
    """The report as HTML. It refers to nothing outside itself; the same content gives the same text."""
    loader = jinja2.PackageLoader("limner", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = {moment: with_errors(figures, content.protocol) for moment, figures in content.metrics.items()}
    sheets = [*content.exhibits.sheets, *([content.growth] if content.growth else [])]
    rival = content.rival
    return environment.get_template("report.html.j2").render(
        content=content,
        metrics=explained(shown),
        shown=shown,
        headlines=list(headlines(content.metrics[content.chosen], content.exhibits.headlines, content.protocol)),
        sheets=[(sheet, _uri(sheet.png(), "png")) for sheet in sheets],
        sharp=SHARP_SHEET,
        distances=_uri(distances_svg(content.distances), "svg+xml") if content.distances else "",
        plots=[(plot, _uri(plot.svg(), "svg+xml")) for plot in plots_of(content.journal)],
        events=events_of(content.journal),
        compared=list(compared(content.metrics[content.chosen], rival, content.protocol)) if rival else [],
        rival_sheets=[(sheet, _uri(sheet.png(), "png")) for sheet in rival.sheets] if rival else [],
    )


# -- the champion -----------------------------------------------------------------------------------------------------

CLEAR = 2.0
"""Standard errors of a difference from which on it says something."""


def compared(mine: Mapping[str, float], rival: Rival, protocol: Mapping[str, str]) -> Iterator[Compared]:
    """Each figure that says how good a model is, where both have it; `protocol` is the model's."""
    own = with_errors(mine, protocol)
    theirs = with_errors(rival.metrics, {} if rival.unlike else protocol)
    for name, better, _ in explained({"": own}):
        if better and name in theirs:
            verdict = "" if rival.unlike or rival.same_weights else _verdict(name, better, mine, rival.metrics)
            yield Compared(name, better, own[name], theirs[name], verdict)


def _verdict(name: str, better: str, mine: Mapping[str, float], rivals: Mapping[str, float]) -> str:
    """Who is better, where the errors of both leave no doubt; "near 1" is better the nearer."""
    lead = _badness(rivals[name], better) - _badness(mine[name], better)
    if not math.isfinite(lead):
        return ""
    errors = [figures[f"{name}_se"] for figures in (mine, rivals) if f"{name}_se" in figures]
    if len(errors) < 2:
        return "errors unknown"
    if lead == 0 or abs(lead) < CLEAR * math.hypot(*errors):
        return "no clear difference"
    return "this model" if lead > 0 else "the champion"


def _badness(value: float, better: str) -> float:
    return {"lower": value, "higher": -value, "near 1": abs(value - 1)}[better]


def _uri(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
